//! The modes in which the server fails, or never ends.

use serde_json::{Value, json};

use super::answers::{
    PIECES, call, call_arguments, call_start, chunk, complete, done, error, event, stream, text,
    whole_call,
};
use super::server::{ReceivedRequest, Step, head, whole};

/// An index that no receiver may size an allocation by.
const HUGE_INDEX: u32 = 3_000_000_000;

/// Failures of the connection and of whole responses. `None` in other modes.
pub(super) fn transport_failure(request: &ReceivedRequest) -> Option<Vec<Step>> {
    let first = text(request, PIECES[0]);
    let second = text(request, PIECES[1]);
    let steps = match request.mode.as_str() {
        "context-length" => {
            let body = error("the prompt is too long", &json!("context_length_exceeded"));
            vec![
                head(400, "application/json"),
                Step::Piece(body.to_string().into_bytes()),
            ]
        }
        "html-error" => vec![head(502, "text/html"), page()],
        "redirect" => vec![Step::Head {
            status: 307,
            headers: vec![("location", format!("/ok/v1/{}", request.endpoint))],
        }],
        "drop-before-headers" => vec![Step::Drop],
        "drop-in-answer" => stream([first, second, Step::Drop]),
        "drop-in-event" => stream([first, Step::Piece(b"data: {\"cho".to_vec()), Step::Drop]),
        "silent" => vec![Step::Silence],
        "silent-in-stream" => stream([Step::Silence]),
        "silent-in-answer" => stream([first, Step::Silence]),
        "html" => vec![head(200, "text/html"), page()],
        "empty-body" => vec![head(200, "application/json")],
        "endless-body" => {
            let start = Step::Piece(b"{\"choices\": [{\"message\": {\"content\": \"".to_vec());
            vec![head(200, "application/json"), start, filler()]
        }
        "endless-error" => vec![head(500, "application/json"), filler()],
        _ => return None,
    };
    Some(steps)
}

fn page() -> Step {
    Step::Piece(b"<html><body><h1>Fake gateway</h1></body></html>".to_vec())
}

fn filler() -> Step {
    Step::Forever(vec![b'a'; 16 << 10])
}

/// Failures within a stream. `None` in other modes.
pub(super) fn stream_failure(request: &ReceivedRequest) -> Option<Vec<Step>> {
    let first = text(request, PIECES[0]);
    let piece = |bytes: &[u8]| Step::Piece(bytes.to_vec());
    let failure = error("out of memory", &Value::Null);
    let steps = match request.mode.as_str() {
        "empty-stream" => stream([done()]),
        "bad-json" => stream([piece(b"data: {\"choices\": [\n\n"), done()]),
        "bad-utf8" => stream([piece(
            b"data: {\"choices\": [{\"text\": \"\xff\xfe\"}]}\n\n",
        )]),
        "bad-types" => stream([event(&json!({"choices": "none", "usage": 7}))]),
        "deep-json" => stream([Step::Piece(
            format!("data: {}\n\n", "[".repeat(100_000)).into_bytes(),
        )]),
        "error-object" => stream([event(&failure), done()]),
        "error-text" => stream([event(&json!({"error": "out of memory"})), done()]),
        "error-event" => stream([piece(
            b"event: error\ndata: {\"message\": \"out of memory\", \"code\": 500}\n\n",
        )]),
        "error-in-answer" => stream([first, event(&failure), done()]),
        "error-whole" => whole(&failure),
        _ => return None,
    };
    Some(steps)
}

/// Answers with numbers and sizes out of bounds. `None` in other modes.
pub(super) fn unbounded_answer(request: &ReceivedRequest) -> Option<Vec<Step>> {
    let forever = |step: Step| match step {
        Step::Piece(piece) => Step::Forever(piece),
        step => step,
    };
    let long_text = "abcdefgh".repeat(512);
    let start = call(&call_start(request, &json!(0), "call-1"));
    let steps = match request.mode.as_str() {
        "huge-choice-index" => {
            let mut chunk = chunk(&json!({"content": PIECES[0]}), Some("stop"));
            chunk["choices"][0]["index"] = json!(HUGE_INDEX);
            stream([event(&chunk), done()])
        }
        "huge-call-index" => complete(
            whole_call(request, &json!(HUGE_INDEX), "call-1", "Rome"),
            "tool_calls",
        ),
        "many-choices" => {
            let choice =
                |index| json!({"index": index, "delta": {"content": "a"}, "finish_reason": "stop"});
            let choices: Vec<_> = (0..10_000).map(choice).collect();
            stream([event(&json!({"choices": choices})), done()])
        }
        "many-calls" => complete(
            (0..10_000).map(|index| {
                call(&call_start(
                    request,
                    &json!(index),
                    &format!("call-{index}"),
                ))
            }),
            "tool_calls",
        ),
        "endless" => stream([forever(text(request, &long_text))]),
        "endless-reasoning" => stream([forever(event(&chunk(
            &json!({"reasoning_content": long_text}),
            None,
        )))]),
        "endless-arguments" => {
            stream([start, forever(call(&call_arguments(&json!(0), &long_text)))])
        }
        // Without an index or an id every call with a name is a new one.
        "endless-calls" => {
            let part = json!({"function": {"name": "f", "arguments": "{}"}});
            stream([forever(call(&part))])
        }
        "endless-comments" => stream([Step::Forever(b": working\n\n".repeat(512))]),
        "endless-event" => stream([Step::Piece(b"data: ".to_vec()), filler()]),
        _ => return None,
    };
    Some(steps)
}
