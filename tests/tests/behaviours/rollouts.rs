//! New revisions of a model, which clients must not notice.

use flotilla_tests::{Api, Cluster, FakeUpstream, Load};
use serde_json::{Value, json};

use crate::fixtures::{fast_options, nodes_with_memory, sized_model};

/// Returns the phase and the revision of each replica of `m`, as the API shows them.
async fn replica_revisions(api: &Api) -> Vec<String> {
    let replicas = api.model("m").await["status"]["replicas"].clone();
    let replicas = replicas.as_array().cloned().unwrap_or_default();
    let shown = |r: &Value| format!("{} {}", r["phase"], r["revision"]);
    replicas.iter().map(shown).collect()
}

/// Waits until all replicas of `m` serve the revision of the spec.
async fn wait_until_rolled_out(cluster: &Cluster, count: usize) {
    let api = cluster.api();
    let is_rolled_out = async || {
        let status = api.model("m").await["status"].clone();
        let desired = status["revision"].clone();
        let served = replica_revisions(&api).await;
        status["phase"] == "Ready"
            && served.len() == count
            && served.iter().all(|s| *s == format!("\"Ready\" {desired}"))
    };
    cluster.wait_until(is_rolled_out).await;
}

/// Changes the revision twice under load; no request may fail. Each replica needs `memory_share` of a
/// node's memory.
async fn roll_out_under_load(nodes: &[&str], replicas: u32, memory_share: f64, name: &str) {
    let cluster = nodes_with_memory(nodes).await;
    let api = cluster.api();
    api.apply(&sized_model(
        &json!(replicas),
        "1",
        memory_share,
        &fast_options(),
    ))
    .await;
    wait_until_rolled_out(&cluster, replicas as usize).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 6);
    for revision in ["2", "3"] {
        api.apply(&sized_model(
            &json!(replicas),
            revision,
            memory_share,
            &fast_options(),
        ))
        .await;
        wait_until_rolled_out(&cluster, replicas as usize).await;
    }
    let tally = load.stop(name).await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert!(tally.requests >= 10, "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_fails_no_request_when_both_revisions_do_not_fit_on_a_node() {
    roll_out_under_load(&["n1", "n2", "n3"], 3, 0.7, "3 replicas changed one by one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_of_one_replica_fails_no_request_when_both_revisions_fit_on_the_node() {
    roll_out_under_load(&["n1"], 1, 0.4, "1 replica changed beside the old one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_of_one_replica_moves_to_a_node_with_room() {
    roll_out_under_load(&["n1", "n2"], 1, 0.7, "1 replica changed on another node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_of_one_replica_makes_requests_wait_when_no_node_has_room() {
    roll_out_under_load(&["n1"], 1, 0.7, "1 replica changed in its place").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revision_that_does_not_load_is_rolled_back_and_fails_no_request() {
    let cluster = nodes_with_memory(&["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&sized_model(&json!(2), "1", 0.7, &fast_options()))
        .await;
    wait_until_rolled_out(&cluster, 2).await;
    let stable = replica_revisions(&api).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    let mut broken = fast_options();
    broken["loadError"] = json!("the weights are torn");
    api.apply(&sized_model(&json!(2), "2", 0.7, &broken)).await;
    let is_rolled_back = async || {
        let status = api.model("m").await["status"].clone();
        status["rollbackReason"]
            .to_string()
            .contains("the weights are torn")
            && status["ready"] == 2
            && replica_revisions(&api).await == stable
    };
    cluster.wait_until(is_rolled_back).await;
    // Applying it again clears the failure, so that it is tried again and fails again.
    let applied = api
        .try_apply(&sized_model(&json!(2), "2", 0.7, &broken))
        .await;
    assert_eq!(applied.1["result"], "unchanged", "{applied:?}");
    assert_eq!(applied.1["retriesFailedRevision"], true, "{applied:?}");
    cluster.wait_until(is_rolled_back).await;
    // A later revision is tried.
    api.apply(&sized_model(&json!(2), "3", 0.7, &fast_options()))
        .await;
    wait_until_rolled_out(&cluster, 2).await;
    assert_eq!(
        api.model("m").await["status"]["rollbackReason"],
        Value::Null
    );
    let tally = load.stop("a revision that does not load").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revision_that_loads_but_fails_its_requests_is_rolled_back() {
    let upstream = FakeUpstream::start().await;
    let cluster = Cluster::builder().agents(["n1", "n2"]).start().await;
    let api = cluster.api();
    let model = |mode: &str| {
        json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "m"},
            "spec": {
                "engine": "upstream", "replicas": 2, "options": {"url": upstream.url(mode)},
            },
        })
    };
    api.apply(&model("ok")).await;
    wait_until_rolled_out(&cluster, 2).await;
    let stable = replica_revisions(&api).await;
    let ask = async || api.chat("m", "hi", false).await.status().as_u16();
    for _ in 0..20 {
        assert_eq!(ask().await, 200);
    }
    // It refuses all requests, which no replica's start shows. What clients do wrong does not count.
    api.apply(&model("context-length")).await;
    wait_until_rolled_out(&cluster, 2).await;
    for _ in 0..20 {
        assert_eq!(ask().await, 400);
    }
    assert_eq!(
        api.model("m").await["status"]["rollbackReason"],
        Value::Null
    );
    // So does a server that cannot be reached: the stable revision would not reach it either.
    api.apply(&model("drop-before-headers")).await;
    wait_until_rolled_out(&cluster, 2).await;
    let all_failed = async || {
        assert_ne!(ask().await, 200);
        let nodes = api.nodes().await;
        let failed = |node: &Value| node["status"]["models"][0]["counters"]["failed"].as_u64();
        nodes.iter().filter_map(failed).sum::<u64>() >= 20
    };
    cluster.wait_until(all_failed).await;
    assert_eq!(
        api.model("m").await["status"]["rollbackReason"],
        Value::Null
    );
    api.apply(&model("status-500")).await;
    cluster
        .wait_until(async || {
            ask().await;
            let status = api.model("m").await["status"].clone();
            let reason = status["rollbackReason"].to_string();
            reason.contains("requests failed") && replica_revisions(&api).await == stable
        })
        .await;
    for _ in 0..20 {
        assert_eq!(ask().await, 200);
    }
    cluster.stop().await;
}
