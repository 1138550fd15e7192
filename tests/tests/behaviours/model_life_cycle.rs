//! Models that are applied, changed and deleted, and models that fail.

use flotilla_tests::{Cluster, Mode, simulated_model};
use serde_json::json;

use crate::fixtures::serve;

#[tokio::test]
async fn fleet_in_one_process_serves_and_stops() {
    let cluster = Cluster::builder().agents(["n1", "n2", "n3"]).start().await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 3, &json!({"outputTokens": 2})))
        .await;
    cluster.wait_for_replicas("m", 3).await;
    assert_eq!(api.answer("m", "hi").await, "This is ");
    cluster.stop().await;
}

#[tokio::test]
async fn deleted_model_is_unloaded_and_unknown() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    api.delete_model("m").await;
    let is_unloaded = async || {
        let nodes = api.nodes().await;
        nodes[0]["status"]["models"]
            .as_array()
            .is_some_and(Vec::is_empty)
    };
    cluster.wait_until(is_unloaded).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 404);
    cluster.stop().await;
}

#[tokio::test]
async fn scaling_keeps_replicas_loaded_and_a_changed_spec_reloads_them() {
    let cluster = Cluster::builder().agents(["n1", "n2"]).start().await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({"outputTokens": 1})))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    api.answer("m", "hi").await;
    cluster
        .wait_until(async || api.counters("m").await.requests == 1)
        .await;
    api.apply(&simulated_model("m", 2, &json!({"outputTokens": 1})))
        .await;
    cluster.wait_for_replicas("m", 2).await;
    assert_eq!(api.counters("m").await.requests, 1);
    api.apply(&simulated_model("m", 2, &json!({"outputTokens": 2})))
        .await;
    let is_reloaded = async || {
        let status = api.model("m").await["status"].clone();
        status["phase"] == "Ready" && status["ready"] == 2
    };
    cluster.wait_until(is_reloaded).await;
    assert_eq!(api.counters("m").await.requests, 0);
    assert_eq!(api.answer("m", "hi").await, "This is ");
    cluster.stop().await;
}

#[tokio::test]
async fn model_that_cannot_load_reports_why_and_what_to_do() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let model = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "absent"},
        "spec": {"source": {"path": "/nowhere/at/all"}},
    });
    api.apply(&model).await;
    cluster
        .wait_until(async || api.model("absent").await["status"]["phase"] == "Failed")
        .await;
    let status = api.model("absent").await["status"].clone();
    assert_eq!(
        status["unplacedReason"],
        "1 replica cannot be placed: 0/1 nodes are suitable, 1 failed to load it"
    );
    let (_, model) = api.get("api/v1/models/absent").await;
    let reason = model["status"]["unschedulableNodes"]["n1"]
        .as_str()
        .expect("a reason");
    for part in ["/nowhere/at/all does not exist", "spec.source.path"] {
        assert!(reason.contains(part), "{part} is not in: {reason}");
    }
    let response = api.chat("absent", "hi", false).await;
    assert_eq!(response.status(), 503);
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "no_replica_ready");
    cluster.stop().await;
}

#[tokio::test]
async fn second_node_of_the_same_name_is_refused() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let process_id = cluster.agent("n1").id();
    let link = cluster.link_address().to_string();
    let other_dir = cluster.dir().join("other").display().to_string();
    let args = [
        "agent",
        "--join",
        &link,
        "--name",
        "n1",
        "--data-dir",
        &other_dir,
    ];
    let mut second = flotilla_tests::Process::start(cluster.dir(), &args);
    second.wait_for_line("another node named 'n1' is part of the fleet");
    drop(second);
    assert_eq!(cluster.agent("n1").id(), process_id);
    cluster.wait_until_ready(&["n1"]).await;
    cluster.stop().await;
}
