//! A store that was put back to an earlier state is obeyed again.

use flotilla_tests::{Cluster, Etcd, Mode, simulated_model};
use serde_json::json;

use crate::fixtures::copy_folder;

/// Applies and deletes models, so that the store's revision rises and the node follows it.
async fn change_much(cluster: &Cluster) {
    let api = cluster.api();
    for index in 0..10 {
        let name = format!("later-{index}");
        api.apply(&simulated_model(&name, 1, &json!({}))).await;
    }
    cluster.wait_for_replicas("later-9", 1).await;
    for index in 0..9 {
        api.delete_model(&format!("later-{index}")).await;
    }
}

/// Checks that the node goes back to the model `before`, and then runs `after` as well.
async fn assert_obeyed(cluster: &Cluster) {
    let api = cluster.api();
    let runs = async |names: &[&str]| {
        let nodes = api.nodes().await;
        let models = nodes
            .first()
            .and_then(|node| node["status"]["models"].as_array());
        let models = models.cloned().unwrap_or_default();
        let running: Vec<_> = models.iter().map(|model| model["name"].clone()).collect();
        running == names
    };
    // Nothing else changes meanwhile.
    cluster.wait_until(async || runs(&["before"]).await).await;
    api.apply(&simulated_model("after", 1, &json!({}))).await;
    cluster.wait_for_replicas("after", 1).await;
    cluster.wait_for_replicas("before", 1).await;
    cluster
        .wait_until(async || runs(&["after", "before"]).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_obey_an_embedded_store_that_was_put_back_to_an_older_file() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("before", 1, &json!({}))).await;
    cluster.wait_for_replicas("before", 1).await;
    let (store, old) = (cluster.dir().join("controller"), cluster.dir().join("old"));
    cluster.kill_controller();
    copy_folder(&store, &old);
    cluster.restart_controller().await;
    cluster.wait_until_ready(&["n1"]).await;
    change_much(&cluster).await;
    cluster.kill_controller();
    copy_folder(&old, &store);
    cluster.restart_controller().await;
    assert_obeyed(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_obey_an_etcd_that_was_restored_from_a_snapshot_under_running_controllers() {
    let mut etcd = Etcd::start();
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("before", 1, &json!({}))).await;
    cluster.wait_for_replicas("before", 1).await;
    let snapshot = cluster.dir().join("snapshot.db");
    etcd.save_snapshot(&snapshot);
    change_much(&cluster).await;
    etcd.kill();
    etcd.restore_snapshot(&snapshot);
    etcd.resume();
    let is_put_back = async || {
        let models = api.models().await;
        models.len() == 1 && models[0]["metadata"]["name"] == "before"
    };
    cluster.wait_until(is_put_back).await;
    assert_obeyed(&cluster).await;
    cluster.stop().await;
}
