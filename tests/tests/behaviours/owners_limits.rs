//! What the owner of a machine does not allow, no model gets of it, whoever applies the model.

use std::path::Path;

use flotilla_tests::{AgentSettings, Cluster, FileServer, Mode, repository};
use serde_json::{Value, json};
use sha2::Digest;

use crate::fixtures::copy_folder;

fn model(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name}, "spec": spec,
    })
}

fn model_at(name: &str, path: &Path) -> Value {
    model(name, json!({"source": {"path": path}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn node_reads_models_only_from_the_folders_that_its_owner_names() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for folder in [&root, &outside] {
        copy_folder(&repository().join("models/numbers"), &folder.join("m"));
    }
    std::os::unix::fs::symlink(outside.join("m"), root.join("link")).unwrap();
    let roots = root.display().to_string();
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agent(AgentSettings::new("n1").args(&["--model-root", &roots]))
        .start()
        .await;
    let api = cluster.api();
    api.apply(&model_at("inside", &root.join("m"))).await;
    cluster.wait_for_replicas("inside", 1).await;
    for (name, path) in [
        ("outside", outside.join("m")),
        ("link", root.join("link")),
        ("up", root.join("../outside/m")),
        // Whether it is there makes no difference.
        ("absent", outside.join("absent")),
    ] {
        api.apply(&model_at(name, &path)).await;
        let is_refused = async || {
            let reason = api.model(name).await["status"]["lastError"].to_string();
            reason.contains("--model-root")
        };
        cluster.wait_until(is_refused).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_fetches_only_from_the_folders_and_servers_that_its_owner_names() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.gguf"), b"this is no model").unwrap();
    let server = FileServer::start(dir.path().to_owned(), None).await;
    let digest = hex::encode(sha2::Sha256::digest(b"this is no model"));
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--model-root", "/absent", "--source-host", "*"])
        .start()
        .await;
    let api = cluster.api();
    let url = format!("{}/files/m.gguf", server.url());
    let by_url = json!({"source": {"url": url, "sha256": digest}});
    let by_path = json!({"source": {"controllerPath": dir.path()}});
    for (name, spec, flag) in [
        ("by-url", by_url, "--source-host 127.0.0.1"),
        ("by-path", by_path, "--model-root"),
    ] {
        api.apply(&model(name, spec)).await;
        let is_refused = async || {
            let fetch = api.model(name).await["status"]["fetch"].to_string();
            fetch.contains(flag)
        };
        cluster.wait_until(is_refused).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_of_a_node_is_sent_to_no_other_server_than_its_owner_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "the-key").unwrap();
    let secret = format!("hosted={}@api.example", file.display());
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agent(AgentSettings::new("n1").args(&["--upstream-secret", &secret]))
        .start()
        .await;
    let api = cluster.api();
    // It would receive what the model's spec asks for.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    for (name, secret) in [("other-host", "hosted"), ("variable", "PATH")] {
        let options = json!({"url": url, "apiKeySecret": secret});
        let spec = json!({"engine": "upstream", "options": options});
        api.apply(&model(name, spec)).await;
        let is_refused = async || {
            let reason = api.model(name).await["status"]["lastError"].to_string();
            reason.contains("--upstream-secret") && !reason.contains("the-key")
        };
        cluster.wait_until(is_refused).await;
    }
    let accepted = tokio::select! {
        biased;
        _ = listener.accept() => true,
        () = std::future::ready(()) => false,
    };
    assert!(!accepted, "the server has got a connection");
    cluster.stop().await;
}
