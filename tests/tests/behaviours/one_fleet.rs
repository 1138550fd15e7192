//! Nodes obey one fleet: a controller with another store changes nothing on them.

use std::path::{Path, PathBuf};

use flotilla_tests::{
    AgentSettings, Api, Cluster, Etcd, Mode, Process, repository, simulated_model,
};
use serde_json::json;

/// Runs `flotilla` with these arguments, which must succeed, and returns its output.
fn run(cluster: &Cluster, args: &[&str]) -> String {
    let url = cluster.url();
    let args: Vec<&str> = args.iter().copied().chain(["--url", &url]).collect();
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert!(status.success(), "{args:?}: {output}");
    output
}

/// The blobs below a node's data directory.
fn blobs(dir: &Path, node: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join(node).join("blobs")).unwrap();
    let mut blobs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    blobs.sort();
    blobs
}

/// Starts a node with a model whose files were pushed.
async fn fleet_with_a_pushed_model() -> (Cluster, Api) {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let numbers = repository().join("models/numbers").display().to_string();
    run(&cluster, &["model", "push", &numbers, "--name", "sums"]);
    api.apply(&json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "m"},
        "spec": {"source": {"artifact": "sums"}, "replicas": 1},
    }))
    .await;
    cluster.wait_for_replicas("m", 1).await;
    (cluster, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_with_an_empty_store_changes_nothing_on_the_nodes() {
    let (mut cluster, api) = fleet_with_a_pushed_model().await;
    let before = blobs(cluster.dir(), "n1");
    assert!(!before.is_empty());
    let dir = cluster.dir().to_owned();
    let folders =
        ["controller", "files"].map(|name| (dir.join(name), dir.join(name.to_owned() + "-kept")));
    cluster.kill_controller();
    for (folder, kept) in &folders {
        std::fs::rename(folder, kept).unwrap();
    }
    cluster.restart_controller().await;
    // Both ends say it: the agent's log, and every list of the controller.
    let agent = cluster.agent_mut("n1");
    let line = agent.wait_for_line("the node belongs to the fleet '");
    assert!(line.contains("ERROR"), "{line}");
    assert!(line.contains("--adopt-fleet "), "{line}");
    let listed = run(&cluster, &["get", "nodes"]);
    assert!(listed.contains("the node 'n1' at 127.0.0.1:"), "{listed}");
    assert!(listed.contains("was refused"), "{listed}");
    assert!(!listed.contains("Ready"), "{listed}");
    assert_eq!(blobs(cluster.dir(), "n1"), before);

    // With its own store again, the node goes on without loading anything anew.
    cluster.kill_controller();
    for (folder, kept) in &folders {
        if folder.exists() {
            std::fs::remove_dir_all(folder).unwrap();
        }
        std::fs::rename(kept, folder).unwrap();
    }
    cluster.restart_controller().await;
    cluster.wait_for_replicas("m", 1).await;
    assert_eq!(
        api.answer("m", "what is the sum of 4, 8 and 15?").await,
        "27"
    );
    let agent = cluster.agent_mut("n1");
    agent.signal(libc::SIGINT);
    let (_, output) = agent.wait();
    let loaded = output.lines().filter(|line| line.contains("ready model=m"));
    assert_eq!(loaded.count(), 1, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_moves_to_another_fleet_with_the_flag_that_its_log_names() {
    let (mut cluster, api) = fleet_with_a_pushed_model().await;
    let before = blobs(cluster.dir(), "n1");
    cluster.kill_controller();
    for folder in ["controller", "files"] {
        std::fs::remove_dir_all(cluster.dir().join(folder)).unwrap();
    }
    cluster.restart_controller().await;
    let line = cluster.agent_mut("n1").wait_for_line("--adopt-fleet ");
    let fleet = line.split("--adopt-fleet ").nth(1).unwrap();
    let fleet: String = fleet
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    // A fleet whose controllers it does not reach changes nothing: without the flag it is where it was.
    cluster.kill_agent("n1");
    let unknown = "0".repeat(32);
    cluster.start_agent(AgentSettings::new("n1").args(&["--adopt-fleet", &unknown]));
    let agent = cluster.agent_mut("n1");
    agent.wait_for_line("moves to another fleet once it is linked to a controller of it");
    let line = agent.wait_for_line("the node belongs to the fleet '");
    assert!(line.contains(&unknown), "{line}");
    cluster.kill_agent("n1");
    cluster.start_agent("n1");
    let agent = cluster.agent_mut("n1");
    let line = agent.wait_for_line("the node belongs to the fleet '");
    assert!(!line.contains(&unknown), "{line}");
    for consequence in [
        "are then replaced",
        "--file-retention",
        "flotilla delete node n1",
    ] {
        assert!(line.contains(consequence), "{line}");
    }
    cluster.kill_agent("n1");
    cluster.start_agent(AgentSettings::new("n1").args(&["--adopt-fleet", &fleet]));
    cluster.wait_until_ready(&["n1"]).await;
    api.apply(&simulated_model("s", 1, &json!({}))).await;
    cluster.wait_for_replicas("s", 1).await;
    // The new fleet does not need the files, but they are kept for a while.
    assert_eq!(blobs(cluster.dir(), "n1"), before);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_an_etcd_that_has_lost_everything_keep_their_models_until_it_is_restored() {
    let mut etcd = Etcd::start();
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .store(etcd.store())
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 2, &json!({}))).await;
    cluster.wait_for_replicas("m", 2).await;
    // Such that the lost store was far ahead.
    for model in ["a", "b", "c"] {
        api.apply(&simulated_model(model, 1, &json!({}))).await;
        cluster.wait_for_replicas(model, 1).await;
        api.delete_model(model).await;
    }
    // A cordoned node keeps what it runs.
    api.set_node_operation("n2", &json!({"cordoned": true}))
        .await;
    cluster
        .wait_until(async || run(&cluster, &["backup"]).contains("cordoned: true"))
        .await;
    etcd.kill();
    etcd.lose_data();
    etcd.resume();
    let notes = async || api.get("readyz").await.1["notes"].to_string();
    cluster
        .wait_until(async || notes().await.contains("the store is EMPTY"))
        .await;
    let listed = run(&cluster, &["get", "nodes"]);
    assert!(listed.contains("flotilla restore"), "{listed}");
    // What is known of the fleet is served on, and a backup has it.
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    assert!(run(&cluster, &["backup"]).contains("name: m"));
    // The only copy of the desired state is not overwritten, and the next start knows what was lost.
    cluster.signal_controller(libc::SIGTERM);
    cluster.wait_for_controller_end();
    let kept = cluster.dir().join("files/desired-state.jsonl");
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(text.contains("/flotilla/v1/models/m"), "{text}");
    cluster.restart_controller().await;
    cluster
        .wait_until(async || notes().await.contains("the store is EMPTY"))
        .await;
    cluster.wait_until_ready(&["n1", "n2"]).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    assert!(run(&cluster, &["backup"]).contains("name: m"));
    // It brings everything back.
    let output = run(&cluster, &["restore", &kept.display().to_string()]);
    assert!(output.contains("model/m restored"), "{output}");
    assert!(output.contains("node/n2 restored"), "{output}");
    assert!(output.contains("fleet/"), "{output}");
    cluster.wait_until_ready(&["n1", "n2"]).await;
    cluster.wait_for_replicas("m", 2).await;
    cluster
        .wait_until(async || !notes().await.contains("EMPTY"))
        .await;
    api.apply(&simulated_model("after", 1, &json!({}))).await;
    cluster.wait_for_replicas("after", 1).await;
    for name in ["n1", "n2"] {
        let agent = cluster.agent_mut(name);
        agent.signal(libc::SIGTERM);
        let (_, output) = agent.wait();
        let (running, _) = output.split_once("stopping").unwrap();
        assert!(!running.contains("unloaded model=m"), "{output}");
    }
}
