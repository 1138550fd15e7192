//! Requests for many choices or prompts, beside those of other clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_tests::{Api, Cluster, simulated_model};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fixtures::CHAT_PATH;

/// Starts one node with the model `m`, which computes one turn at a time in 40 ms and has `queue` places in
/// its admission queue.
async fn serve_one_at_a_time(queue: u32) -> Cluster {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 40});
    let mut model = simulated_model("m", 1, &options);
    model["spec"]["concurrency"] = json!(1);
    model["spec"]["queue"] = json!(queue);
    cluster.api().apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    cluster
}

/// Sends a streamed request and counts its choices as they end. Returns their number.
async fn stream_choices(api: Api, path: &str, body: Value, ended: watch::Sender<usize>) -> usize {
    let mut response = api.post(path, &body).await;
    assert_eq!(response.status(), 200);
    let mut text = String::new();
    while let Some(piece) = response.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
        let count = text.matches(r#""finish_reason":"stop""#).count();
        ended.send_replace(count);
    }
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
    ended.borrow().to_owned()
}

/// Sends a request of another client ten times while a large one is answered, and checks how many choices
/// of the large one end meanwhile.
async fn check_that_others_wait_for_one_turn(cluster: &Cluster, path: &'static str, body: Value) {
    let api = cluster.api();
    let ended = watch::Sender::new(0);
    let mut progress = ended.subscribe();
    let heavy = tokio::spawn(stream_choices(api.with_key("heavy"), path, body, ended));
    progress.wait_for(|ended| *ended >= 3).await.unwrap();
    let light = api.with_key("light");
    let before = *progress.borrow();
    for _ in 0..10 {
        assert_eq!(light.chat("m", "hi", false).await.status(), 200);
    }
    let meanwhile = *progress.borrow() - before;
    // One that is computed when the light request arrives, and one between two light requests.
    assert!(
        meanwhile <= 21,
        "{meanwhile} of the large request's turns went before ten others"
    );
    assert_eq!(heavy.await.unwrap(), 128);
}

#[tokio::test]
async fn client_beside_a_request_for_128_choices_waits_for_one_turn() {
    let cluster = serve_one_at_a_time(1).await;
    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 128, "stream": true,
    });
    check_that_others_wait_for_one_turn(&cluster, CHAT_PATH, body).await;
    cluster.stop().await;
}

#[tokio::test]
async fn client_beside_a_request_with_128_prompts_waits_for_one_turn() {
    let cluster = serve_one_at_a_time(8).await;
    let prompts: Vec<_> = (0..128).map(|n| format!("prompt {n}")).collect();
    let body = json!({"model": "m", "prompt": prompts, "stream": true});
    check_that_others_wait_for_one_turn(&cluster, "v1/completions", body).await;
    cluster.stop().await;
}

#[tokio::test]
async fn request_with_128_prompts_is_answered_through_a_queue_of_one() {
    let cluster = serve_one_at_a_time(1).await;
    let api = cluster.api();
    let prompts: Vec<_> = (0..128).map(|n| format!("prompt {n}")).collect();
    let body = json!({"model": "m", "prompt": prompts, "echo": true, "n": 2});
    let response = api.post("v1/completions", &body).await;
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.unwrap();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 256);
    for (index, choice) in choices.iter().enumerate() {
        let prompt = format!("prompt {}", index / 2);
        assert_eq!(choice["index"], index);
        assert!(
            choice["text"].as_str().unwrap().starts_with(&prompt),
            "{choice}"
        );
    }
    assert_eq!(answer["usage"]["completion_tokens"], 256);
    assert_eq!(answer["usage"]["prompt_tokens"], 256);
    cluster.stop().await;
}

#[tokio::test]
async fn choices_of_one_request_use_all_slots_and_count_as_one_request() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let options = json!({"outputTokens": 100, "tokensPerSecond": 50});
    let mut model = simulated_model("m", 1, &options);
    model["spec"]["concurrency"] = json!(4);
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    let done = Arc::new(AtomicUsize::new(0));
    let request = tokio::spawn({
        let (api, done) = (api.clone(), done.clone());
        async move {
            let body = json!({
                "model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 6,
            });
            let response = api.post(CHAT_PATH, &body).await;
            done.store(1, Ordering::SeqCst);
            let answer: Value = response.json().await.unwrap();
            answer["choices"].as_array().map(Vec::len)
        }
    });
    cluster
        .wait_until(async || {
            let counters = api.counters("m").await;
            counters.active == 4 && counters.queued == 0
        })
        .await;
    assert_eq!(done.load(Ordering::SeqCst), 0);
    assert_eq!(request.await.unwrap(), Some(6));
    cluster
        .wait_until(async || {
            let counters = api.counters("m").await;
            counters.active == 0 && counters.output_tokens == 600
        })
        .await;
    assert_eq!(api.counters("m").await.requests, 1);
    cluster.stop().await;
}
