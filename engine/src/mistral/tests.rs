//! Loads small models and computes answers with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::generate::{
    ChatMessage, FinishReason, GenerateInput, JsonSchemaFormat, OutputConstraint, RequestError,
    Tool,
};
use flotilla_core::spec::ModelSpec;
use serde_json::{Value, json};

use super::MistralEngine;
use crate::test_answers::{answer, chat, load_with, request, spec};
use crate::{LoadError, LoadedModel};

mod broken_models;
mod context;
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

async fn load_spec(spec: ModelSpec) -> Result<Arc<dyn LoadedModel>, LoadError> {
    load_with(&MistralEngine::default(), spec).await
}

async fn load(path: &Path) -> Result<Arc<dyn LoadedModel>, LoadError> {
    load_spec(spec(path)).await
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
