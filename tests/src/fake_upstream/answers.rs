//! The pieces that answers are made of.

use serde_json::{Value, json};

use super::server::{ReceivedRequest, Step, head};

/// The text of an answer.
pub(super) const PIECES: [&str; 3] = ["Hello", " from", " upstream."];

/// An event with this data.
pub(super) fn event(data: &Value) -> Step {
    Step::Piece(format!("data: {data}\n\n").into_bytes())
}

/// The last event of a stream.
pub(super) fn done() -> Step {
    Step::Piece(b"data: [DONE]\n\n".to_vec())
}

/// The start of an event stream, then these steps.
pub(super) fn stream(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut answer = vec![head(200, "text/event-stream")];
    answer.extend(steps);
    answer
}

/// A chunk of the first choice.
pub(super) fn chunk(delta: &Value, finish_reason: Option<&str>) -> Value {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    json!({"id": "fake", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [choice]})
}

/// A piece of text, in the form of the request's endpoint.
pub(super) fn text(request: &ReceivedRequest, text: &str) -> Step {
    if request.endpoint == "completions" {
        let choice = json!({"index": 0, "text": text, "finish_reason": null});
        event(&json!({"id": "fake", "object": "text_completion", "choices": [choice]}))
    } else {
        event(&chunk(&json!({"role": "assistant", "content": text}), None))
    }
}

/// The pieces of [`PIECES`].
pub(super) fn texts(request: &ReceivedRequest) -> Vec<Step> {
    PIECES.iter().map(|piece| text(request, piece)).collect()
}

/// The chunk with a finish reason.
pub(super) fn finish(reason: &str) -> Step {
    event(&chunk(&json!({}), Some(reason)))
}

/// The chunk with the usage.
pub(super) fn usage() -> Step {
    event(&json!({"choices": [], "usage": usage_field()}))
}

fn usage_field() -> Value {
    json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})
}

/// The events that end a right answer.
pub(super) fn end(reason: &str) -> [Step; 3] {
    [finish(reason), usage(), done()]
}

/// A right streamed answer of these steps.
pub(super) fn complete(steps: impl IntoIterator<Item = Step>, reason: &str) -> Vec<Step> {
    stream(steps.into_iter().chain(end(reason)))
}

/// The body of an answer that is not streamed.
pub(super) fn completion(message: &Value, reason: Option<&str>) -> Value {
    let text = message["content"].clone();
    let choice = json!({"index": 0, "message": message, "text": text, "finish_reason": reason, "logprobs": null});
    json!({"id": "fake", "object": "chat.completion", "created": 1, "model": "fake", "choices": [choice], "usage": usage_field()})
}

/// The body of a right text answer that is not streamed.
pub(super) fn text_completion() -> Value {
    let message = json!({"role": "assistant", "content": PIECES.concat()});
    completion(&message, Some("stop"))
}

/// A chunk with one part of a tool call.
pub(super) fn call(part: &Value) -> Step {
    event(&chunk(&json!({"tool_calls": [part]}), None))
}

/// The first part of a tool call, with this index if it is not null.
pub(super) fn call_start(request: &ReceivedRequest, index: &Value, id: &str) -> Value {
    let name = request.body["tools"][0]["function"]["name"].as_str();
    let function = json!({"name": name.unwrap_or("f"), "arguments": ""});
    let mut part = json!({"id": id, "type": "function", "function": function});
    if !index.is_null() {
        part["index"] = index.clone();
    }
    part
}

/// More arguments of a tool call, with this index if it is not null.
pub(super) fn call_arguments(index: &Value, arguments: &str) -> Value {
    let mut part = json!({"function": {"arguments": arguments}});
    if !index.is_null() {
        part["index"] = index.clone();
    }
    part
}

/// The three pieces of a tool call.
pub(super) fn whole_call(
    request: &ReceivedRequest,
    index: &Value,
    id: &str,
    city: &str,
) -> Vec<Step> {
    vec![
        call(&call_start(request, index, id)),
        call(&call_arguments(index, "{\"city\":")),
        call(&call_arguments(index, &format!("\"{city}\"}}"))),
    ]
}

/// An error in OpenAI's form.
pub(super) fn error(message: &str, code: &Value) -> Value {
    json!({"error": {"message": message, "type": "fake_error", "param": null, "code": code}})
}

/// An error with a status and further headers.
pub(super) fn refuse(status: u16, header: Option<(&'static str, String)>) -> Vec<Step> {
    let mut headers = vec![("content-type", "application/json".to_owned())];
    headers.extend(header);
    let body = error(&format!("status {status}"), &Value::Null);
    vec![
        Step::Head { status, headers },
        Step::Piece(body.to_string().into_bytes()),
    ]
}

/// The response to a request for embeddings, in this mode.
pub(super) fn embeddings(mode: &str, body: &Value) -> Value {
    let inputs = match &body["input"] {
        Value::Array(inputs) => inputs.len(),
        _ => 1,
    };
    let count = match mode {
        "embeddings-few" => inputs - 1,
        "embeddings-many" => inputs + 1,
        _ => inputs,
    };
    let mut data: Vec<Value> = (0..count).map(|index| embedding(mode, index)).collect();
    if mode == TOPICS {
        for (item, text) in data
            .iter_mut()
            .zip(body["input"].as_array().into_iter().flatten())
        {
            item["embedding"] = topics(text.as_str().unwrap_or_default());
        }
    }
    if mode == "embeddings-reversed" {
        data.reverse();
    }
    json!({"object": "list", "data": data, "model": "fake", "usage": {"prompt_tokens": 3, "total_tokens": 3}})
}

/// The mode that makes embeddings by the topic of a text.
pub(super) const TOPICS: &str = "embeddings-topics";

/// An embedding with a direction for each of two topics.
fn topics(text: &str) -> Value {
    let has = |words: &[&str]| f32::from(u8::from(words.iter().any(|word| text.contains(word))));
    let bank = has(&["bank", "account", "card", "bill", "zork"]);
    let travel = has(&["travel", "flight", "hotel", "visa", "plim"]);
    json!([bank, travel, 0.1])
}

fn embedding(mode: &str, index: usize) -> Value {
    let vector = match mode {
        // The little-endian bytes of [0.0, 1.0].
        "embeddings-base64" => json!("AAAAAAAAgD8="),
        "embeddings-empty" => json!([]),
        "embeddings-nulls" => Value::Null,
        "embeddings-uneven" => json!(vec![1.0; index + 1]),
        _ => json!([index as f32, 1.0]),
    };
    let mut item = json!({"object": "embedding", "embedding": vector});
    match mode {
        "embeddings-unnumbered" => {}
        "embeddings-twice" => item["index"] = json!(0),
        _ => item["index"] = json!(index),
    }
    item
}
