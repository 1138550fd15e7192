//! Which nodes a model is placed on.

use flotilla_tests::{AgentSettings, Load, Process};
use serde_json::{Value, json};

use crate::fixtures::{NODE_MEMORY, fast_options, nodes_with_memory, sized_model};

#[tokio::test(flavor = "multi_thread")]
async fn drained_node_hands_its_models_over_without_a_failed_request() {
    let cluster = nodes_with_memory(&["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&sized_model(&json!(1), "1", 0.5, &fast_options()))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    let source = api.assigned_nodes("m").await.remove(0);
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    let url = cluster.url();
    let mut drain = Process::start(cluster.dir(), &["drain", &source, "--url", &url]);
    drain.wait_for_line(&format!("node/{source} drained"));
    assert!(drain.wait().0.success());
    let tally = load.stop("drained").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert_ne!(api.assigned_nodes("m").await.first(), Some(&source));

    // A model that fits on no other node stays, and the command reports it; --force unloads it.
    let target = api.assigned_nodes("m").await.remove(0);
    let args = ["drain", &target, "--timeout", "0.5", "--url", &url];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("still has m") && output.contains("--force"),
        "{output}"
    );
    assert_eq!(api.ready_replicas("m").await, 1);
    let args = [
        "drain",
        &target,
        "--timeout",
        "0.5",
        "--force",
        "--url",
        &url,
    ];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert!(status.success(), "{output}");
    let (status, _) = Process::start(cluster.dir(), &["uncordon", &target, "--url", &url]).wait();
    assert!(status.success());
    cluster
        .wait_until(async || api.assigned_nodes("m").await == [target.clone()])
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_taints_zones_and_cordons_decide_where_a_model_is_placed() {
    let mut cluster = nodes_with_memory(&["plain"]).await;
    cluster.start_agent(
        AgentSettings::new("till")
            .memory(NODE_MEMORY)
            .args(&["--taint", "role=till"]),
    );
    cluster.start_agent(
        AgentSettings::new("clinic")
            .memory(NODE_MEMORY)
            .args(&["--zone", "patients"]),
    );
    cluster.start_agent(
        AgentSettings::new("ssd")
            .memory(NODE_MEMORY)
            .args(&["--label", "disk=ssd"]),
    );
    cluster
        .wait_until_ready(&["plain", "till", "clinic", "ssd"])
        .await;
    let api = cluster.api();
    let assert_placed = async |spec: Value, nodes: &[&str]| {
        let mut model = sized_model(&json!(4), "1", 0.1, &json!({}));
        for (field, value) in spec.as_object().unwrap() {
            model["spec"][field] = value.clone();
        }
        api.apply(&model).await;
        cluster
            .wait_until(async || api.assigned_nodes("m").await == nodes)
            .await;
    };
    assert_placed(json!({}), &["clinic", "plain", "ssd"]).await;
    let tolerates = json!({"tolerations": [{"key": "role", "value": "till"}]});
    assert_placed(tolerates, &["clinic", "plain", "ssd", "till"]).await;
    assert_placed(json!({"zones": ["patients"]}), &["clinic"]).await;
    assert_placed(json!({"nodeSelector": {"disk": "ssd"}}), &["ssd"]).await;
    let (_, described) = api.get("api/v1/models/m").await;
    let reason = described["status"]["unschedulableNodes"]["plain"].to_string();
    assert!(reason.contains("the label disk=ssd"), "{reason}");
    // A cordoned node keeps its models, assigned or not, and gets no new ones.
    cluster
        .wait_until(async || {
            let nodes = api.nodes().await;
            let plain = nodes
                .iter()
                .find(|node| node["metadata"]["name"] == "plain");
            plain.is_some_and(|node| node["status"]["models"] == json!([]))
        })
        .await;
    let url = cluster.url();
    let (status, _) = Process::start(cluster.dir(), &["cordon", "plain", "--url", &url]).wait();
    assert!(status.success());
    assert_placed(json!({}), &["clinic", "ssd"]).await;
    let (_, output) = Process::start(cluster.dir(), &["get", "nodes", "--url", &url]).wait();
    assert!(output.contains("Ready, cordoned"), "{output}");
    cluster.stop().await;
}
