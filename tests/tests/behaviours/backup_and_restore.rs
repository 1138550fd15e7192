//! Backups of the desired state, and restores into an empty fleet.

use flotilla_tests::{Cluster, Mode, Process, repository, simulated_model};
use serde_json::json;

/// Runs `flotilla` with these arguments, which must succeed, and returns its output.
fn run(cluster: &Cluster, args: &[&str]) -> String {
    let url = cluster.url();
    let args: Vec<&str> = args.iter().copied().chain(["--url", &url]).collect();
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert!(status.success(), "{args:?}: {output}");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_restores_the_whole_desired_state_into_an_empty_fleet() {
    let old = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = old.api();
    let mut model = simulated_model("m", 1, &json!({"outputTokens": 2}));
    model["spec"]["replicas"] = json!({"min": 1, "max": 3});
    model["spec"]["nodeSelector"] = json!({"harness": "yes"});
    model["spec"]["keepAlive"] = json!("90s");
    api.apply(&model).await;
    api.set_node_operation("n2", &json!({"cordoned": true}))
        .await;
    let numbers = repository().join("models/numbers").display().to_string();
    run(&old, &["model", "push", &numbers, "--name", "sums"]);
    let is_cordoned = async || {
        let nodes = api.nodes().await;
        nodes
            .iter()
            .any(|n| n["status"]["operation"]["cordoned"] == true)
    };
    old.wait_until(is_cordoned).await;
    old.wait_for_replicas("m", 1).await;
    let first = run(&old, &["backup"]);
    let file = old.dir().join("backup.yaml").display().to_string();
    assert!(run(&old, &["backup", "--file", &file]).contains("3 resources"));

    let new = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    // Without the files the restore is not complete, and says so; the rest is restored.
    let url = new.url();
    let args = ["restore", &file, "--timeout", "0", "--url", &url];
    let (status, output) = Process::start(new.dir(), &args).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    for line in [
        "model/m restored",
        "node/n2 restored",
        "the restore is not complete: nobody has",
        "sums/config.json",
        "flotilla model push",
    ] {
        assert!(output.contains(line), "{line} is not in: {output}");
    }
    let file = old.dir().join("with files.yaml").display().to_string();
    run(&old, &["backup", "--file", &file, "--with-files"]);
    assert!(run(&new, &["restore", &file]).contains("artifact/sums restored"));
    let api = new.api();
    new.wait_for_replicas("m", 1).await;
    new.wait_until(async || !api.items("artifacts").await.is_empty())
        .await;
    // A node that joins later gets its restored operation.
    let mut new = new;
    new.start_agent("n2");
    new.wait_until_ready(&["n2"]).await;
    // A fleet that has nodes keeps its id.
    let resources = |backup: &str| {
        let documents = backup
            .split("---\n")
            .filter(|document| !document.contains("kind: Fleet"));
        documents.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(resources(&run(&new, &["backup"])), resources(&first));
    old.stop().await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_is_not_a_backup_changes_nothing() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let model = serde_json::to_string(&simulated_model("m", 1, &json!({}))).unwrap();
    let file = cluster.dir().join("broken.yaml");
    std::fs::write(&file, format!("---\n{model}\n---\nkind: Pod\n")).unwrap();
    let url = cluster.url();
    let args = ["restore", file.to_str().unwrap(), "--url", &url];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("document 2 is not a resource of a backup"),
        "{output}"
    );
    assert!(cluster.api().models().await.is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_with_files_is_complete_without_the_old_disks() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--data-dir", "files"])
        .agents(["n1"])
        .start()
        .await;
    let numbers = repository().join("models/numbers").display().to_string();
    run(&cluster, &["model", "push", &numbers, "--name", "sums"]);
    let api = cluster.api();
    let mut model = simulated_model("m", 1, &json!({}));
    model["spec"] = json!({"source": {"artifact": "sums"}});
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    let file = cluster.dir().join("backup.yaml").display().to_string();
    run(&cluster, &["backup", "--file", &file, "--with-files"]);
    cluster.kill_controller();
    for lost in ["files", "controller"] {
        std::fs::remove_dir_all(cluster.dir().join(lost)).unwrap();
    }
    cluster.restart_controller().await;
    // A restore that was broken off has left a resource in the new fleet.
    api.apply(&simulated_model("s", 1, &json!({}))).await;
    let output = run(&cluster, &["restore", &file]);
    assert!(output.contains("artifact/sums restored"), "{output}");
    assert!(output.contains("fleet/"), "{output}");
    assert!(!output.contains("--adopt-fleet"), "{output}");
    // And once more, without an effect.
    let output = run(&cluster, &["restore", &file]);
    assert!(!output.contains("fleet/"), "{output}");
    // The fleet has its id again, so that the node obeys it.
    cluster.wait_for_replicas("m", 1).await;
    cluster.wait_until_ready(&["n1"]).await;
    // A new machine fetches the files from the controller.
    cluster.kill_agent("n1");
    std::fs::remove_dir_all(cluster.dir().join("n1")).unwrap();
    cluster.start_agent("n1");
    cluster.wait_for_replicas("m", 1).await;
    cluster.stop().await;
}
