//! Files of models that a controller's disk has lost or damaged.

use std::path::{Path, PathBuf};

use flotilla_tests::{AgentSettings, Cluster, Mode, Process, repository};
use serde_json::{Value, json};

/// The folder of the controller's files, below the cluster's.
const FILES: &str = "controller-files";

async fn start(agents: &[&str]) -> Cluster {
    Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--data-dir", FILES])
        .agents(agents.iter().copied())
        .start()
        .await
}

fn push(cluster: &Cluster) -> String {
    let folder = repository().join("models/numbers").display().to_string();
    let url = cluster.url();
    let args = ["model", "push", &folder, "--name", "numbers", "--url", &url];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert!(status.success(), "{output}");
    output
}

fn model(replicas: u32, source: &Value) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "m"},
        "spec": {"source": source, "replicas": replicas},
    })
}

/// The largest file that is stored on the controller, which is the model's weights.
fn weights(cluster: &Cluster) -> PathBuf {
    let mut files = Vec::new();
    let folders = std::fs::read_dir(cluster.dir().join(FILES).join("blobs")).unwrap();
    // Beside the folders lies what the disk is probed with.
    let folders = folders.flatten().filter(|entry| entry.path().is_dir());
    for folder in folders {
        files.extend(std::fs::read_dir(folder.path()).unwrap().flatten());
    }
    let largest = files
        .iter()
        .max_by_key(|file| file.metadata().unwrap().len());
    largest.unwrap().path()
}

fn truncate(file: &Path) {
    let half = file.metadata().unwrap().len() / 2;
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(half).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_replaced_when_they_are_pushed_again() {
    let cluster = start(&[]).await;
    push(&cluster);
    let file = weights(&cluster);
    let content = std::fs::read(&file).unwrap();
    truncate(&file);
    let output = push(&cluster);
    assert!(output.contains("1 of them new"), "{output}");
    assert!(std::fs::read(&file).unwrap() == content);
    std::fs::remove_file(&file).unwrap();
    let output = push(&cluster);
    assert!(output.contains("1 of them new"), "{output}");
    assert!(std::fs::read(&file).unwrap() == content);
    let output = push(&cluster);
    assert!(output.contains("0 of them new"), "{output}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_file_is_given_back_by_a_node_that_has_it() {
    let mut cluster = start(&["n1"]).await;
    push(&cluster);
    let api = cluster.api();
    let source = json!({"artifact": "numbers"});
    api.apply(&model(1, &source)).await;
    cluster.wait_for_replicas("m", 1).await;
    let file = weights(&cluster);
    let content = std::fs::read(&file).unwrap();
    truncate(&file);
    cluster.start_agent(AgentSettings::new("n2"));
    cluster.wait_until_ready(&["n2"]).await;
    api.apply(&model(2, &source)).await;
    cluster.wait_for_replicas("m", 2).await;
    assert!(std::fs::read(&file).unwrap() == content);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_that_lost_its_disk_gets_the_files_back_from_nodes_and_sources() {
    let mut cluster = start(&["n1"]).await;
    push(&cluster);
    let api = cluster.api();
    api.apply(&model(1, &json!({"artifact": "numbers"}))).await;
    cluster.wait_for_replicas("m", 1).await;
    let file = weights(&cluster);
    let content = std::fs::read(&file).unwrap();
    cluster.kill_controller();
    std::fs::remove_dir_all(cluster.dir().join(FILES)).unwrap();
    cluster.restart_controller().await;
    let is_back = async || std::fs::read(&file).is_ok_and(|back| back == content);
    cluster.wait_until(is_back).await;
    // Without a node that has the files, they come from the source again.
    let api = cluster.api();
    api.delete_model("m").await;
    cluster.kill_agent("n1");
    let path = repository().join("models/numbers").canonicalize().unwrap();
    let source = json!({"controllerPath": path});
    api.apply(&model(1, &source)).await;
    let is_fetched = async || {
        let status = api.model("m").await["status"].clone();
        status["fetch"].is_null() && status["phase"] != "Fetching"
    };
    cluster.wait_until(is_fetched).await;
    let revision = api.model("m").await["status"]["revision"].clone();
    cluster.kill_controller();
    std::fs::remove_file(&file).unwrap();
    cluster.restart_controller().await;
    cluster.wait_until(is_back).await;
    let api = cluster.api();
    assert_eq!(api.model("m").await["status"]["revision"], revision);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_has_are_reported_until_they_are_pushed_again() {
    let cluster = start(&[]).await;
    push(&cluster);
    let api = cluster.api();
    api.apply(&model(1, &json!({"artifact": "numbers"}))).await;
    // Read as by a node, to its end.
    let file = weights(&cluster);
    std::fs::write(&file, b"damaged").unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let url = format!("{}/api/v1/blobs/{name}", cluster.url());
    // The connection may end before the answer has begun.
    let read = async || reqwest::get(&url).await?.bytes().await;
    assert!(
        read().await.is_err(),
        "a damaged file must not look complete"
    );
    let is_reported = async || {
        let status = api.model("m").await["status"].clone();
        let fetch = status["fetch"].to_string();
        fetch.contains("damaged or lost") && fetch.contains("model.safetensors")
    };
    cluster.wait_until(is_reported).await;
    push(&cluster);
    let is_cleared = async || api.model("m").await["status"]["fetch"].is_null();
    cluster.wait_until(is_cleared).await;
    cluster.stop().await;
}
