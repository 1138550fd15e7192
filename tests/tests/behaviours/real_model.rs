//! What users do with a pretrained chat model. What it says is its own affair; how it is answered is not.
//!
//! The answers have few tokens, since mistral.rs writes about 20 a second on two cores.

use flotilla_tests::{Api, Cluster, Mode, chat_model};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::fixtures::CHAT_PATH;

const MODEL: &str = "pretrained";

/// Starts a node that serves the model with an engine, in a process of its own.
async fn serve_model(engine: &str) -> (Cluster, Api) {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let mut model = chat_model(MODEL);
    model["spec"]["engine"] = engine.into();
    api.apply(&model).await;
    cluster.wait_for_replicas(MODEL, 1).await;
    assert!(cluster.runner("n1", MODEL) > 0);
    (cluster, api)
}

/// Sends a chat request with greedy sampling and these further fields, which must be answered.
async fn ask(api: &Api, messages: &Value, max_tokens: u64, further: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "messages": messages, "max_tokens": max_tokens, "temperature": 0,
    });
    for (field, value) in further.as_object().unwrap() {
        body[field] = value.clone();
    }
    let response = api.post(CHAT_PATH, &body).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Checks that an answer has text without control tokens, an end that fits its length, and a usage that
/// adds up. Returns the text.
fn check_text(answer: &Value, max_tokens: u64) -> String {
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(!text.trim().is_empty(), "{answer}");
    assert!(!text.contains("<|"), "{answer}");
    let tokens = |field: &str| answer["usage"][field].as_u64().unwrap();
    let completion = tokens("completion_tokens");
    let total = tokens("prompt_tokens") + completion;
    assert_eq!(tokens("total_tokens"), total, "{answer}");
    // The end token counts, so that an answer may also end by itself with its last token.
    match choice["finish_reason"].as_str() {
        Some("length") => assert_eq!(completion, max_tokens, "{answer}"),
        Some("stop") => assert!((1..=max_tokens).contains(&completion), "{answer}"),
        _ => panic!("{answer}"),
    }
    text.to_owned()
}

#[tokio::test]
async fn conversation_of_ten_turns_is_answered_in_each() {
    hold_a_conversation("llama").await;
}

#[tokio::test]
async fn conversation_of_ten_turns_is_answered_in_each_by_mistral() {
    hold_a_conversation("mistral").await;
}

async fn hold_a_conversation(engine: &str) {
    const TOKENS: u64 = 12;
    let (cluster, api) = serve_model(engine).await;
    let mut messages = json!([{"role": "system", "content": "Answer in one short sentence."}]);
    let mut last_prompt = 0;
    for turn in [
        "Hello, who are you?",
        "My name is Ada and I like trains.",
        "What is my name?",
        "Tell me a fact about trains.",
        "And another one.",
        "Welcher Zug ist der schnellste? Antworte auf Deutsch.",
        "How fast is it?",
        "Write a Python function that adds two numbers.",
        "Thank you.",
        "Goodbye!",
    ] {
        let list = messages.as_array_mut().unwrap();
        list.push(json!({"role": "user", "content": turn}));
        let answer = ask(&api, &messages, TOKENS, json!({})).await;
        let text = check_text(&answer, TOKENS);
        let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(prompt > last_prompt, "the prompt does not grow: {answer}");
        last_prompt = prompt;
        let list = messages.as_array_mut().unwrap();
        list.push(json!({"role": "assistant", "content": text}));
    }
    cluster.stop().await;
}

#[tokio::test]
async fn answers_are_in_the_shape_that_was_asked_for() {
    ask_for_shapes("llama").await;
}

#[tokio::test]
async fn answers_are_in_the_shape_that_was_asked_for_by_mistral() {
    ask_for_shapes("mistral").await;
}

async fn ask_for_shapes(engine: &str) {
    let (cluster, api) = serve_model(engine).await;

    let german = user("Nenne drei große Städte in Österreich.");
    check_text(&ask(&api, &german, 16, json!({})).await, 16);
    let code = user("Write a Python function that adds two numbers.");
    let text = check_text(&ask(&api, &code, 32, json!({})).await, 32);
    assert!(text.contains("def "), "{text}");

    let question = user("Give me a JSON object with the name and age of a person.");
    let format = json!({"response_format": {"type": "json_object"}});
    let answer = ask(&api, &question, 96, format).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    let value: Value = serde_json::from_str(&check_text(&answer, 96)).unwrap();
    assert!(value.is_object(), "{value}");

    let parameters = json!({
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"], "additionalProperties": false,
    });
    let tool =
        json!({"type": "function", "function": {"name": "weather", "parameters": parameters}});
    let question = user("What is the weather in Paris?");
    let tools = json!({"tools": [tool], "tool_choice": "required"});
    let answer = ask(&api, &question, 64, tools).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "weather", "{answer}");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["city"].is_string(), "{arguments}");
    cluster.stop().await;
}

#[tokio::test]
async fn long_prompt_and_eight_requests_at_once_are_all_answered() {
    ask_at_once("llama").await;
}

#[tokio::test]
async fn long_prompt_and_eight_requests_at_once_are_all_answered_by_mistral() {
    ask_at_once("mistral").await;
}

async fn ask_at_once(engine: &str) {
    let (cluster, api) = serve_model(engine).await;
    let sentences = "The ship sailed over the wide blue sea for many days. ".repeat(122);
    let question = user(&format!("{sentences}\nWhat did the ship do?"));
    let answer = ask(&api, &question, 8, json!({})).await;
    check_text(&answer, 8);
    let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!((1_450..1_550).contains(&prompt), "{answer}");

    let questions: Vec<_> = (2..10)
        .map(|n| user(&format!("Name {n} animals.")))
        .collect();
    let requests = questions
        .iter()
        .map(|question| ask(&api, question, 12, json!({"logprobs": true})));
    let together: Vec<_> = join_all(requests).await;
    for (question, answer) in questions.iter().zip(together) {
        // Each is the answer to its own question. Sums of other lengths are rounded otherwise, so that the model may
        // go on with another word than alone.
        check_text(&answer, 12);
        let alone = ask(
            &api,
            question,
            1,
            json!({"logprobs": true, "top_logprobs": 20}),
        )
        .await;
        let first = |answer: &Value| answer["choices"][0]["logprobs"]["content"][0].clone();
        let (together, alone) = (first(&answer), first(&alone));
        let expected = alone["top_logprobs"].as_array().unwrap().iter();
        let expected = expected
            .clone()
            .find(|token| token["token"] == together["token"]);
        let logprob = |token: &Value| token["logprob"].as_f64().unwrap();
        let expected = logprob(expected.unwrap_or_else(|| panic!("{together} not in {alone}")));
        assert!(
            (logprob(&together) - expected).abs() < 0.3,
            "{together}, alone {alone}"
        );
    }
    cluster.stop().await;
}
