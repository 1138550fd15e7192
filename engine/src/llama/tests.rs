//! Loads small models and computes answers with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::generate::{
    ChatMessage, FinishReason, GenerateEvent, GenerateInput, GenerateRequest, JsonSchemaFormat,
    OutputConstraint, RequestError,
};
use flotilla_core::spec::{KvCacheType, ModelSpec};
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};

use super::LlamaEngine;
use super::load::load as load_file;
use super::model::LlamaModel;
use crate::test_answers::{Answer, answer, chat, load_with, request, spec};
use crate::{LoadControl, LoadError, LoadedModel};

mod embeddings;
mod gguf_writer;
mod recurrent;
mod reference_models;

const VALUES: &str = include_str!("../mistral/tests/reference/values.json");

/// A model of random weights, of a Llama's shape.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mistral/tests/reference/tiny.gguf")
}

async fn load(spec: ModelSpec) -> Result<Arc<dyn LoadedModel>, LoadError> {
    load_with(&LlamaEngine::default(), spec).await
}

fn tokens(count: u32) -> GenerateInput {
    GenerateInput::Tokens((0..count).map(|index| 20 + index * 7 % 200).collect())
}

/// A request whose answer does not end before its limit.
fn endless(input: GenerateInput, limit: u32) -> GenerateRequest {
    let mut request = request(input);
    request.sampling.max_tokens = Some(limit);
    request.sampling.logit_bias = (0..4).map(|token| (token, -100.0)).collect();
    request.logprobs = Some(2);
    request
}

fn assert_same(one: &Answer, other: &Answer) {
    assert_eq!(one.content, other.content);
    assert_eq!(one.logprobs.len(), other.logprobs.len());
    for (one, other) in one.logprobs.iter().zip(&other.logprobs) {
        assert_eq!(one.bytes, other.bytes);
        assert!(
            (one.logprob - other.logprob).abs() < 0.02,
            "{one:?} {other:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gguf_file_computes_the_reference_values() {
    let values: Value = serde_json::from_str(VALUES).unwrap();
    let messages = values["messages"].as_array().unwrap().iter();
    let messages = messages.map(|message| ChatMessage {
        role: message["role"].as_str().unwrap().to_owned(),
        content: message["content"].as_str().unwrap().to_owned(),
        ..ChatMessage::default()
    });
    let raw = values["prompt"].as_str().unwrap().to_owned();
    let model = load(spec(&tiny())).await.unwrap();
    for (kind, input) in [
        ("chat", GenerateInput::Chat(messages.collect())),
        ("raw", GenerateInput::Text(raw)),
    ] {
        let expected = &values["tiny"][kind];
        let steps = expected["answer"].as_array().unwrap();
        let mut request = request(input);
        request.logprobs = Some(1);
        request.sampling.max_tokens = Some(steps.len() as u32);
        let answer = answer(&model, request).await.unwrap();
        let prompt = expected["tokens"].as_array().unwrap().len();
        assert_eq!(answer.prompt_tokens as usize, prompt, "{kind}");
        assert_eq!(answer.logprobs.len(), steps.len(), "{kind}");
        for (step, logprob) in steps.iter().zip(&answer.logprobs) {
            let difference = f64::from(logprob.logprob) - step["logprob"].as_f64().unwrap();
            assert!(
                difference.abs() < 0.03,
                "{kind}: {logprob:?} instead of {step}"
            );
        }
    }
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_computed_together_are_those_computed_alone() {
    let mut spec = spec(&tiny());
    spec.concurrency = 8;
    let model = load(spec).await.unwrap();
    let inputs: Vec<u32> = (0..8).map(|index| 5 + index * 9).collect();
    let mut alone = Vec::new();
    for count in &inputs {
        alone.push(answer(&model, endless(tokens(*count), 24)).await.unwrap());
    }
    let together = inputs
        .iter()
        .map(|count| answer(&model, endless(tokens(*count), 24)));
    let began = Instant::now();
    let together = join_all(together).await;
    let mut computed = Duration::ZERO;
    for (alone, together) in alone.iter().zip(together) {
        let together = together.unwrap();
        assert_same(alone, &together);
        assert!(together.computed > Duration::ZERO);
        computed += together.computed;
    }
    // The steps are divided among them.
    assert!(computed <= began.elapsed(), "{computed:?}");
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_that_begins_like_another_has_the_same_answer() {
    let common = |rest: &[u32]| {
        let beginning = (0..60).map(|index| 20 + index * 7 % 200);
        GenerateInput::Tokens(beginning.chain(rest.iter().copied()).collect())
    };
    let fresh = load(spec(&tiny())).await.unwrap();
    let expected = answer(&fresh, endless(common(&[31, 32, 33]), 16))
        .await
        .unwrap();
    fresh.unload().await;
    let model = load(spec(&tiny())).await.unwrap();
    for rest in [&[41, 42][..], &[31], &[31, 32, 33], &[31, 32, 33]] {
        let answer = answer(&model, endless(common(rest), 16)).await.unwrap();
        if rest.len() == 3 {
            assert_same(&expected, &answer);
        }
    }
    // At the same time: one reads for all.
    let all = (0..4).map(|_| answer(&model, endless(common(&[31, 32, 33]), 16)));
    for answer in join_all(all).await {
        assert_same(&expected, &answer.unwrap());
    }
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn context_is_not_divided_among_requests() {
    let mut spec = spec(&tiny());
    spec.concurrency = 3;
    spec.options.context_length = Some(128);
    let model = load(spec).await.unwrap();
    assert_eq!(model.context_length(), Some(128));
    for round in 0..3 {
        let full = (0..3).map(|index| {
            let beginning = GenerateInput::Tokens(vec![30 + index + 4 * round; 100]);
            answer(&model, endless(beginning, 1_000))
        });
        for answer in join_all(full).await {
            let answer = answer.unwrap();
            assert_eq!(answer.prompt_tokens + answer.completion_tokens, 128);
            assert_eq!(answer.reason, Some(FinishReason::Length));
        }
    }
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_whose_client_leaves_makes_room() {
    let mut spec = spec(&tiny());
    spec.concurrency = 1;
    let model = load(spec).await.unwrap();
    for _ in 0..10 {
        let mut events = model.generate(endless(tokens(10), 400)).await.unwrap();
        assert!(matches!(
            events.next().await,
            Some(Ok(GenerateEvent::Delta(_)))
        ));
    }
    let answer = answer(&model, endless(tokens(5), 3)).await.unwrap();
    assert_eq!(answer.completion_tokens, 3);
    model.unload().await;
    assert!(model.generate(endless(tokens(5), 3)).await.is_ok());
    let refused = self::answer(&model, endless(tokens(5), 3)).await;
    assert!(refused.is_err(), "an unloaded model answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_freed_when_the_model_ends() {
    let (spec, control) = (spec(&tiny()), LoadControl::default());
    let loaded = load_file(&spec, Arc::new(|_, _| {}), &control)
        .await
        .unwrap();
    let weights = Arc::downgrade(&loaded.model);
    let model: Arc<dyn LoadedModel> = Arc::new(LlamaModel::start(loaded).await.unwrap());
    assert!(weights.upgrade().is_some());
    model.unload().await;
    assert!(weights.upgrade().is_none(), "somebody holds the weights");
    for input in [chat("Hello"), GenerateInput::Text("Hello".into())] {
        let refused = answer(&model, request(input)).await.unwrap_err();
        assert!(matches!(refused, RequestError::NodeLost(_)), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_follows_its_format() {
    let model = load(spec(&tiny())).await.unwrap();
    let mut request = request(chat("Hello"));
    request.sampling.max_tokens = Some(200);
    request.constraint = Some(OutputConstraint::JsonSchema(JsonSchemaFormat {
        schema: json!({"enum": ["yes", "no"]}).to_string(),
        ..JsonSchemaFormat::default()
    }));
    let answer = answer(&model, request).await.unwrap();
    assert!(
        ["\"yes\"", "\"no\""].contains(&&*answer.content),
        "{answer:?}"
    );
    assert_eq!(answer.reason, Some(FinishReason::Stop));
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_prompt_are_scored_as_those_of_an_answer() {
    let model = load(spec(&tiny())).await.unwrap();
    // More than are scored in a step.
    let answered = answer(&model, endless(tokens(80), 6)).await.unwrap();
    let GenerateInput::Tokens(mut prompt) = tokens(80) else {
        panic!("tokens are tokens");
    };
    let mut request = endless(tokens(80), 6);
    let first = answered.logprobs.first().unwrap();
    prompt.push(90);
    request.input = GenerateInput::Tokens(prompt);
    request.prompt_logprobs = true;
    request.sampling.max_tokens = Some(1);
    let mut events = model.generate(request).await.unwrap();
    let Some(Ok(GenerateEvent::Delta(delta))) = events.next().await else {
        panic!("no scores");
    };
    assert_eq!(delta.prompt_logprobs.len(), 81);
    assert_eq!(delta.prompt_logprobs[0].logprob, 0.0);
    // The last but one position is where the answer began.
    assert_eq!(delta.prompt_logprobs[80].top[0].bytes, first.top[0].bytes);
    drop(events);
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn format_of_the_cache_changes_little() {
    let mut spec = spec(&tiny());
    let exact = load(spec.clone()).await.unwrap();
    let expected = answer(&exact, endless(tokens(40), 4)).await.unwrap();
    exact.unload().await;
    // Its heads are too narrow for the blocks of other formats.
    spec.options.kv_cache_type = Some(KvCacheType::Q8);
    let Err(LoadError::Spec(problem)) = load(spec.clone()).await else {
        panic!("loaded");
    };
    assert!(problem.contains("kvCacheType"), "{problem}");
    spec.options.kv_cache_type = Some(KvCacheType::F32);
    let model = load(spec).await.unwrap();
    let answer = answer(&model, endless(tokens(40), 4)).await.unwrap();
    let (one, other) = (&expected.logprobs[0], &answer.logprobs[0]);
    assert!(
        (one.logprob - other.logprob).abs() < 0.2,
        "{one:?} {other:?}"
    );
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_of_an_unknown_architecture_is_named() {
    let mut bytes = std::fs::read(tiny()).unwrap();
    let key = b"general.architecture";
    let found = bytes.windows(key.len()).position(|window| window == key);
    // The type and the length of the text come before it.
    let value = found.unwrap() + key.len() + 4 + 8;
    bytes[value] = b'x';
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = load(spec(&path)).await else {
        panic!("loaded");
    };
    assert!(
        matches!(&error, LoadError::Architecture { name, .. } if name == "xlama"),
        "{error}"
    );
}
