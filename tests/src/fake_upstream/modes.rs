//! What the server does in each mode; the table in the parent module describes them.

use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{
    PIECES, TOPICS, call, call_start, chunk, complete, completion, done, embeddings, end, error,
    event, finish, refuse, stream, text, text_completion, texts, usage, whole_call,
};
use super::failures::{stream_failure, transport_failure, unbounded_answer};
use super::server::{ReceivedRequest, Step, head, whole};

/// All modes, `N` standing for a number.
pub(super) const MODES: &[&str] = &[
    "ok",
    "echo",
    "wait-N",
    "pause-N",
    "comments-N",
    "trickle",
    "tools",
    "reasoning",
    "reasoning-content",
    "reasoning-both",
    "refusal",
    "refusal-whole",
    "content-filter",
    "logprobs",
    "ignores-stream",
    "ignores-stream-calls",
    "ignores-stream-typed",
    "untyped",
    "no-call-index",
    "calls-from-one",
    "choice-from-one",
    "object-arguments",
    "no-call-id",
    "nulls",
    "nulls-whole",
    "content-parts",
    "no-finish",
    "no-done",
    "no-usage",
    "drop-after-finish",
    "unknown-finish",
    "drop-every-other",
    "status-N",
    "retry-seconds-N",
    "retry-date-N",
    "context-length",
    "html-error",
    "redirect",
    "drop-before-headers",
    "drop-in-answer",
    "drop-in-event",
    "silent",
    "silent-in-stream",
    "silent-in-answer",
    "html",
    "empty-body",
    "empty-stream",
    "bad-json",
    "bad-utf8",
    "bad-types",
    "deep-json",
    "error-object",
    "error-text",
    "error-event",
    "error-in-answer",
    "error-whole",
    "huge-choice-index",
    "huge-call-index",
    "many-choices",
    "many-calls",
    "endless",
    "endless-reasoning",
    "endless-arguments",
    "endless-calls",
    "endless-comments",
    "endless-event",
    "endless-body",
    "endless-error",
    "embeddings-reversed",
    "embeddings-unnumbered",
    "embeddings-base64",
    "embeddings-few",
    "embeddings-many",
    "embeddings-twice",
    "embeddings-empty",
    "embeddings-uneven",
    "embeddings-nulls",
    TOPICS,
];

/// The steps of the answer to a request.
pub(super) fn answer(request: &ReceivedRequest) -> Vec<Step> {
    let numbered = request.mode.rsplit_once('-');
    let numbered = numbered.and_then(|(mode, number)| Some((mode, number.parse::<u64>().ok()?)));
    if let Some((mode, number)) = numbered {
        numbered_answer(mode, number, request)
    } else {
        transport_failure(request)
            .or_else(|| (request.endpoint == "embeddings").then(|| embeddings_answer(request)))
            .or_else(|| right_answer(request))
            .or_else(|| other_form(request))
            .or_else(|| stream_failure(request))
            .or_else(|| unbounded_answer(request))
            .unwrap_or_else(|| unknown_mode(request))
    }
}

fn unknown_mode(request: &ReceivedRequest) -> Vec<Step> {
    let body = error(&format!("no mode {}", request.mode), &Value::Null);
    vec![
        head(404, "application/json"),
        Step::Piece(body.to_string().into_bytes()),
    ]
}

fn embeddings_answer(request: &ReceivedRequest) -> Vec<Step> {
    let mut steps = whole(&embeddings(&request.mode, &request.body));
    if request.mode == TOPICS && request.body["input"].to_string().contains("slowly") {
        steps.insert(0, Step::Pause(Duration::from_secs(2)));
    }
    steps
}

fn numbered_answer(mode: &str, number: u64, request: &ReceivedRequest) -> Vec<Step> {
    let status = u16::try_from(number).unwrap_or(500);
    let pause = Step::Pause(Duration::from_millis(number));
    match mode {
        "status" => refuse(status, None),
        "retry-seconds" => refuse(status, Some(("retry-after", "7".into()))),
        "retry-date" => refuse(status, Some(("retry-after", date_in_a_minute()))),
        "wait" if request.endpoint == "embeddings" => {
            let mut steps = embeddings_answer(request);
            steps.insert(0, pause);
            steps
        }
        "wait" => {
            let mut steps = complete(texts(request), "stop");
            steps.insert(0, pause);
            steps
        }
        "pause" => {
            let texts = texts(request).into_iter();
            complete(texts.flat_map(|text| [pause.clone(), text]), "stop")
        }
        "comments" => {
            let comment = Step::Piece(b": working\n\n".to_vec());
            let pause = Step::Pause(Duration::from_millis(100));
            let comments = (0..number).flat_map(|_| [comment.clone(), pause.clone()]);
            complete(comments.chain(texts(request)), "stop")
        }
        _ => unknown_mode(request),
    }
}

/// A time in a minute as an HTTP date.
fn date_in_a_minute() -> String {
    let at = std::time::SystemTime::now() + Duration::from_secs(60);
    httpdate::fmt_http_date(at)
}

fn right_answer(request: &ReceivedRequest) -> Option<Vec<Step>> {
    let reasoning = |delta: Value| {
        let delta = event(&chunk(&delta, None));
        complete([delta].into_iter().chain(texts(request)), "stop")
    };
    let steps = match request.mode.as_str() {
        "ok" if request.body["stream"] != true => whole(&text_completion()),
        "ok" => complete(texts(request), "stop"),
        "echo" => complete([text(request, &request.body.to_string())], "stop"),
        "trickle" => trickle(complete(texts(request), "stop")),
        "tools" => complete(
            whole_call(request, &json!(0), "call-1", "Rome"),
            "tool_calls",
        ),
        "reasoning" => reasoning(json!({"reasoning": "Hm."})),
        "reasoning-content" => reasoning(json!({"reasoning_content": "Hm."})),
        "reasoning-both" => reasoning(json!({"reasoning": "Hm.", "reasoning_content": "Hm."})),
        "refusal" => {
            let refusals = ["I cannot", " help with that."].map(|text| json!({"refusal": text}));
            complete(refusals.map(|delta| event(&chunk(&delta, None))), "stop")
        }
        "refusal-whole" => {
            let message = json!({"role": "assistant", "content": null, "refusal": "I cannot help with that."});
            whole(&completion(&message, Some("stop")))
        }
        "content-filter" => complete([text(request, PIECES[0])], "content_filter"),
        "logprobs" => complete(logprobs(), "stop"),
        _ => return None,
    };
    Some(steps)
}

/// The steps with every byte of a piece on its own.
fn trickle(steps: Vec<Step>) -> Vec<Step> {
    let steps = steps.into_iter().flat_map(|step| match step {
        Step::Piece(piece) => piece
            .into_iter()
            .map(|byte| Step::Piece(vec![byte]))
            .collect(),
        step => vec![step],
    });
    steps.collect()
}

/// The two tokens of "€", each with an alternative.
fn logprobs() -> Vec<Step> {
    let token = |content: &str, bytes: &[u8]| {
        let mut chunk = chunk(&json!({"content": content}), None);
        let top = json!([
            {"token": "\u{fffd}", "logprob": -0.1, "bytes": bytes},
            {"token": "a", "logprob": -3.0, "bytes": [97]},
        ]);
        chunk["choices"][0]["logprobs"] = json!({"content": [
            {"token": "\u{fffd}", "logprob": -0.1, "bytes": bytes, "top_logprobs": top},
        ]});
        event(&chunk)
    };
    vec![token("", &[0xe2, 0x82]), token("€", &[0xac])]
}

fn other_form(request: &ReceivedRequest) -> Option<Vec<Step>> {
    let calls = |steps: [Vec<Step>; 2]| complete(steps.concat(), "tool_calls");
    let whole_text = || Step::Piece(text_completion().to_string().into_bytes());
    let steps = match request.mode.as_str() {
        "ignores-stream" => vec![head(200, "application/json"), whole_text()],
        "ignores-stream-typed" => stream([whole_text()]),
        "ignores-stream-calls" => whole(&completion(&two_whole_calls(request), Some("tool_calls"))),
        "untyped" => {
            let mut steps = complete(texts(request), "stop");
            steps[0] = Step::Head {
                status: 200,
                headers: Vec::new(),
            };
            steps
        }
        "no-call-index" => calls([
            whole_call(request, &Value::Null, "call-1", "Rome"),
            whole_call(request, &Value::Null, "call-2", "Oslo"),
        ]),
        "calls-from-one" => calls([
            whole_call(request, &json!(1), "call-1", "Rome"),
            whole_call(request, &json!(2), "call-2", "Oslo"),
        ]),
        "no-call-id" => complete(
            ["Rome", "Oslo"]
                .into_iter()
                .enumerate()
                .map(|(index, city)| {
                    let mut part = call_start(request, &json!(index), "");
                    part["id"] = Value::Null;
                    part["function"]["arguments"] = json!(format!("{{\"city\":\"{city}\"}}"));
                    call(&part)
                }),
            "tool_calls",
        ),
        "object-arguments" => {
            let mut part = call_start(request, &json!(0), "call-1");
            part["function"]["arguments"] = json!({"city": "Rome"});
            complete([call(&part)], "tool_calls")
        }
        "choice-from-one" => {
            let steps = PIECES.map(|piece| {
                let mut chunk = chunk(&json!({"content": piece}), None);
                chunk["choices"][0]["index"] = json!(1);
                event(&chunk)
            });
            let mut last = chunk(&json!({}), Some("stop"));
            last["choices"][0]["index"] = json!(1);
            stream(steps.into_iter().chain([event(&last), usage(), done()]))
        }
        "nulls" => nulls(request),
        "nulls-whole" => whole(&json!({
            "id": null, "object": null, "error": null, "usage": null,
            "choices": [{"index": null, "finish_reason": null, "logprobs": null, "message": {
                "role": null, "content": null, "refusal": null, "reasoning": null,
                "reasoning_content": null, "tool_calls": null, "function_call": null, "audio": null,
            }}],
        })),
        "content-parts" => {
            let parts = PIECES.map(|piece| json!({"type": "text", "text": piece}));
            complete([event(&chunk(&json!({"content": parts}), None))], "stop")
        }
        "no-finish" => stream(texts(request).into_iter().chain([usage(), done()])),
        "no-done" => stream(texts(request).into_iter().chain([finish("stop"), usage()])),
        "no-usage" => stream(texts(request).into_iter().chain([finish("stop"), done()])),
        "drop-after-finish" => stream(
            texts(request)
                .into_iter()
                .chain([finish("stop"), Step::Drop]),
        ),
        "unknown-finish" => complete(texts(request), "eos_token"),
        "drop-every-other" if request.number.is_multiple_of(2) => vec![Step::Drop],
        "drop-every-other" => complete(texts(request), "stop"),
        _ => return None,
    };
    Some(steps)
}

/// The message of a whole answer with two calls, the second with its arguments as an object.
fn two_whole_calls(request: &ReceivedRequest) -> Value {
    let mut first = call_start(request, &Value::Null, "call-1");
    first["function"]["arguments"] = json!("{\"city\":\"Rome\"}");
    let mut second = call_start(request, &Value::Null, "call-2");
    second["function"]["arguments"] = json!({"city": "Oslo"});
    json!({"role": "assistant", "content": null, "tool_calls": [first, second]})
}

/// A right answer with null wherever a value may miss.
fn nulls(request: &ReceivedRequest) -> Vec<Step> {
    let null_chunks = [
        json!({"id": null, "object": null, "choices": null, "usage": null, "error": null}),
        json!({"choices": [{"index": null, "delta": null, "logprobs": null, "finish_reason": null}]}),
        json!({"choices": [{"index": 0, "text": null, "logprobs": {"content": null}, "delta": {
            "role": null, "content": null, "reasoning": null, "reasoning_content": null,
            "refusal": null, "tool_calls": null, "function_call": null,
        }}]}),
        json!({"choices": [{"delta": {"tool_calls": []}}], "usage": {
            "prompt_tokens": null, "completion_tokens": null, "total_tokens": null,
        }}),
    ];
    let nulls = null_chunks.iter().map(event);
    let ends = end("stop");
    stream(nulls.clone().chain(texts(request)).chain(nulls).chain(ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_mode_is_known() {
        for mode in MODES {
            let request = ReceivedRequest {
                mode: mode.replace("-N", "-429"),
                endpoint: "chat/completions".into(),
                body: json!({"model": "m", "stream": true}),
                number: 0,
            };
            let is_embedding = mode.starts_with("embeddings");
            assert_eq!(
                answer(&request) == unknown_mode(&request),
                is_embedding,
                "{mode}"
            );
        }
    }
}
