//! Computes two short answers after a model was loaded.
//!
//! The first answer of a model often takes several times as long as the next ones: weights are paged in,
//! threads and buffers are created. Without the warm-up the first client would wait for that, and the speed and
//! energy estimates of the replica would start far too high. It also tells whether the model can answer at all,
//! and how fast it reads.

use std::time::Duration;

use flotilla_core::generate::{
    ChatMessage, EmbedInput, EmbedRequest, GenerateInput, GenerateRequest, RequestError,
    SamplingParams,
};
use flotilla_core::spec::Pipeline;
use flotilla_core::{Bytes, ModelName};
use futures::StreamExt;

use crate::{LoadError, LoadedModel};

/// How long the warm-up of the smallest model may take. A usual one takes less than a second.
const LEAST_TIME: Duration = Duration::from_secs(60);
/// How much longer it may take for each GiB of memory: a large model on a slow processor, whose weights are still
/// on the drive, takes minutes.
const TIME_PER_GIB: Duration = Duration::from_secs(60);
/// The prompts. There are two because the second answer can still be slow; they differ because a prefix
/// cache may hold the first one. The second one is long enough to tell how fast prompts are read.
const PROMPTS: [&str; 2] = [
    "Hello",
    "Good morning. Here is a question about the weather in the mountains: does it rain more on the side that \
     the wind comes from, or on the other one?",
];
/// Tokens of each answer. The second token is the first one from the decode phase.
const MAX_TOKENS: u32 = 2;

/// How long the warm-up of a model with this memory may take, where its load may still take `remaining`.
pub(crate) fn timeout(memory: Bytes, remaining: Duration) -> Duration {
    let gib = memory.0 as f64 / f64::from(1 << 30);
    (LEAST_TIME + TIME_PER_GIB.mul_f64(gib)).min(remaining)
}

/// Makes `model` answer within `timeout`.
///
/// # Errors
/// [`LoadError::FirstAnswer`] when the engine fails, [`LoadError::WarmUp`] when it takes longer,
/// [`LoadError::Engine`] when it can never answer again.
pub(crate) async fn warm_up(
    model: &dyn LoadedModel,
    name: &ModelName,
    pipeline: Pipeline,
    has_template: bool,
    timeout: Duration,
) -> Result<(), LoadError> {
    let answers = async {
        for text in PROMPTS {
            match pipeline {
                Pipeline::Embedding => embed(model, name, text).await?,
                Pipeline::Text => generate(model, name, text, has_template).await?,
            }
        }
        Ok::<_, RequestError>(())
    };
    match tokio::time::timeout(timeout, answers).await {
        Ok(Ok(())) => {}
        // Two tokens of a context cannot be too many but for a model with an unusual template.
        Ok(Err(error @ (RequestError::Invalid { .. } | RequestError::ContextLength(_)))) => {
            tracing::debug!(model = %name, %error, "the model does not take the prompts of the warm-up");
        }
        Ok(Err(error)) => return Err(LoadError::FirstAnswer(error.to_string())),
        Err(_) => return Err(LoadError::WarmUp(timeout.as_secs())),
    }
    match model.fault() {
        Some(fault) => Err(LoadError::Engine(fault)),
        None => Ok(()),
    }
}

/// Generates from a chat, or from plain text if the model has no chat template.
async fn generate(
    model: &dyn LoadedModel,
    name: &ModelName,
    text: &str,
    has_template: bool,
) -> Result<(), RequestError> {
    let input = if has_template {
        GenerateInput::Chat(vec![ChatMessage {
            role: "user".into(),
            content: text.into(),
            ..ChatMessage::default()
        }])
    } else {
        GenerateInput::Text(text.into())
    };
    generate_from(model, name, input).await
}

async fn generate_from(
    model: &dyn LoadedModel,
    name: &ModelName,
    input: GenerateInput,
) -> Result<(), RequestError> {
    let request = GenerateRequest {
        sampling: SamplingParams {
            max_tokens: Some(MAX_TOKENS),
            ..SamplingParams::default()
        },
        stream: true,
        ..GenerateRequest::new(name.clone(), input)
    };
    let mut events = model.generate(request).await?;
    while let Some(event) = events.next().await {
        event?;
    }
    Ok(())
}

async fn embed(model: &dyn LoadedModel, name: &ModelName, text: &str) -> Result<(), RequestError> {
    let request = EmbedRequest {
        model: name.clone(),
        inputs: vec![EmbedInput::Text(text.into())],
        queue_key: Default::default(),
        deadline: None,
    };
    model.embed(request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::GenerateEvents;
    use async_trait::async_trait;
    use flotilla_core::generate::Embeddings;
    use futures::stream;

    /// Records its prompts. Fails with `failure`, and no answer ends if it `is_stuck`.
    #[derive(Default)]
    struct FakeModel {
        prompts: Mutex<Vec<String>>,
        failure: Option<RequestError>,
        is_stuck: bool,
    }

    #[async_trait]
    impl LoadedModel for FakeModel {
        async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
            let prompt = match request.input {
                GenerateInput::Chat(messages) => format!("chat {}", messages[0].content),
                GenerateInput::Text(text) => format!("text {text}"),
                GenerateInput::Tokens(tokens) => format!("tokens {tokens:?}"),
            };
            self.prompts.lock().push(prompt);
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            if self.is_stuck {
                return Ok(stream::pending().boxed());
            }
            Ok(stream::empty().boxed())
        }

        async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
            let EmbedInput::Text(text) = &request.inputs[0] else {
                panic!("the warm-up sends texts");
            };
            let prompt = format!("embed {text}");
            self.prompts.lock().push(prompt);
            Ok(Embeddings::default())
        }
    }

    async fn warm(
        model: &FakeModel,
        pipeline: Pipeline,
        has_template: bool,
        timeout: Duration,
    ) -> Result<(), LoadError> {
        let name = ModelName::new("m").unwrap();
        warm_up(model, &name, pipeline, has_template, timeout).await
    }

    #[tokio::test]
    async fn warm_up_uses_what_the_model_can_do() {
        for (pipeline, has_template, kind) in [
            (Pipeline::Text, true, "chat"),
            (Pipeline::Text, false, "text"),
            (Pipeline::Embedding, false, "embed"),
        ] {
            let model = FakeModel::default();
            assert_eq!(
                warm(&model, pipeline, has_template, LEAST_TIME).await,
                Ok(())
            );
            let expected = PROMPTS.map(|text| format!("{kind} {text}"));
            assert_eq!(*model.prompts.lock(), expected);
        }
    }

    #[tokio::test]
    async fn engine_that_fails_fails_the_load_and_a_refusal_does_not() {
        let fails = async |failure| {
            let model = FakeModel {
                failure: Some(failure),
                ..FakeModel::default()
            };
            warm(&model, Pipeline::Text, true, LEAST_TIME).await
        };
        let failed = fails(RequestError::Engine("DummyLayer".into())).await;
        assert_eq!(failed, Err(LoadError::FirstAnswer("DummyLayer".into())));
        assert!(fails(RequestError::NodeLost("gone".into())).await.is_err());
        let refused = fails(RequestError::invalid("messages", "too short")).await;
        assert_eq!(refused, Ok(()));
    }

    #[test]
    fn large_model_has_more_time_within_that_of_its_load() {
        let seconds = |memory: u64, remaining| {
            timeout(Bytes(memory), Duration::from_secs(remaining)).as_secs()
        };
        assert_eq!(seconds(0, 1_800), 60);
        assert_eq!(seconds(8 << 30, 1_800), 540);
        assert_eq!(seconds(8 << 30, 100), 100);
    }

    #[tokio::test]
    async fn model_that_does_not_answer_fails_its_load() {
        let stuck = FakeModel {
            is_stuck: true,
            ..FakeModel::default()
        };
        let warmed = warm(&stuck, Pipeline::Text, true, Duration::ZERO).await;
        assert_eq!(warmed, Err(LoadError::WarmUp(0)));
        assert_eq!(stuck.prompts.lock().len(), 1);
    }
}
