//! Loads models and asks them, in tests of several engines.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::ModelName;
use flotilla_core::generate::{
    ChatMessage, FinishReason, GenerateEvent, GenerateInput, GenerateRequest, RequestError,
    TokenLogprob, ToolCallDelta,
};
use flotilla_core::spec::{Model, ModelSource, ModelSpec};
use futures::StreamExt;
use serde_json::json;

use crate::{Engine, LoadControl, LoadError, LoadedModel};

pub(crate) fn spec(path: &Path) -> ModelSpec {
    ModelSpec {
        source: Some(ModelSource::Path(path.to_owned())),
        ..ModelSpec::default()
    }
}

pub(crate) fn model(spec: ModelSpec) -> Model {
    let resource = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "m"}, "spec": spec,
    });
    serde_json::from_value(resource).unwrap()
}

pub(crate) async fn load_with(
    engine: &dyn Engine,
    spec: ModelSpec,
) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let model = model(spec);
    let control = LoadControl::default();
    engine.load(&model, Arc::new(|_, _| {}), &control).await
}

pub(crate) fn user(content: &str) -> ChatMessage {
    ChatMessage {
        role: "user".into(),
        content: content.into(),
        ..ChatMessage::default()
    }
}

pub(crate) fn chat(content: &str) -> GenerateInput {
    GenerateInput::Chat(vec![user(content)])
}

/// A greedy request for a few tokens.
pub(crate) fn request(input: GenerateInput) -> GenerateRequest {
    let mut request = GenerateRequest::new(ModelName::new("m").unwrap(), input);
    request.sampling.temperature = Some(0.0);
    request.sampling.max_tokens = Some(8);
    request
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) content: String,
    pub(crate) calls: Vec<ToolCallDelta>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) reason: Option<FinishReason>,
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    /// The time of the engine that it took.
    pub(crate) computed: Duration,
}

pub(crate) async fn answer(
    model: &Arc<dyn LoadedModel>,
    request: GenerateRequest,
) -> Result<Answer, RequestError> {
    let mut events = model.generate(request).await?;
    let mut answer = Answer::default();
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Delta(delta) => {
                answer.content += &delta.content;
                answer.calls.extend(delta.tool_calls);
                answer.logprobs.extend(delta.logprobs);
            }
            GenerateEvent::Computed(time) => answer.computed = time,
            GenerateEvent::Finished(finished) => answer.reason = Some(finished.reason),
            GenerateEvent::Usage(usage) => {
                answer.prompt_tokens = usage.prompt_tokens;
                answer.completion_tokens = usage.completion_tokens;
            }
        }
    }
    Ok(answer)
}
