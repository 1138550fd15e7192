//! Changes of the wish that clients must not notice, and replicas that follow load.

use flotilla_tests::{AgentSettings, Api, Cluster, Load, Mode, Process, simulated_model};
use serde_json::{Value, json};

/// Memory of each node.
const MEMORY: u64 = 1 << 30;

/// A cluster whose nodes have [`MEMORY`] each.
async fn cluster(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    for name in nodes {
        cluster.start_agent(AgentSettings::new(name).memory(MEMORY));
    }
    cluster.wait_until_ready(nodes).await;
    cluster
}

/// A model `m` at a revision that takes this part of a node's memory.
fn model(replicas: &Value, revision: &str, part: f64, options: &Value) -> Value {
    let mut model = simulated_model("m", 1, options);
    model["spec"]["replicas"] = replicas.clone();
    model["spec"]["revision"] = json!(revision);
    model["spec"]["memory"] = json!((MEMORY as f64 * part) as u64);
    model
}

/// 40 ms for an answer, 300 ms to load.
fn brisk() -> Value {
    json!({"outputTokens": 4, "tokensPerSecond": 100, "loadMs": 300})
}

/// The revisions that the replicas of `m` serve, as the API shows them.
async fn revisions(api: &Api) -> Vec<String> {
    let replicas = api.model("m").await["status"]["replicas"].clone();
    let replicas = replicas.as_array().cloned().unwrap_or_default();
    let shown = |r: &Value| format!("{} {}", r["phase"], r["revision"]);
    replicas.iter().map(shown).collect()
}

/// Waits until all replicas of `m` serve the revision wished for.
async fn until_changed(cluster: &Cluster, count: usize) {
    let api = cluster.api();
    let changed = async || {
        let status = api.model("m").await["status"].clone();
        let wished = status["revision"].clone();
        let served = revisions(&api).await;
        status["phase"] == "Ready"
            && served.len() == count
            && served.iter().all(|s| *s == format!("\"Ready\" {wished}"))
    };
    cluster.wait_until(changed).await;
}

/// Changes the revision under load and gives how many requests failed.
async fn change_under_load(nodes: &[&str], replicas: u32, part: f64, name: &str) {
    let cluster = cluster(nodes).await;
    let api = cluster.api();
    api.apply(&model(&json!(replicas), "1", part, &brisk()))
        .await;
    until_changed(&cluster, replicas as usize).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 6);
    for revision in ["2", "3"] {
        api.apply(&model(&json!(replicas), revision, part, &brisk()))
            .await;
        until_changed(&cluster, replicas as usize).await;
    }
    let tally = load.stop(name).await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert!(tally.requests >= 10, "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_fails_no_request_where_old_and_new_do_not_fit_together() {
    change_under_load(&["n1", "n2", "n3"], 3, 0.7, "3 replicas changed one by one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_of_one_replica_fails_no_request_where_both_fit() {
    change_under_load(&["n1"], 1, 0.4, "1 replica changed beside the old one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_of_one_replica_moves_to_a_node_with_room() {
    change_under_load(&["n1", "n2"], 1, 0.7, "1 replica changed on another node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_of_one_replica_without_room_anywhere_makes_requests_wait() {
    change_under_load(&["n1"], 1, 0.7, "1 replica changed in its place").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_does_not_load_is_rolled_back_and_fails_no_request() {
    let cluster = cluster(&["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&model(&json!(2), "1", 0.7, &brisk())).await;
    until_changed(&cluster, 2).await;
    let good = revisions(&api).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    let mut broken = brisk();
    broken["loadError"] = json!("the weights are torn");
    api.apply(&model(&json!(2), "2", 0.7, &broken)).await;
    let rolled_back = async || {
        let status = api.model("m").await["status"].clone();
        status["rollbackReason"]
            .to_string()
            .contains("the weights are torn")
            && status["ready"] == 2
            && revisions(&api).await == good
    };
    cluster.wait_until(rolled_back).await;
    // A later revision is tried again.
    api.apply(&model(&json!(2), "3", 0.7, &brisk())).await;
    until_changed(&cluster, 2).await;
    assert_eq!(
        api.model("m").await["status"]["rollbackReason"],
        Value::Null
    );
    let tally = load.stop("a revision that does not load").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_nobody_asks_for_leaves_and_a_request_wakes_it_and_waits() {
    let cluster = cluster(&["n1"]).await;
    let api = cluster.api();
    let mut sleepy = model(&json!({"min": 0, "max": 1}), "1", 0.5, &brisk());
    sleepy["spec"]["keepAlive"] = json!("1s");
    api.apply(&sleepy).await;
    cluster.wait_for_replicas("m", 1).await;
    for _ in 0..2 {
        cluster
            .wait_until(async || api.model("m").await["status"]["phase"] == "Asleep")
            .await;
        let load = Load::start(std::slice::from_ref(&api), "m", 5);
        cluster.wait_for_replicas("m", 1).await;
        let tally = load.stop("woken from sleep").await;
        assert!(tally.errors.is_empty(), "{tally}");
        assert!(tally.slowest.as_millis() >= 300, "{tally}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_sleeping_model_that_fits_nowhere_is_told_why() {
    let cluster = cluster(&["n1"]).await;
    let api = cluster.api();
    let mut sleepy = model(&json!({"min": 0, "max": 1}), "1", 2.0, &brisk());
    sleepy["spec"]["keepAlive"] = json!("1s");
    api.apply(&sleepy).await;
    cluster
        .wait_until(async || !api.model("m").await.is_null())
        .await;
    let response = api.chat("m", "hi", false).await;
    assert_eq!(response.status(), 503);
    let text = response.text().await.unwrap();
    assert!(text.contains("1 with too little memory"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_load_up_to_the_maximum() {
    let cluster = cluster(&["n1", "n2"]).await;
    let api = cluster.api();
    let slow = json!({"outputTokens": 50, "tokensPerSecond": 50});
    let mut busy = model(&json!({"min": 1, "max": 2}), "1", 0.5, &slow);
    busy["spec"]["concurrency"] = json!(1);
    api.apply(&busy).await;
    cluster.wait_for_replicas("m", 1).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    cluster.wait_for_replicas("m", 2).await;
    let tally = load.stop("scaled up").await;
    assert!(tally.errors.is_empty(), "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_goes_from_the_least_recently_used_model_to_one_that_is_asked_for() {
    let cluster = cluster(&["n1"]).await;
    let api = cluster.api();
    let named = |name: &str| {
        let mut model = model(&json!({"min": 0, "max": 1}), "1", 0.45, &brisk());
        model["metadata"]["name"] = json!(name);
        model
    };
    for name in ["a", "b"] {
        api.apply(&named(name)).await;
        cluster.wait_for_replicas(name, 1).await;
        api.answer(name, "hi").await;
    }
    // Used last: it stays.
    api.answer("a", "hi").await;
    cluster
        .wait_until(async || api.counters("a").await.requests == 2)
        .await;
    api.apply(&named("c")).await;
    api.answer("c", "hi").await;
    assert_eq!(
        (api.ready_replicas("a").await, api.ready_replicas("b").await),
        (1, 0)
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_hands_its_models_over_without_a_failed_request() {
    let cluster = cluster(&["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&model(&json!(1), "1", 0.5, &brisk())).await;
    cluster.wait_for_replicas("m", 1).await;
    let from = api.assigned_nodes("m").await.remove(0);
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    let url = cluster.url();
    let mut drain = Process::start(cluster.dir(), &["drain", &from, "--url", &url]);
    drain.wait_for_line(&format!("node/{from} drained"));
    assert!(drain.wait().0.success());
    let tally = load.stop("drained").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert_ne!(api.assigned_nodes("m").await.first(), Some(&from));

    // What has no other place stays, and the command says so; --force has it leave.
    let to = api.assigned_nodes("m").await.remove(0);
    let args = ["drain", &to, "--timeout", "0.5", "--url", &url];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("still has m") && output.contains("--force"),
        "{output}"
    );
    assert_eq!(api.ready_replicas("m").await, 1);
    let args = ["drain", &to, "--timeout", "0.5", "--force", "--url", &url];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert!(status.success(), "{output}");
    let (status, _) = Process::start(cluster.dir(), &["uncordon", &to, "--url", &url]).wait();
    assert!(status.success());
    cluster
        .wait_until(async || api.assigned_nodes("m").await == [to.clone()])
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_taints_and_zones_say_where_a_model_goes() {
    let mut cluster = cluster(&["plain"]).await;
    cluster.start_agent(
        AgentSettings::new("till")
            .memory(MEMORY)
            .args(&["--taint", "role=till"]),
    );
    cluster.start_agent(
        AgentSettings::new("clinic")
            .memory(MEMORY)
            .args(&["--zone", "patients"]),
    );
    cluster.start_agent(
        AgentSettings::new("ssd")
            .memory(MEMORY)
            .args(&["--label", "disk=ssd"]),
    );
    cluster
        .wait_until_ready(&["plain", "till", "clinic", "ssd"])
        .await;
    let api = cluster.api();
    let goes_to = async |spec: Value, nodes: &[&str]| {
        let mut model = model(&json!(4), "1", 0.1, &json!({}));
        for (field, value) in spec.as_object().unwrap() {
            model["spec"][field] = value.clone();
        }
        api.apply(&model).await;
        cluster
            .wait_until(async || api.assigned_nodes("m").await == nodes)
            .await;
    };
    goes_to(json!({}), &["clinic", "plain", "ssd"]).await;
    let tolerates = json!({"tolerations": [{"key": "role", "value": "till"}]});
    goes_to(tolerates, &["clinic", "plain", "ssd", "till"]).await;
    goes_to(json!({"zones": ["patients"]}), &["clinic"]).await;
    goes_to(json!({"nodeSelector": {"disk": "ssd"}}), &["ssd"]).await;
    let (_, described) = api.get("api/v1/models/m").await;
    let why = described["status"]["unschedulableNodes"]["plain"].to_string();
    assert!(why.contains("the label disk=ssd"), "{why}");
    // A cordoned node keeps what it has and gets nothing more.
    let url = cluster.url();
    let (status, _) = Process::start(cluster.dir(), &["cordon", "plain", "--url", &url]).wait();
    assert!(status.success());
    goes_to(json!({}), &["clinic", "ssd"]).await;
    let (_, output) = Process::start(cluster.dir(), &["get", "nodes", "--url", &url]).wait();
    assert!(output.contains("Ready, cordoned"), "{output}");
    cluster.stop().await;
}
