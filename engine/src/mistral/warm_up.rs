//! Computes two short answers after a model was loaded.
//!
//! The first answer of a model often takes several times as long as the next ones: weights are paged in,
//! threads and buffers are created, the chat template is compiled. Without the warm-up the first client
//! would wait for that, and the speed and energy estimates of the replica would start far too high.

use std::time::Duration;

use flotilla_core::ModelName;
use flotilla_core::generate::{
    ChatMessage, EmbedInput, EmbedRequest, GenerateInput, GenerateRequest, RequestError,
    SamplingParams,
};
use flotilla_core::spec::Pipeline;
use futures::StreamExt;

use crate::LoadedModel;

/// How long the warm-up may delay a loaded model. A model that needs longer is slow for other reasons.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The prompts. There are two because the second answer can still be slow; they differ because a prefix
/// cache may hold the first one.
const PROMPTS: [&str; 2] = ["Hello", "Good morning"];
/// Tokens of each answer. The second token is the first one from the decode phase.
const MAX_TOKENS: u32 = 2;

/// Makes `model` answer, for at most `timeout`. Failures are only logged: a model that cannot answer these
/// prompts may still answer others.
pub(super) async fn warm_up(
    model: &dyn LoadedModel,
    name: &ModelName,
    pipeline: Pipeline,
    timeout: Duration,
) {
    let answers = async {
        for text in PROMPTS {
            match pipeline {
                Pipeline::Embedding => embed(model, name, text).await?,
                _ => generate(model, name, text).await?,
            }
        }
        Ok::<_, RequestError>(())
    };
    match tokio::time::timeout(timeout, answers).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(model = %name, %error, "warm-up failed"),
        Err(_) => tracing::debug!(model = %name, "warm-up timed out"),
    }
}

/// Generates from a chat, or from plain text if that fails because the model has no chat template.
async fn generate(
    model: &dyn LoadedModel,
    name: &ModelName,
    text: &str,
) -> Result<(), RequestError> {
    let chat = GenerateInput::Chat(vec![ChatMessage {
        role: "user".into(),
        content: text.into(),
        ..ChatMessage::default()
    }]);
    match generate_from(model, name, chat).await {
        Err(_) => generate_from(model, name, GenerateInput::Text(text.into())).await,
        Ok(()) => Ok(()),
    }
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

    /// Records its prompts. A chat fails if it `has_no_template`, and no answer ends if it `is_stuck`.
    #[derive(Default)]
    struct FakeModel {
        prompts: Mutex<Vec<String>>,
        has_no_template: bool,
        is_stuck: bool,
    }

    #[async_trait]
    impl LoadedModel for FakeModel {
        async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
            let prompt = match request.input {
                GenerateInput::Chat(_) if self.has_no_template => {
                    return Err(RequestError::Engine("no template".into()));
                }
                GenerateInput::Chat(messages) => format!("chat {}", messages[0].content),
                GenerateInput::Text(text) => format!("text {text}"),
                GenerateInput::Tokens(tokens) => format!("tokens {tokens:?}"),
            };
            self.prompts.lock().push(prompt);
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

    async fn prompts(model: FakeModel, pipeline: Pipeline, timeout: Duration) -> Vec<String> {
        let name = ModelName::new("m").unwrap();
        warm_up(&model, &name, pipeline, timeout).await;
        model.prompts.into_inner()
    }

    #[tokio::test]
    async fn warm_up_uses_what_the_model_can_do() {
        let prompts_sent = prompts(FakeModel::default(), Pipeline::Text, TIMEOUT).await;
        assert_eq!(prompts_sent, ["chat Hello", "chat Good morning"]);
        let base = FakeModel {
            has_no_template: true,
            ..FakeModel::default()
        };
        let prompts_sent = prompts(base, Pipeline::Text, TIMEOUT).await;
        assert_eq!(prompts_sent, ["text Hello", "text Good morning"]);
        let prompts_sent = prompts(FakeModel::default(), Pipeline::Embedding, TIMEOUT).await;
        assert_eq!(prompts_sent, ["embed Hello", "embed Good morning"]);
    }

    #[tokio::test]
    async fn stuck_model_is_not_waited_for() {
        let stuck = FakeModel {
            is_stuck: true,
            ..FakeModel::default()
        };
        let prompts_sent = prompts(stuck, Pipeline::Text, Duration::ZERO).await;
        assert_eq!(prompts_sent, ["chat Hello"]);
    }
}
