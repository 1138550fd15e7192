use serde_json::{Value, json};

use super::*;

const LIMITS: UpstreamLimits = UpstreamLimits {
    received_bytes: usize::MAX,
    answer_bytes: 1_000,
    logprob_bytes: Some(1_000),
};

/// The events of these chunks.
fn answer(chunks: &[Value], end: StreamEnd) -> Result<Vec<GenerateEvent>, RequestError> {
    answer_within(LIMITS, chunks, end)
}

fn answer_within(
    limits: UpstreamLimits,
    chunks: &[Value],
    end: StreamEnd,
) -> Result<Vec<GenerateEvent>, RequestError> {
    let mut answer = UpstreamAnswer::new(limits);
    let mut events = Vec::new();
    for chunk in chunks {
        events.extend(answer.add(serde_json::from_value(chunk.clone()).unwrap())?);
    }
    events.extend(answer.end(end)?);
    Ok(events)
}

fn delta(delta: &Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

/// All deltas joined, the finish reason and the usage.
fn joined(events: Vec<GenerateEvent>) -> (ChoiceDelta, FinishReason, Usage) {
    let mut all = ChoiceDelta::default();
    let (mut reason, mut usage) = (None, None);
    for event in events {
        match event {
            GenerateEvent::Delta(delta) => {
                all.content += &delta.content;
                all.reasoning += &delta.reasoning;
                all.refusal += &delta.refusal;
                all.tool_calls.extend(delta.tool_calls);
                all.logprobs.extend(delta.logprobs);
            }
            GenerateEvent::Computed(_) => panic!("another server does not say so"),
            GenerateEvent::Finished(end) => assert!(reason.replace(end.reason).is_none()),
            GenerateEvent::Usage(last) => assert!(usage.replace(last).is_none()),
        }
    }
    (all, reason.unwrap(), usage.unwrap())
}

fn complete(chunks: &[Value]) -> (ChoiceDelta, FinishReason, Usage) {
    joined(answer(chunks, StreamEnd::Done).unwrap())
}

fn error(chunks: &[Value], end: StreamEnd) -> String {
    match answer(chunks, end) {
        Err(RequestError::Upstream(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nulls_are_missing_values() {
    let nulls = [
        json!({"choices": null, "usage": null, "error": null}),
        json!({"choices": [{"index": null, "delta": null, "logprobs": null, "finish_reason": null}]}),
        json!({"choices": [{"text": null, "delta": {"role": null, "content": null, "reasoning": null,
            "reasoning_content": null, "refusal": null, "tool_calls": null}}]}),
        json!({"choices": [], "usage": {"prompt_tokens": null, "completion_tokens": null}}),
        delta(&json!({"content": "a"})),
        json!({"choices": [{"delta": {"tool_calls": [{"index": null, "id": null, "type": null,
            "function": {"name": "f", "arguments": null}}, {"index": 0, "function": null}]}}]}),
    ];
    let (all, reason, usage) = complete(&nulls);
    assert_eq!(all.content, "a");
    assert_eq!(all.tool_calls[0].name.as_deref(), Some("f"));
    assert_eq!(reason, FinishReason::ToolCalls);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (0, 2));
}

#[test]
fn whole_answer_is_taken_like_a_streamed_one() {
    let whole = json!({
        "choices": [{"index": 0, "finish_reason": "stop", "message": {
            "content": [{"type": "text", "text": "Hel"}, {"type": "thinking"}, {"text": "lo"}],
            "reasoning": "Hm.", "refusal": null, "tool_calls": [],
        }}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    });
    let (all, reason, usage) = complete(&[whole]);
    assert_eq!((&*all.content, &*all.reasoning), ("Hello", "Hm."));
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 4));
    let text = json!({"choices": [{"text": "eight ch", "finish_reason": "length"}]});
    let (all, reason, usage) = complete(&[text]);
    assert_eq!((&*all.content, reason), ("eight ch", FinishReason::Length));
    assert_eq!(usage.completion_tokens, 2);
}

#[test]
fn reasoning_of_either_name_is_taken_once() {
    for fields in [
        json!({"reasoning": "Hm."}),
        json!({"reasoning_content": "Hm."}),
        json!({"reasoning": "Hm.", "reasoning_content": "Hm."}),
        json!({"reasoning": "Hm.", "reasoning_content": ""}),
    ] {
        assert_eq!(complete(&[delta(&fields)]).0.reasoning, "Hm.", "{fields}");
    }
}

#[test]
fn finish_reasons_are_translated() {
    for (name, reason) in [
        ("stop", FinishReason::Stop),
        ("eos_token", FinishReason::Stop),
        ("length", FinishReason::Length),
        ("model_length", FinishReason::Length),
        ("tool_calls", FinishReason::ToolCalls),
        ("content_filter", FinishReason::ContentFilter),
    ] {
        let end = json!({"choices": [{"delta": {"content": "a"}, "finish_reason": name}]});
        // What comes after the end is not part of the answer.
        let late = delta(&json!({"content": "b"}));
        let (all, finish, _) = complete(&[end, late]);
        assert_eq!((&*all.content, finish), ("a", reason), "{name}");
    }
    let aborted = json!({"choices": [{"finish_reason": "error"}]});
    assert!(error(&[aborted], StreamEnd::Done).contains("gave up"));
    // Some servers send an empty one with every chunk.
    let open = json!({"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]});
    assert!(error(&[open], StreamEnd::Closed).contains("interrupted"));
}

#[test]
fn answer_that_is_not_complete_is_an_error() {
    let part = delta(&json!({"content": "a"}));
    assert!(
        error(std::slice::from_ref(&part), StreamEnd::Closed).contains("without a finish reason")
    );
    let broken = StreamEnd::Broken(error::interrupted("reset"));
    assert!(error(&[part], broken).contains("reset"));
    assert!(error(&[], StreamEnd::Done).contains("no choice"));
    assert!(error(&[json!({"usage": {}})], StreamEnd::Closed).contains("no choice"));
}

#[test]
fn failure_within_the_answer_is_an_error() {
    for failure in [
        json!({"error": {"message": "out of memory", "code": 500}}),
        json!({"error": "out of memory"}),
        json!({"object": "error", "message": "out of memory"}),
    ] {
        let message = error(&[failure], StreamEnd::Done);
        assert_eq!(message, "The server failed: out of memory");
    }
}

#[test]
fn what_was_not_requested_is_refused() {
    // The number itself does not matter.
    let numbered = |index: u64| json!({"choices": [{"index": index, "delta": {"content": "a"}}]});
    for index in [0, 1, 3_000_000_000] {
        let events = answer(&[numbered(index), numbered(index)], StreamEnd::Done).unwrap();
        let GenerateEvent::Delta(first) = &events[0] else {
            panic!("{events:?}");
        };
        assert_eq!(first.choice, 0);
    }
    let unnumbered = json!({"choices": [{"delta": {"content": "a"}}, {}]});
    for chunks in [&[numbered(0), numbered(1)][..], &[unnumbered]] {
        let message = error(chunks, StreamEnd::Done);
        assert!(message.contains("several choices"), "{message}");
    }
}

#[test]
fn size_of_texts_and_arguments_is_bounded() {
    let long = "x".repeat(400);
    for fields in [
        json!({"content": long}),
        json!({"reasoning": long}),
        json!({"refusal": long}),
        json!({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": long}}]}),
    ] {
        let chunk = delta(&fields);
        assert!(answer(&[chunk.clone(), chunk.clone()], StreamEnd::Done).is_ok());
        let message = error(&[chunk.clone(), chunk.clone(), chunk], StreamEnd::Done);
        assert!(message.contains("more than 1000 bytes"), "{message}");
    }
}

#[test]
fn log_probabilities_are_bounded_and_dropped_if_not_requested() {
    let chunk =
        |tokens: &[Value]| json!({"choices": [{"delta": {}, "logprobs": {"content": tokens}}]});
    let token = json!({"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "a"}]});
    let few = chunk(std::slice::from_ref(&token));
    assert_eq!(complete(std::slice::from_ref(&few)).0.logprobs.len(), 1);
    // Tokens without a text take memory, too.
    for token in [token, json!({})] {
        let tokens = vec![token; 20];
        let message = error(&[chunk(&tokens)], StreamEnd::Done);
        assert!(
            message.contains("1000 bytes of log-probabilities"),
            "{message}"
        );
        let one_by_one: Vec<_> = tokens.chunks(1).map(chunk).collect();
        assert_eq!(error(&one_by_one, StreamEnd::Done), message);
    }
    let unrequested = UpstreamLimits {
        logprob_bytes: None,
        ..LIMITS
    };
    let events = answer_within(unrequested, &[few], StreamEnd::Done).unwrap();
    let [GenerateEvent::Finished(_), GenerateEvent::Usage(_)] = &events[..] else {
        panic!("{events:?}");
    };
}

#[test]
fn call_parts_that_add_nothing_make_no_events() {
    let chunks = vec![delta(&json!({"tool_calls": [{}, {"index": 0}, {"id": ""}]})); 100];
    let events = answer(&chunks, StreamEnd::Done).unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
}
