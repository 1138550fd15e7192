//! Loads small models and computes answers with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::ModelName;
use flotilla_core::generate::{
    ChatMessage, FinishReason, GenerateEvent, GenerateInput, GenerateRequest, JsonSchemaFormat,
    OutputConstraint, RequestError, TokenLogprob, Tool, ToolCallDelta,
};
use flotilla_core::spec::{Model, ModelSource, ModelSpec};
use futures::StreamExt;
use serde_json::{Value, json};

use super::MistralEngine;
use crate::{Engine, LoadControl, LoadError, LoadedModel};

mod broken_models;
mod context;
mod memory;
mod reference;

/// A demo model of the repository.
fn demo_model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models")
        .join(name)
}

/// Copies a demo model, so that it can be changed.
fn copy_demo_model(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(demo_model(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Changes a JSON file of a model.
fn edit_json(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn spec(path: &Path) -> ModelSpec {
    ModelSpec {
        source: Some(ModelSource::Path(path.to_owned())),
        ..ModelSpec::default()
    }
}

async fn load_spec(spec: ModelSpec) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let resource = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "m"}, "spec": spec,
    });
    let model: Model = serde_json::from_value(resource).unwrap();
    let engine = MistralEngine::default();
    let control = LoadControl::default();
    engine.load(&model, Arc::new(|_, _| {}), &control).await
}

async fn load(path: &Path) -> Result<Arc<dyn LoadedModel>, LoadError> {
    load_spec(spec(path)).await
}

fn user(content: &str) -> ChatMessage {
    ChatMessage {
        role: "user".into(),
        content: content.into(),
        ..ChatMessage::default()
    }
}

fn chat(content: &str) -> GenerateInput {
    GenerateInput::Chat(vec![user(content)])
}

/// A greedy request for a few tokens.
fn request(input: GenerateInput) -> GenerateRequest {
    let mut request = GenerateRequest::new(ModelName::new("m").unwrap(), input);
    request.sampling.temperature = Some(0.0);
    request.sampling.max_tokens = Some(8);
    request
}

/// A whole answer.
#[derive(Debug, Default)]
struct Answer {
    content: String,
    calls: Vec<ToolCallDelta>,
    logprobs: Vec<TokenLogprob>,
    reason: Option<FinishReason>,
    prompt_tokens: u32,
    completion_tokens: u32,
}

async fn answer(
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
            GenerateEvent::Finished(finished) => answer.reason = Some(finished.reason),
            GenerateEvent::Usage(usage) => {
                answer.prompt_tokens = usage.prompt_tokens;
                answer.completion_tokens = usage.completion_tokens;
            }
        }
    }
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn control_tokens_of_a_client_are_text() {
    let model = load(&demo_model("numbers")).await.unwrap();
    let tokens = async |content: &str| {
        let answer = answer(&model, request(chat(content))).await.unwrap();
        answer.prompt_tokens
    };
    // As a control token it would be one token.
    let (plain, with) = (tokens("4 5").await, tokens("4 5<|assistant|>").await);
    assert!(with > plain + 1, "{with} after {plain}");
    let raw = request(GenerateInput::Text("<|user|> 4 5<|assistant|>".into()));
    let raw = answer(&model, raw).await.unwrap();
    assert_eq!(
        raw.prompt_tokens, plain,
        "control tokens of a raw prompt are meant"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_in_a_format_ends_with_any_end_token() {
    // The vocabulary takes its first special token for the end, which is not the one of its chats.
    let model = load(&demo_model("extract")).await.unwrap();
    let mut request = request(chat("Please send 3 bags of rice to Rome."));
    request.constraint = Some(OutputConstraint::JsonObject);
    request.sampling.max_tokens = Some(200);
    let answer = answer(&model, request).await.unwrap();
    assert_eq!(answer.reason, Some(FinishReason::Stop), "{answer:?}");
    let content: Value = serde_json::from_str(&answer.content).unwrap();
    assert!(content.is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_near_the_end_of_the_context_is_cut_and_no_failure() {
    let model = load(&demo_model("numbers")).await.unwrap();
    let context = model.context_length().unwrap();
    let tool = Tool {
        name: "f".into(),
        ..Tool::default()
    };
    let with = |words: u32| {
        let mut request = request(chat(&"4 ".repeat(words as usize)));
        request.tools = vec![tool.clone()];
        request.sampling.max_tokens = None;
        // Never the end.
        request.sampling.logit_bias = [0, 1, 2, 3].map(|token| (token, -100.0)).into();
        request
    };
    let words = 20;
    let few = answer(&model, with(words)).await.unwrap();
    let rest = context - few.prompt_tokens;
    let mut near = None;
    for more in (0..rest).rev() {
        match answer(&model, with(words + more)).await {
            Ok(answer) => {
                near = Some(answer);
                break;
            }
            Err(error) => assert!(matches!(error, RequestError::ContextLength(_)), "{error:?}"),
        }
    }
    let near = near.unwrap();
    assert!(near.prompt_tokens + 3 >= context, "{near:?}");
    assert_eq!(near.reason, Some(FinishReason::Length));
    assert!(near.calls.is_empty());
}
