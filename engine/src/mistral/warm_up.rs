//! A first answer that nobody waits for.
//!
//! A model's first answer often takes a few times as long as those that follow: weights are paged in, threads
//! and buffers are made, the chat template is read. Whoever asks first would wait for that, and what a
//! replica takes would be learnt wrong, in time and in joules.

use std::time::Duration;

use flotilla_core::ModelName;
use flotilla_core::generate::{
    ChatMessage, EmbedRequest, GenerateInput, GenerateRequest, RequestError, SamplingParams,
};
use flotilla_core::spec::Pipeline;
use futures::StreamExt;

use crate::LoadedModel;

/// How long it may hold a model back that is loaded: a large one is slow for other reasons.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// What is asked: the second answer may still be slow, those that follow hardly are. Two texts, as one
/// that is asked again may be in memory.
const ASKED: [&str; 2] = ["Hello", "Good morning"];
/// Tokens of each: the second one is the first that is decoded.
const TOKENS: u32 = 2;

/// Has `model` answer, for at most the `longest`. What goes wrong is told in the log only: that a model
/// cannot answer this does not mean that it cannot answer others.
pub(super) async fn warm_up(
    model: &dyn LoadedModel,
    name: &ModelName,
    pipeline: Pipeline,
    longest: Duration,
) {
    let answers = async {
        for text in ASKED {
            match pipeline {
                Pipeline::Embedding => embed(model, name, text).await?,
                _ => generate(model, name, text).await?,
            }
        }
        Ok::<_, RequestError>(())
    };
    match tokio::time::timeout(longest, answers).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(model = %name, %error, "it was not warmed up"),
        Err(_) => tracing::debug!(model = %name, "warming it up takes too long"),
    }
}

/// A chat, or the text alone where the model has no template for chats.
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
    match go_on(model, name, chat).await {
        Err(_) => go_on(model, name, GenerateInput::Text(text.into())).await,
        Ok(()) => Ok(()),
    }
}

async fn go_on(
    model: &dyn LoadedModel,
    name: &ModelName,
    input: GenerateInput,
) -> Result<(), RequestError> {
    let request = GenerateRequest {
        sampling: SamplingParams {
            max_tokens: Some(TOKENS),
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
        inputs: vec![text.into()],
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

    /// Notes what it is asked. A chat fails where it `has_no_template`, and nothing ends where it is
    /// `stuck`.
    #[derive(Default)]
    struct FakeModel {
        asked: Mutex<Vec<String>>,
        has_no_template: bool,
        stuck: bool,
    }

    #[async_trait]
    impl LoadedModel for FakeModel {
        async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
            let asked = match request.input {
                GenerateInput::Chat(_) if self.has_no_template => {
                    return Err(RequestError::Engine("no template".into()));
                }
                GenerateInput::Chat(messages) => format!("chat {}", messages[0].content),
                GenerateInput::Text(text) => format!("text {text}"),
            };
            self.asked.lock().push(asked);
            if self.stuck {
                return Ok(stream::pending().boxed());
            }
            Ok(stream::empty().boxed())
        }

        async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
            let asked = format!("embed {}", request.inputs[0]);
            self.asked.lock().push(asked);
            Ok(Embeddings::default())
        }
    }

    async fn asked(model: FakeModel, pipeline: Pipeline, longest: Duration) -> Vec<String> {
        let name = ModelName::new("m").unwrap();
        warm_up(&model, &name, pipeline, longest).await;
        model.asked.into_inner()
    }

    #[tokio::test]
    async fn a_model_is_asked_for_what_it_can_do() {
        let all = asked(FakeModel::default(), Pipeline::Text, LONGEST).await;
        assert_eq!(all, ["chat Hello", "chat Good morning"]);
        let base = FakeModel {
            has_no_template: true,
            ..FakeModel::default()
        };
        let all = asked(base, Pipeline::Text, LONGEST).await;
        assert_eq!(all, ["text Hello", "text Good morning"]);
        let all = asked(FakeModel::default(), Pipeline::Embedding, LONGEST).await;
        assert_eq!(all, ["embed Hello", "embed Good morning"]);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_not_waited_for() {
        let stuck = FakeModel {
            stuck: true,
            ..FakeModel::default()
        };
        let all = asked(stuck, Pipeline::Text, Duration::ZERO).await;
        assert_eq!(all, ["chat Hello"]);
    }
}
