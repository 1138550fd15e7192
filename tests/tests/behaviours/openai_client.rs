//! The API as the official Python client sees it: the suite in `tests/python`.

use std::process::Command;

use flotilla_tests::{Cluster, demo_model, repository, simulated_model};
use serde_json::json;

pub(crate) const DEMO_MODELS: [&str; 5] = [
    "support-intent",
    "assistant-intent-s",
    "assistant-intent-m",
    "numbers",
    "extract",
];

/// The interpreter that `make test` set up.
pub(crate) fn python() -> std::path::PathBuf {
    match std::env::var_os("FLOTILLA_TEST_PYTHON") {
        Some(python) => python.into(),
        None => repository().join(".venv/bin/python"),
    }
}

#[tokio::test]
async fn the_official_client_and_its_strict_types_accept_every_answer() {
    let python = python();
    assert!(
        python.is_file(),
        "{} is missing: `make setup` makes it",
        python.display()
    );
    // The suite counts what models did: they are not to be placed anew, and begin to count anew,
    // where the machine is too busy for a while to keep the links up.
    let patient = ["--link-timeout", "60", "--node-grace-period", "60"];
    let cluster = Cluster::start_with(&patient, &["n1", "n2"]).await;
    let api = cluster.api();
    let suite = repository().join("tests/python");

    let embedding = cluster.dir().join("tiny-embed");
    let made = Command::new(&python)
        .arg(suite.join("make_embedding_model.py"))
        .arg(&embedding)
        .status()
        .unwrap();
    assert!(made.success());

    let with = |mut model: serde_json::Value, fields: serde_json::Value| {
        for (field, value) in fields.as_object().unwrap() {
            model["spec"][field] = value.clone();
        }
        model
    };
    let paced = simulated_model(
        "paced",
        1,
        &json!({"outputTokens": 200, "tokensPerSecond": 50}),
    );
    let narrow = simulated_model(
        "narrow",
        1,
        &json!({"outputTokens": 20, "tokensPerSecond": 10}),
    );
    let local = |name: &str, path: &str| {
        json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
            "spec": {"source": {"path": path}},
        })
    };
    api.apply(&simulated_model("instant", 1, &json!({"outputTokens": 9})))
        .await;
    api.apply(&with(paced, json!({"queue": 8}))).await;
    api.apply(&with(narrow, json!({"concurrency": 1, "queue": 1})))
        .await;
    api.apply(&local("tiny-embed", embedding.to_str().unwrap()))
        .await;
    api.apply(&local("absent", "/nowhere/at/all")).await;
    for name in DEMO_MODELS {
        api.apply(&demo_model(name, 1)).await;
    }
    let ready = async || {
        let models = api.models().await;
        let ready = models
            .iter()
            .filter(|model| model["status"]["phase"] == "Ready");
        ready.count() == DEMO_MODELS.len() + 4
    };
    cluster.until(ready).await;

    learn_demo_tasks(&cluster).await;

    let output = tokio::process::Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(&suite)
        // The page has a fleet of its own, of which a node dies.
        .arg(format!(
            "--ignore={}",
            suite.join("test_dashboard.py").display()
        ))
        .env("FLOTILLA_URL", cluster.url())
        .env("FLOTILLA_MODELS_DIR", repository().join("models"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    cluster.stop().await;
}

/// Has the fleet tell the demo models' tasks apart.
pub(crate) async fn learn_demo_tasks(cluster: &Cluster) {
    let api = cluster.api();
    let tasks = std::fs::read_to_string(repository().join("models/tasks.yaml")).unwrap();
    for resource in flotilla_core::spec::parse_yaml(&tasks).unwrap() {
        api.apply(&serde_json::to_value(&resource).unwrap()).await;
    }
    let learnt = async || {
        let tasks = api.items("tasks").await;
        tasks.iter().all(|task| task["status"]["trained"] == true)
    };
    cluster.until(learnt).await;
}
