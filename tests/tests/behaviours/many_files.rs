//! Models with thousands of files.

use flotilla_tests::{Cluster, Mode, repository};
use serde_json::{Value, json};
use sha2::Digest;

/// Uploads a file and returns its entry in a manifest under `path`.
async fn upload(cluster: &Cluster, path: &str, content: Vec<u8>) -> Value {
    let sha256 = hex::encode(sha2::Sha256::digest(&content));
    let size = content.len();
    let url = format!("{}/api/v1/blobs/{sha256}", cluster.url());
    let put = reqwest::Client::new().put(url).body(content).send().await;
    assert_eq!(put.unwrap().status(), 201);
    json!({"path": path, "size": size, "sha256": sha256})
}

/// Publishes an artifact of the demo model `numbers` and `extra` further files, and returns the status
/// and the answer.
async fn publish(cluster: &Cluster, name: &str, extra: usize) -> (u16, Value) {
    let folder = repository().join("models/numbers");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.file_name().into_string().unwrap();
        let content = std::fs::read(entry.path()).unwrap();
        files.push(upload(cluster, &path, content).await);
    }
    let small = upload(cluster, "", b"small".to_vec()).await;
    files.extend((0..extra).map(|index| {
        let mut file = small.clone();
        file["path"] = json!(format!("extra/{index}"));
        file
    }));
    let path = format!("api/v1/artifacts/{name}");
    let manifest = json!({"files": files});
    cluster.api().put(&path, &manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn node_whose_desired_state_is_larger_than_a_message_stays_linked() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    // Each list of files takes about 0.6 MB.
    for index in 0..9 {
        let name = format!("m{index}");
        let (status, answer) = publish(&cluster, &name, 7_000 + index).await;
        assert_eq!(status, 201, "{answer}");
        api.apply(&json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
            "spec": {"source": {"artifact": name}},
        }))
        .await;
    }
    for index in 0..9 {
        cluster.wait_for_replicas(&format!("m{index}"), 1).await;
    }
    let (status, answer) = publish(&cluster, "too-large", 10_000).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.to_string().contains("too many"), "{answer}");
    cluster.wait_for_replicas("m0", 1).await;
    cluster.stop().await;
}
