//! The live page in a real browser: the suite in `tests/python/test_dashboard.py`.

use flotilla_tests::{Cluster, demo_model, repository, simulated_model};
use serde_json::json;

use crate::openai_client::{DEMO_MODELS, learn_demo_tasks, python};

#[tokio::test]
async fn the_page_shows_the_fleet_streams_an_answer_and_sees_a_node_die() {
    let browser = std::path::Path::new("/usr/bin/chromium");
    assert!(
        browser.is_file(),
        "{} is missing: `make setup` installs it",
        browser.display()
    );
    let cluster = Cluster::start_with(&[], &["n1", "n2"]).await;
    let api = cluster.api();
    for name in DEMO_MODELS {
        api.apply(&demo_model(name, 1)).await;
    }
    let paced = json!({"outputTokens": 200, "tokensPerSecond": 50});
    api.apply(&simulated_model("paced", 1, &paced)).await;
    let ready = async || {
        let models = api.models().await;
        let ready = |model: &&serde_json::Value| model["status"]["phase"] == "Ready";
        models.iter().filter(ready).count() == DEMO_MODELS.len() + 1
    };
    cluster.until(ready).await;
    learn_demo_tasks(&cluster).await;
    let suite = repository().join("tests/python");
    let run = |more: &[&str]| {
        let mut command = tokio::process::Command::new(python());
        command
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs"])
            .args(more)
            .arg(suite.join("test_dashboard.py"))
            .env("FLOTILLA_URL", cluster.url())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let dies = "test_a_node_that_dies_is_shown";
    // The node that is killed is last: the others want it.
    let first = run(&["-k", &format!("not {dies}")]).output().await.unwrap();
    let kill = format!("kill -9 {}", cluster.agent("n2").pid());
    let last = run(&["-k", dies])
        .env("FLOTILLA_DASHBOARD_KILL", kill)
        .env("FLOTILLA_DASHBOARD_VICTIM", "n2")
        .output()
        .await
        .unwrap();
    for output in [first, last] {
        let printed = String::from_utf8_lossy(&output.stdout);
        println!("{printed}");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!printed.contains("skipped"), "{printed}");
    }
}
