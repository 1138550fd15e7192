//! Controllers that are asked to stop.

use flotilla_tests::{Cluster, Mode, simulated_model};
use serde_json::json;

use crate::fixtures::{CHAT_PATH, chat_body};

#[tokio::test(flavor = "multi_thread")]
async fn running_answers_end_when_their_controller_is_stopped() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let two_seconds = json!({"outputTokens": 40, "tokensPerSecond": 20});
    api.apply(&simulated_model("m", 1, &two_seconds)).await;
    cluster.wait_for_replicas("m", 1).await;
    let mut body = chat_body("m", json!({}));
    let collected = tokio::spawn({
        let (api, body) = (api.clone(), body.clone());
        async move { api.post(CHAT_PATH, &body).await.text().await }
    });
    body["stream"] = json!(true);
    let mut streamed = api.post(CHAT_PATH, &body).await;
    let list = format!("{}/api/v1/models?watch=true", cluster.url());
    let mut watched = reqwest::get(list).await.unwrap();
    assert!(watched.chunk().await.unwrap().is_some());
    let mut text = streamed.chunk().await.unwrap().unwrap().to_vec();
    let is_active = async || api.counters("m").await.active == 2;
    cluster.wait_until(is_active).await;

    cluster.signal_controller(libc::SIGTERM);
    while let Some(chunk) = streamed.chunk().await.expect("the stream is not cut") {
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(!text.contains("\"error\""), "{text}");
    let collected = collected.await.unwrap().expect("the answer is not cut");
    assert!(collected.contains("\"finish_reason\""), "{collected}");
    // An open list ends, so that it does not use up the grace.
    while watched.chunk().await.expect("the list ends").is_some() {}
    let (status, output) = cluster.wait_for_controller_end();
    assert!(status.success(), "{output}");
    assert!(!output.contains("cut off"), "{output}");
    cluster
        .agent_mut("n1")
        .wait_for_line("the controller has stopped");
    cluster.restart_controller().await;
    cluster.wait_for_replicas("m", 1).await;
    cluster.stop().await;
}
