use futures::stream;

use super::*;

const LIMITS: UpstreamLimits = UpstreamLimits {
    received_bytes: usize::MAX,
    answer_bytes: 1 << 20,
    logprob_bytes: None,
};

async fn collect(pieces: &[&[u8]]) -> Vec<Result<GenerateEvent, RequestError>> {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| Ok(Piece::copy_from_slice(piece)))
        .collect();
    from_pieces(stream::iter(pieces), LIMITS, ServerTimeouts::default())
        .collect()
        .await
}

#[tokio::test]
async fn event_split_at_any_byte_is_parsed() {
    let body = "data: {\"choices\":[{\"text\":\"ä\",\"finish_reason\":\"stop\"}]}\r\n\r\n";
    let whole = collect(&[body.as_bytes()]).await;
    assert_eq!(whole.len(), 3);
    for index in 0..body.len() {
        let (head, tail) = body.as_bytes().split_at(index);
        assert_eq!(collect(&[head, tail]).await, whole);
    }
}

#[tokio::test]
async fn byte_order_mark_does_no_harm() {
    for body in [
        "\u{feff}: comment\n\ndata: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
        "\u{feff} {\"choices\":[{\"finish_reason\":\"stop\"}]}",
    ] {
        let events = collect(&[body.as_bytes()]).await;
        assert!(events.iter().all(Result::is_ok), "{events:?}");
    }
}

#[tokio::test]
async fn event_without_an_end_is_refused() {
    let line = vec![b'a'; 1 << 20];
    let events = collect(&[b"data: ", &line, &line, &line, &line]).await;
    let [Err(RequestError::Upstream(message))] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(message.contains("4194304 bytes"), "{message}");
}

#[tokio::test]
async fn body_that_is_no_answer_is_quoted() {
    for (body, quoted) in [
        ("<html>Gateway</html>", "\"<html>Gateway</html>\""),
        (" \n", "nothing"),
        ("", "nothing"),
        ("{\"choices\": 7}", "7}"),
    ] {
        let events = collect(&[body.as_bytes()]).await;
        let [Err(RequestError::Upstream(message))] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(message.contains(quoted), "{message}");
    }
}

#[tokio::test]
async fn number_of_elements_of_an_answer_is_bounded() {
    let list = |element: &str| vec![element; 1 << 20].join(",");
    let choices = format!(r#"{{"choices":[{}]}}"#, list("{}"));
    let calls = format!(
        r#"{{"choices":[{{"delta":{{"tool_calls":[{}]}}}}]}}"#,
        list("{}")
    );
    for json in [choices, calls] {
        let event = format!("data: {json}\n\n");
        for body in [json, event] {
            let events = collect(&[body.as_bytes()]).await;
            let [Err(RequestError::Upstream(message))] = &events[..] else {
                panic!("{events:?}");
            };
            assert!(message.contains("a list has more than"), "{message}");
        }
    }
    // Texts in parts are joined, and a failure is not parsed beyond its beginning.
    let parts = format!(
        r#"{{"choices":[{{"message":{{"content":[{}]}}}}]}}"#,
        list("{}")
    );
    let events = collect(&[parts.as_bytes()]).await;
    assert!(events.iter().all(Result::is_ok), "{events:?}");
    let failure = format!(r#"{{"error":[{}]}}"#, list("0"));
    let events = collect(&[failure.as_bytes()]).await;
    let [Err(RequestError::Upstream(message))] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(message.starts_with("The server failed: [0,0,"), "{message}");
}

#[tokio::test]
async fn answer_is_complete_after_its_finish_reason() {
    let finished =
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
    let pieces = || stream::iter([Ok(Piece::from(finished))]);
    let broken = pieces().chain(stream::iter([Err(error::interrupted("reset"))]));
    let silent = pieces().chain(stream::pending());
    let endless = stream::repeat_with(|| Ok(Piece::from_static(b"data: {\"choices\":[]}\n\n")));
    let endless = pieces().chain(endless);
    let timeouts = ServerTimeouts {
        after_finish: std::time::Duration::from_millis(10),
        ..ServerTimeouts::default()
    };
    let whole = collect(&[finished.as_bytes()]).await;
    assert!(whole.iter().all(Result::is_ok), "{whole:?}");
    let events: Vec<_> = from_pieces(broken, LIMITS, timeouts).collect().await;
    assert_eq!(events, whole);
    let events: Vec<_> = from_pieces(silent, LIMITS, timeouts).collect().await;
    assert_eq!(events, whole);
    let events: Vec<_> = from_pieces(endless, LIMITS, timeouts).collect().await;
    assert_eq!(events, whole);
}

#[test]
fn size_of_an_event_starts_anew_after_an_empty_line() {
    for line_end in ["\n", "\r\n", "\r"] {
        let mut event = EventSize::default();
        event.add(format!("data: a{line_end}data: b{line_end}").as_bytes());
        assert_eq!(event.bytes, 14);
        event.add(format!("{line_end}xy").as_bytes());
        assert_eq!(event.bytes, 2);
    }
}
