//! Streams whose answer takes long to begin: they are kept alive, and still say all that they would have
//! said in their headers.

use flotilla_tests::{Cluster, Mode, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::{CHAT_PATH, chat_body, decision_with_id, header};

/// The comment that keeps a stream alive.
const COMMENT: &str = ": keep-alive";

/// Starts a node with the model `m`, whose first token takes this long, and a controller that keeps streams
/// alive every 100 ms.
async fn slow_model(first_token_ms: u32, controller_args: &[&str]) -> Cluster {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--stream-keep-alive", "0.1"])
        .controller_args(controller_args)
        .agents(["n1"])
        .start()
        .await;
    let options = json!({"outputTokens": 2, "timeToFirstTokenMs": first_token_ms});
    cluster
        .api()
        .apply(&simulated_model("m", 1, &options))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    cluster
}

fn streamed() -> Value {
    let mut body = chat_body("m", json!({}));
    body["stream"] = json!(true);
    body
}

/// Splits the text of a stream into its comments and the JSON of its frames, without `[DONE]`.
fn comments_and_frames(text: &str) -> (usize, Vec<Value>) {
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    let comments = events.iter().filter(|event| **event == COMMENT).count();
    let data = events
        .iter()
        .filter_map(|event| event.strip_prefix("data: "));
    let frames = data.filter(|data| *data != "[DONE]");
    let frames = frames.map(|frame| serde_json::from_str(frame).unwrap());
    (comments, frames.collect())
}

#[tokio::test]
async fn silent_stream_is_kept_alive_and_says_last_who_answered() {
    let cluster = slow_model(1_500, &[]).await;
    let api = cluster.api();
    let response = api.post(CHAT_PATH, &streamed()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-flotilla-node"), "");
    let text = response.text().await.unwrap();
    assert!(text.starts_with(COMMENT), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let (comments, frames) = comments_and_frames(&text);
    assert!(comments >= 3, "{text}");
    let (last, others) = frames.split_last().unwrap();
    assert!(
        others.iter().all(|frame| frame.get("flotilla").is_none()),
        "{text}"
    );
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    let served_by = &last["flotilla"];
    assert_eq!(
        (&served_by["model"], &served_by["node"]),
        (&json!("m"), &json!("n1"))
    );
    assert_eq!(served_by["attempts"], 1);
    decision_with_id(&api, served_by["decision"].as_str().unwrap()).await;

    // An answer that is not streamed has its headers, and nothing before it.
    let response = api.post(CHAT_PATH, &chat_body("m", json!({}))).await;
    assert_eq!(header(&response, "x-flotilla-node"), "n1");
    let text = response.text().await.unwrap();
    assert!(text.starts_with('{'), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn error_of_a_silent_stream_is_a_frame_with_its_status() {
    let cluster = slow_model(60_000, &["--first-token-timeout", "2"]).await;
    let api = cluster.api();
    let response = api.post(CHAT_PATH, &streamed()).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let (comments, frames) = comments_and_frames(&text);
    assert!(comments >= 1 && frames.len() == 1, "{text}");
    assert_eq!(frames[0]["error"]["code"], "deadline_exceeded");
    assert_eq!(frames[0]["flotilla"]["status"], 504);
    let decision = frames[0]["flotilla"]["decision"].as_str().unwrap();
    decision_with_id(&api, decision).await;
    assert!(!text.contains("[DONE]"), "{text}");

    // What fails before the first comment keeps its status.
    let mut unknown = streamed();
    unknown["model"] = json!("unknown");
    assert_eq!(api.post(CHAT_PATH, &unknown).await.status(), 404);
    cluster.stop().await;
}

#[tokio::test]
async fn leaving_a_silent_stream_cancels_its_request() {
    let cluster = slow_model(60_000, &[]).await;
    let api = cluster.api();
    let mut response = api.post(CHAT_PATH, &streamed()).await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(COMMENT.as_bytes()), "{first:?}");
    drop(response);
    let is_cancelled = async || {
        let counters = api.counters("m").await;
        counters.cancelled == 1 && counters.active == 0
    };
    cluster.wait_until(is_cancelled).await;
    cluster.stop().await;
}
