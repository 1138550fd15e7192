//! Requests that the classifier is unsure of go by the vectors of the router's encoder, and never wait for it.

use std::time::{Duration, Instant};

use flotilla_tests::{AgentSettings, Api, Cluster, FakeUpstream, Mode};
use serde_json::{Value, json};

use crate::fixtures::{decision_record, header, router, serve, task};

/// A model that an upstream server in these zones computes.
fn encoder(server: &FakeUpstream, zone: Option<&str>) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "encoder"},
        "spec": {"engine": "upstream", "options": {"url": server.url("embeddings-topics"), "zone": zone}},
    })
}

/// Applies two tasks, the first in these zones, and a router with the encoder.
async fn apply_tasks(api: &Api, zones: &[&str]) {
    let banking = json!({"models": ["m"], "zones": zones, "examples": [
        "freeze my bank account", "why was my card declined", "pay my electricity bill",
        "order a new bank card", "how much is on my account",
    ]});
    let travel = json!({"models": ["m"], "examples": [
        "book a flight to paris", "is my flight on time", "find me a hotel in rome",
        "do i need a visa for japan", "cancel my hotel",
    ]});
    api.apply(&task("banking", banking)).await;
    api.apply(&task("travel", travel)).await;
    api.apply(&task("other", json!({"models": ["m"]}))).await;
    // Of few examples a threshold that is estimated holds back many.
    let abstain = json!({"minConfidence": 0.5});
    let spec = json!({"defaultTask": "other", "encoder": "encoder", "abstain": abstain});
    api.apply(&router(spec)).await;
}

async fn encoder_status(api: &Api) -> Value {
    let (status, classifier) = api.get("api/v1/classifier").await;
    assert_eq!(status, 200, "{classifier}");
    classifier["encoder"].clone()
}

/// The ten examples of the tasks and the names of the two that have any.
const LEARNED: u64 = 12;

async fn wait_until_trained(cluster: &Cluster, api: &Api) {
    let is_trained = async || {
        let status = encoder_status(api).await;
        status["trained"] == true && status["examples"] == LEARNED
    };
    cluster.wait_until(is_trained).await;
}

/// Waits until the encoder learns from all tasks, and something is in the way. Returns what.
async fn wait_for_problem(cluster: &Cluster, api: &Api) -> String {
    let has_problem = async || {
        let status = encoder_status(api).await;
        status["problem"].is_string() && status["examples"] == LEARNED
    };
    cluster.wait_until(has_problem).await;
    let status = encoder_status(api).await;
    status["problem"].as_str().unwrap_or_default().to_owned()
}

/// Sends a request, and returns its task and its record.
async fn send(api: &Api, text: &str) -> (String, Value) {
    let response = api.chat("auto", text, false).await;
    assert_eq!(response.status(), 200, "{text}");
    let task = header(&response, "x-flotilla-task");
    (task, decision_record(api, &response).await)
}

#[tokio::test]
async fn unsure_request_goes_by_the_encoder_and_a_sure_one_without_it() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let (api, server) = (cluster.api(), FakeUpstream::start().await);
    serve(&cluster, &api, "m", &json!({"outputTokens": 2})).await;
    api.apply(&encoder(&server, None)).await;
    apply_tasks(&api, &[]).await;
    wait_until_trained(&cluster, &api).await;
    let status = encoder_status(&api).await;
    assert_eq!(status["embedded"], status["examples"], "{status}");
    assert_eq!(status["report"]["heldOut"], 10, "{status}");

    for (text, expected) in [("zork", "banking"), ("plim", "travel")] {
        let (task, record) = send(&api, text).await;
        assert_eq!(task, expected, "{record}");
        let encoder = &record["classification"]["encoder"];
        assert_eq!(encoder["outcome"], "used", "{record}");
        assert_eq!(
            (&encoder["model"], &encoder["node"]),
            (&json!("encoder"), &json!("n1"))
        );
        assert_eq!(encoder["classification"]["best_task"], expected);
        assert!(encoder["duration_ms"].as_f64().unwrap() < 50.0, "{record}");
        // Nothing of the prompt, but of the examples.
        assert!(!record.to_string().contains(text), "{record}");
        assert!(
            encoder["classification"]["nearest"]["text"].is_string(),
            "{record}"
        );
    }
    let (task, record) = send(&api, "freeze my bank account card").await;
    assert_eq!(task, "banking");
    assert_eq!(record["classification"]["encoder"], Value::Null, "{record}");

    let dry_run = json!({"model": "auto", "messages": [{"role": "user", "content": "plim"}]});
    let planned: Value = api.post("v1/route", &dry_run).await.json().await.unwrap();
    assert!(
        planned.to_string().contains("\"outcome\":\"used\""),
        "{planned}"
    );

    let metrics = api.get_response("metrics").await.text().await.unwrap();
    let used = metrics.lines().find(|line| {
        line.starts_with("flotilla_encoder_requests_total") && line.contains("\"used\"")
    });
    assert!(used.unwrap().ends_with(" 3"), "{used:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn encoder_that_is_slow_or_away_leaves_the_decision_to_the_classifier_in_time() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let (api, server) = (cluster.api(), FakeUpstream::start().await);
    serve(&cluster, &api, "m", &json!({"outputTokens": 2})).await;
    apply_tasks(&api, &[]).await;
    let problem = wait_for_problem(&cluster, &api).await;
    assert_eq!(problem, "there is no model 'encoder'");
    let (task, record) = send(&api, "zork").await;
    assert_eq!(task, "other", "{record}");
    assert_eq!(
        record["classification"]["encoder"]["outcome"],
        "not_trained"
    );

    api.apply(&encoder(&server, None)).await;
    wait_until_trained(&cluster, &api).await;
    let began = Instant::now();
    let (task, record) = send(&api, "zork slowly").await;
    assert_eq!(task, "other", "{record}");
    assert_eq!(
        record["classification"]["encoder"]["outcome"], "timeout",
        "{record}"
    );
    // The server would take two seconds.
    assert!(began.elapsed() < Duration::from_secs(1), "{record}");

    api.delete_model("encoder").await;
    let (task, record) = send(&api, "zork").await;
    assert_eq!(task, "other");
    assert_eq!(
        record["classification"]["encoder"]["outcome"], "unavailable",
        "{record}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn texts_are_sent_only_to_nodes_in_the_zones_of_every_zoned_task() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let (api, server) = (cluster.api(), FakeUpstream::start().await);
    serve(&cluster, &api, "m", &json!({"outputTokens": 2})).await;
    api.apply(&encoder(&server, Some("clinic"))).await;
    cluster.wait_for_replicas("encoder", 1).await;
    apply_tasks(&api, &["clinic"]).await;
    let problem = wait_for_problem(&cluster, &api).await;
    assert!(problem.contains("privacy zone"), "{problem}");
    assert!(server.received().is_empty());

    cluster.start_agent(AgentSettings::new("n2").args(&["--zone", "clinic"]));
    api.apply(&{
        let mut model = encoder(&server, Some("clinic"));
        model["spec"]["replicas"] = json!(2);
        model
    })
    .await;
    wait_until_trained(&cluster, &api).await;
    let (_, record) = send(&api, "plim").await;
    let encoder = &record["classification"]["encoder"];
    assert_eq!(
        (&encoder["outcome"], &encoder["node"]),
        (&json!("used"), &json!("n2")),
        "{record}"
    );
    cluster.stop().await;
}
