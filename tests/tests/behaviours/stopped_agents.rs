//! Agents that are asked to stop, and nodes that are drained, while answers run.

use std::time::{Duration, Instant};

use flotilla_tests::{Api, Cluster, Mode, Process, simulated_model};
use reqwest::Response;
use serde_json::{Value, json};

use crate::fixtures::{CHAT_PATH, chat_body, serve};

/// Starts a streamed answer and waits until the model computes it.
async fn start_stream(cluster: &Cluster, api: &Api, model: &str) -> Response {
    let mut body = chat_body(model, json!({}));
    body["stream"] = json!(true);
    let response = api.post(CHAT_PATH, &body).await;
    cluster
        .wait_until(async || api.counters(model).await.active == 1)
        .await;
    response
}

/// Reads a stream to its end, which must not be cut.
async fn read_to_end(mut response: Response) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("the stream is not cut") {
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text).unwrap()
}

/// Returns the error of the last event of a stream.
fn error_event(stream: &str) -> Value {
    let last = stream.trim_end().rsplit("\n\n").next().unwrap();
    let data = last.strip_prefix("data: ").expect(stream);
    let event: Value = serde_json::from_str(data).expect(stream);
    event["error"].clone()
}

/// An answer that outlasts every drain of these tests.
fn long_answer() -> Value {
    json!({"outputTokens": 1_200, "tokensPerSecond": 20})
}

/// The drain timeout of the agents of a cluster.
const AGENT_DRAIN: Duration = Duration::from_secs(5);

async fn one_node() -> Cluster {
    Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_agent_is_shown_as_draining_until_its_answers_have_ended() {
    let mut cluster = one_node().await;
    let api = cluster.api();
    let three_seconds = json!({"outputTokens": 60, "tokensPerSecond": 20});
    serve(&cluster, &api, "m", &three_seconds).await;
    let stream = start_stream(&cluster, &api, "m").await;
    cluster.agent("n1").signal(libc::SIGTERM);
    cluster
        .wait_until(async || api.nodes().await[0]["status"]["stopping"] == true)
        .await;
    let url = cluster.url();
    let (status, listed) = Process::start(cluster.dir(), &["get", "nodes", "--url", &url]).wait();
    assert!(status.success(), "{listed}");
    assert!(listed.contains("Ready, draining"), "{listed}");
    let text = read_to_end(stream).await;
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let (status, output) = cluster.agent_mut("n1").wait();
    assert!(status.success(), "{output}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_that_outlasts_the_drain_of_its_agent_ends_with_an_error_event() {
    let mut cluster = one_node().await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &long_answer()).await;
    let stream = start_stream(&cluster, &api, "m").await;
    let stopped = Instant::now();
    cluster.agent("n1").signal(libc::SIGTERM);
    let text = read_to_end(stream).await;
    assert!(stopped.elapsed() >= AGENT_DRAIN);
    let error = error_event(&text);
    assert_eq!(error["code"], "node_lost", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("was stopped on its node"), "{error}");
    let (status, output) = cluster.agent_mut("n1").wait();
    assert!(status.success(), "{output}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_that_outlasts_the_drain_of_its_node_ends_with_an_error_event() {
    let cluster = one_node().await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &long_answer()).await;
    let stream = start_stream(&cluster, &api, "m").await;
    let url = cluster.url();
    let args = ["drain", "n1", "--timeout", "0.1", "--force", "--url", &url];
    let removed = Instant::now();
    let mut drain = Process::start(cluster.dir(), &args);
    let text = read_to_end(stream).await;
    assert!(removed.elapsed() >= AGENT_DRAIN);
    assert_eq!(error_event(&text)["code"], "node_lost", "{text}");
    // The node stays linked, for what is placed there after the drain.
    drain.wait_for_line("node/n1 drained");
    let node = &api.nodes().await[0];
    assert_eq!(node["status"]["phase"], "Ready", "{node}");
    assert_eq!(node["status"]["operation"]["draining"], true, "{node}");
    api.set_node_operation("n1", &json!({})).await;
    api.apply(&simulated_model("m", 1, &long_answer())).await;
    cluster.wait_for_replicas("m", 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_that_outlasts_the_grace_of_its_controller_ends_with_an_error_event() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--drain-timeout", "1"])
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &long_answer()).await;
    let stream = start_stream(&cluster, &api, "m").await;
    let stopped = Instant::now();
    cluster.signal_controller(libc::SIGTERM);
    let text = read_to_end(stream).await;
    assert!(stopped.elapsed() >= Duration::from_secs(1));
    let error = error_event(&text);
    assert_eq!(error["code"], "node_lost", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("the controller stopped"), "{error}");
    let (status, output) = cluster.wait_for_controller_end();
    assert!(status.success(), "{output}");
    cluster.restart_controller().await;
    cluster.stop().await;
}
