//! Resources, clusters and requests that several behaviours need.

use std::path::Path;
use std::process::{Command, Output};

use flotilla_tests::{AgentSettings, Api, Cluster, Mode, flotilla_binary, simulated_model};
use reqwest::Response;
use serde_json::{Value, json};

/// The path of chat requests.
pub(crate) const CHAT_PATH: &str = "v1/chat/completions";

/// Memory of each node of [`nodes_with_memory`], in bytes.
pub(crate) const NODE_MEMORY: u64 = 1 << 30;

/// Copies the files of a folder, without those in folders below it, to a folder that is created.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Returns a task with this spec.
pub(crate) fn task(name: &str, spec: Value) -> Value {
    let mut task =
        json!({"apiVersion": "flotilla.dev/v1", "kind": "Task", "metadata": {"name": name}});
    task["spec"] = spec;
    task
}

/// Returns the router with this spec.
pub(crate) fn router(spec: Value) -> Value {
    let mut router =
        json!({"apiVersion": "flotilla.dev/v1", "kind": "Router", "metadata": {"name": "default"}});
    router["spec"] = spec;
    router
}

/// Returns a chat request with the options of its field `flotilla`.
pub(crate) fn chat_body(model: &str, flotilla: Value) -> Value {
    json!({
        "model": model, "messages": [{"role": "user", "content": "hi"}], "flotilla": flotilla,
    })
}

/// Returns a header of a response, empty if there is none.
pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or_else(String::new, |v| v.to_str().unwrap().to_owned())
}

/// Returns the status and the error code of a response.
pub(crate) async fn error_code(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].clone())
}

/// Returns the record of the decision that led to a response.
pub(crate) async fn decision_record(api: &Api, response: &Response) -> Value {
    decision_with_id(api, &header(response, "x-flotilla-decision")).await
}

/// Returns the record of the decision with this id, for a response whose body has been read.
pub(crate) async fn decision_with_id(api: &Api, id: &str) -> Value {
    let (status, record) = api.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(status, 200, "{record}");
    record
}

/// Runs the command line against a cluster.
pub(crate) fn run_flotilla(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(flotilla_binary());
    command.args(args).env("FLOTILLA_URL", cluster.url());
    command.current_dir(cluster.dir()).output().unwrap()
}

/// Runs the command line against a cluster, where it must succeed, and returns what it prints.
pub(crate) fn flotilla(cluster: &Cluster, args: &[&str]) -> String {
    let output = run_flotilla(cluster, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Applies a model of the simulated engine with one replica and waits until it is ready.
pub(crate) async fn serve(cluster: &Cluster, api: &Api, model: &str, options: &Value) {
    api.apply(&simulated_model(model, 1, options)).await;
    cluster.wait_for_replicas(model, 1).await;
}

/// Starts the nodes `fast` and `slow` with a replica of the simulated model `m` on each. The slow one
/// takes `slowdown` times as long.
pub(crate) async fn fast_and_slow(slowdown: &str, options: &Value) -> Cluster {
    let slow = AgentSettings::new("slow").args(&["--simulated-slowdown", slowdown]);
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["fast"])
        .agent(slow)
        .start()
        .await;
    cluster.api().apply(&simulated_model("m", 2, options)).await;
    cluster.wait_for_replicas("m", 2).await;
    cluster
}

/// Starts nodes with [`NODE_MEMORY`] each, as processes.
pub(crate) async fn nodes_with_memory(nodes: &[&str]) -> Cluster {
    let settings = nodes
        .iter()
        .map(|name| AgentSettings::new(name).memory(NODE_MEMORY));
    Cluster::builder()
        .mode(Mode::Processes)
        .agents(settings)
        .start()
        .await
}

/// Returns the simulated model `m` at this revision, which needs `memory_share` of a node's memory.
pub(crate) fn sized_model(
    replicas: &Value,
    revision: &str,
    memory_share: f64,
    options: &Value,
) -> Value {
    let mut model = simulated_model("m", 1, options);
    model["spec"]["replicas"] = replicas.clone();
    model["spec"]["revision"] = json!(revision);
    model["spec"]["memory"] = json!((NODE_MEMORY as f64 * memory_share) as u64);
    model
}

/// Options of a simulated model that answers in 40 ms and loads in 300 ms.
pub(crate) fn fast_options() -> Value {
    json!({"outputTokens": 4, "tokensPerSecond": 100, "loadMs": 300})
}

/// Waits until a node computes one request of its first model and has written at least this many tokens.
/// Returns the node's name.
pub(crate) async fn active_node(cluster: &Cluster, output_tokens: u64) -> String {
    let api = cluster.api();
    let find = async || {
        let nodes = api.nodes().await;
        let node = nodes.iter().find(|node| {
            let counters = &node["status"]["models"][0]["counters"];
            counters["active"] == 1
                && counters["outputTokens"].as_u64().unwrap_or(0) >= output_tokens
        })?;
        node["metadata"]["name"].as_str().map(str::to_owned)
    };
    cluster.wait_until(async || find().await.is_some()).await;
    find().await.expect("the node still computes it")
}
