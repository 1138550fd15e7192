//! Models whose files the controllers deliver to the nodes.

use std::path::PathBuf;
use std::process::Command;

use flotilla_tests::{
    AgentSettings, Cluster, FileServer, Load, Mode, Process, flotilla_binary, repository,
};
use serde_json::{Value, json};
use sha2::Digest;

use crate::fixtures::copy_folder;

/// Returns the folder of a demo model.
fn demo_folder(name: &str) -> PathBuf {
    repository()
        .join("models")
        .join(name)
        .canonicalize()
        .unwrap()
}

fn model(name: &str, replicas: u32, source: &Value) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"source": source, "replicas": replicas},
    })
}

/// Runs `flotilla` with these arguments, which must succeed, and returns its output.
fn run(cluster: &Cluster, args: &[&str]) -> String {
    let url = cluster.url();
    let args: Vec<&str> = args.iter().copied().chain(["--url", &url]).collect();
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert!(status.success(), "{args:?}: {output}");
    output
}

const QUESTION: &str = "what is the sum of 4, 8 and 15?";

#[tokio::test(flavor = "multi_thread")]
async fn pushed_model_is_delivered_to_its_nodes_and_updated_when_pushed_again() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"].map(|name| AgentSettings::new(name).args(&["--file-retention", "0s"])))
        .start()
        .await;
    let api = cluster.api();
    let source = cluster.dir().join("mine");
    copy_folder(&demo_folder("numbers"), &source);
    let path = source.display().to_string();
    api.apply(&model("m", 2, &json!({"artifact": "sums"})))
        .await;
    let is_missing = async || {
        let status = api.model("m").await["status"].clone();
        status["fetch"].to_string().contains("flotilla model push")
    };
    cluster.wait_until(is_missing).await;
    let output = run(&cluster, &["model", "push", &path, "--name", "sums"]);
    assert!(output.contains("artifact/sums pushed"), "{output}");
    cluster.wait_for_replicas("m", 2).await;
    assert_eq!(api.answer("m", QUESTION).await, "27");
    // The same content again changes nothing; other content is a new revision.
    let output = run(&cluster, &["model", "push", &path, "--name", "sums"]);
    assert!(output.contains("0 of them new"), "{output}");
    let before = api.model("m").await["status"]["revision"].clone();
    let load = Load::start(std::slice::from_ref(&api), "m", 2);
    std::fs::write(source.join("NOTES.md"), "better").unwrap();
    let output = run(&cluster, &["model", "push", &path, "--name", "sums"]);
    assert!(output.contains("1 of them new"), "{output}");
    let is_updated = async || {
        let status = api.model("m").await["status"].clone();
        status["revision"] != before && status["phase"] == "Ready" && status["ready"] == 2
    };
    cluster.wait_until(is_updated).await;
    let tally = load.stop("pushed again").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    let listed = run(&cluster, &["get", "artifacts"]);
    assert!(listed.contains("sums"), "{listed}");
    let url = cluster.url();
    let args = ["delete", "artifact", "sums", "--url", &url];
    let (status, output) = Process::start(cluster.dir(), &args).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("The model 'm' uses"), "{output}");
    // Files that no model needs are deleted from the nodes after the retention.
    api.delete_model("m").await;
    let blobs = cluster.dir().join("n1/blobs");
    let is_empty = async || std::fs::read_dir(&blobs).unwrap().count() == 0;
    cluster.wait_until(is_empty).await;
    run(&cluster, &["delete", "artifact", "sums"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_killed_while_it_fetches_resumes_the_fetch() {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let path = demo_folder("numbers").display().to_string();
    cluster.start_agent(AgentSettings::new("n1").args(&["--fetch-rate", "400KiB"]));
    cluster.wait_until_ready(&["n1"]).await;
    let api = cluster.api();
    api.apply(&model("m", 1, &json!({"controllerPath": path})))
        .await;
    let is_fetching = async || {
        let replica = api.model("m").await["status"]["replicas"][0].clone();
        let progress = replica["progress"].as_str().unwrap_or_default().to_owned();
        let percent = progress
            .strip_prefix("fetching ")
            .and_then(|p| p.strip_suffix(" %"));
        replica["phase"] == "Fetching"
            && percent.is_some_and(|percent| percent.parse::<u32>().unwrap() > 20)
    };
    cluster.wait_until(is_fetching).await;
    cluster.kill_agent("n1");
    let incoming = cluster.dir().join("n1/incoming");
    let partial = std::fs::read_dir(incoming)
        .unwrap()
        .flatten()
        .next()
        .expect("a partial file");
    assert!(partial.metadata().unwrap().len() > 0);
    cluster.start_agent(AgentSettings::new("n1"));
    cluster.agent_mut("n1").wait_for_line("resuming a fetch");
    cluster.wait_for_replicas("m", 1).await;
    assert_eq!(api.answer("m", QUESTION).await, "27");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_from_a_server_is_checked_before_the_model_loads() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let files = cluster.dir().join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("m.gguf"), b"this is no model").unwrap();
    let server = FileServer::start(files, None).await;
    let url = format!("{}/files/m.gguf", server.url());
    let wrong = json!({"url": url, "sha256": "00".repeat(32)});
    api.apply(&model("wrong", 1, &wrong)).await;
    let is_refused = async || {
        let status = api.model("wrong").await["status"].clone();
        let fetch = status["fetch"].to_string();
        status["phase"] == "Failed"
            && fetch.contains("its SHA-256 is")
            && fetch.contains("spec.source.sha256")
    };
    cluster.wait_until(is_refused).await;
    let response = api.chat("wrong", "hi", false).await;
    assert_eq!(response.status(), 503);
    // With the right digest the file is delivered to the node, which fails to load it.
    let digest = hex::encode(sha2::Sha256::digest(b"this is no model"));
    api.apply(&model("right", 1, &json!({"url": url, "sha256": digest})))
        .await;
    let has_failed = async || {
        let (_, model) = api.get("api/v1/models/right").await;
        let reason = model["status"]["unschedulableNodes"]["n1"].to_string();
        reason.contains("failed to load it")
    };
    cluster.wait_until(has_failed).await;
    let gone = json!({"url": format!("{}/files/gone.gguf", server.url()), "sha256": digest});
    api.apply(&model("gone", 1, &gone)).await;
    let is_fetched = async || {
        let fetch = api.model("gone").await["status"]["fetch"].to_string();
        // The controller has the file already, under its digest.
        fetch == "null"
    };
    cluster.wait_until(is_fetched).await;
    let other =
        json!({"url": format!("{}/files/gone.gguf", server.url()), "sha256": "11".repeat(32)});
    api.apply(&model("vanished", 1, &other)).await;
    let is_reported = async || {
        let fetch = api.model("vanished").await["status"]["fetch"].to_string();
        fetch.contains("404") && fetch.contains("check the address")
    };
    cluster.wait_until(is_reported).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_of_a_server_with_an_own_authority_is_fetched_with_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.gguf"), b"this is no model").unwrap();
    let (server, authority) = FileServer::start_with_tls(dir.path().to_owned()).await;
    let ca = dir.path().join("ca.pem").display().to_string();
    std::fs::write(&ca, authority).unwrap();
    let digest = hex::encode(sha2::Sha256::digest(b"this is no model"));
    let source = json!({"url": format!("{}/files/m.gguf", server.url()), "sha256": digest});
    for (args, is_trusted) in [(vec![], false), (vec!["--ca-file", ca.as_str()], true)] {
        let cluster = Cluster::builder()
            .mode(Mode::Processes)
            .controller_args(&args)
            .start()
            .await;
        let api = cluster.api();
        api.apply(&model("m", 1, &source)).await;
        let is_decided = async || {
            let status = api.model("m").await["status"].clone();
            let fetch = status["fetch"].to_string();
            match is_trusted {
                true => fetch == "null" && status["phase"] == "Pending",
                false => fetch.contains("certificate") && fetch.contains("--ca-file"),
            }
        };
        cluster.wait_until(is_decided).await;
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hugging_face_repository_is_fetched_with_the_token() {
    let server = FileServer::start(demo_folder("numbers"), Some("secret")).await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(flotilla_binary());
    command
        .args([
            "up",
            "--nodes",
            "1",
            "--http",
            "127.0.0.1:0",
            "--data-dir",
            "data",
            "--log",
            "info",
        ])
        .args([
            "--models",
            &demo_folder("")
                .join("support-intent.yaml")
                .display()
                .to_string(),
        ])
        .current_dir(dir.path())
        .env("HF_ENDPOINT", server.url())
        .env("HF_TOKEN", "secret");
    let mut fleet = Process::spawn(command);
    let line = fleet.wait_for_line("API   http://");
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .trim_end_matches("/v1");
    let api = flotilla_tests::Api::new(address.parse().unwrap());
    let source = json!({"huggingFace": {"repo": "flotilla/numbers", "revision": "a".repeat(40)}});
    api.apply(&model("m", 1, &source)).await;
    let is_ready = async || api.ready_replicas("m").await == 1;
    let is_in_time = flotilla_tests::holds_in_time(is_ready).await;
    assert!(is_in_time, "{:#}", api.model("m").await);
    assert_eq!(api.answer("m", QUESTION).await, "27");
    fleet.signal(libc::SIGINT);
    assert!(fleet.wait().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_file_on_a_node_is_fetched_again_at_the_next_start() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let numbers = demo_folder("numbers").display().to_string();
    run(&cluster, &["model", "push", &numbers, "--name", "sums"]);
    api.apply(&model("m", 1, &json!({"artifact": "sums"})))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    cluster.kill_agent("n1");
    let blobs = std::fs::read_dir(cluster.dir().join("n1/blobs")).unwrap();
    let largest = blobs.flatten().map(|entry| entry.path());
    let largest = largest
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut content = std::fs::read(&largest).unwrap();
    let middle = content.len() / 2;
    content[middle..middle + 4_096].fill(0x5A);
    std::fs::write(&largest, content).unwrap();
    cluster.start_agent("n1");
    cluster
        .agent_mut("n1")
        .wait_for_line("a file of a model is damaged");
    cluster.wait_for_replicas("m", 1).await;
    assert_eq!(api.answer("m", QUESTION).await, "27");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_share_files_fetch_them_once() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents([AgentSettings::new("n1").args(&["--fetch-rate", "2MiB"])])
        .start()
        .await;
    let api = cluster.api();
    let source = cluster.dir().join("mine");
    copy_folder(&demo_folder("numbers"), &source);
    let path = source.display().to_string();
    run(&cluster, &["model", "push", &path, "--name", "one"]);
    std::fs::write(
        source.join("NOTES.md"),
        "another artifact with the same weights",
    )
    .unwrap();
    run(&cluster, &["model", "push", &path, "--name", "two"]);
    for name in ["one", "two"] {
        api.apply(&model(name, 1, &json!({"artifact": name}))).await;
    }
    for name in ["one", "two"] {
        cluster.wait_for_replicas(name, 1).await;
        assert_eq!(api.answer(name, QUESTION).await, "27");
    }
    let files = std::fs::read_dir(&source).unwrap().count();
    let blobs = std::fs::read_dir(cluster.dir().join("n1/blobs"))
        .unwrap()
        .count();
    assert_eq!(blobs, files);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn model_whose_files_do_not_fit_on_the_disk_is_not_placed_and_says_why() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents([AgentSettings::new("n1").args(&["--disk", "10KiB"])])
        .start()
        .await;
    let api = cluster.api();
    let numbers = demo_folder("numbers").display().to_string();
    run(&cluster, &["model", "push", &numbers, "--name", "sums"]);
    api.apply(&model("m", 1, &json!({"artifact": "sums"})))
        .await;
    let explains = async || {
        let status = api.model("m").await["status"].to_string();
        status.contains("with too little disk space")
    };
    cluster.wait_until(explains).await;
    let listed = run(&cluster, &["get", "nodes"]);
    assert!(
        listed.contains("DISK") && listed.contains("of 10.0 KiB"),
        "{listed}"
    );
    let blobs = std::fs::read_dir(cluster.dir().join("n1/blobs"));
    assert!(blobs.is_err(), "nothing was fetched");
    cluster.stop().await;
}
