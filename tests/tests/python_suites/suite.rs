//! The two suites of Python tests and the fleets that they run against.

use std::process::Command;

use flotilla_tests::{Cluster, Mode, demo_model, repository, simulated_model};
use serde_json::{Value, json};

use crate::pytest::{self, PytestRun};

const DEMO_MODELS: [&str; 5] = [
    "support-intent",
    "assistant-intent-s",
    "assistant-intent-m",
    "numbers",
    "extract",
];

/// A set of cases that share a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// The API as the official OpenAI client sees it.
    OpenAiClient,
    /// The live page in a real browser. Its last case kills a node, so it has its own fleet.
    Dashboard,
}

impl Suite {
    pub(crate) const ALL: [Self; 2] = [Self::OpenAiClient, Self::Dashboard];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenAiClient => "openai_client",
            Self::Dashboard => "dashboard",
        }
    }

    /// Whether a case is of this suite.
    pub(crate) fn contains(self, case: &str) -> bool {
        case.starts_with("test_dashboard.py::") == (self == Self::Dashboard)
    }

    /// Starts the fleet of the suite, runs these cases and stops the fleet.
    ///
    /// # Panics
    /// Panics if the fleet does not start or stop, or if pytest does not run.
    pub(crate) async fn run(self, cases: &[String]) -> PytestRun {
        match self {
            Self::OpenAiClient => run_openai_client(cases).await,
            Self::Dashboard => run_dashboard(cases).await,
        }
    }
}

async fn run_openai_client(cases: &[String]) -> PytestRun {
    // The cases count what models do. Models must not be placed again, and their counters start again,
    // when the machine is too busy for a while to keep the links up.
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--link-timeout", "60", "--node-grace-period", "60"])
        .controller_args(&["--cors-origin", "https://chat.example"])
        .agents(["n1", "n2"])
        .start()
        .await;
    let embedding_model = cluster.dir().join("tiny-embed");
    let status = Command::new(pytest::interpreter())
        .arg(pytest::folder().join("make_embedding_model.py"))
        .arg(&embedding_model)
        .status()
        .unwrap();
    assert!(status.success(), "make_embedding_model.py: {status}");

    let mut paced = paced_model();
    paced["spec"]["queue"] = json!(8);
    let options = json!({"outputTokens": 20, "tokensPerSecond": 10});
    let mut narrow = simulated_model("narrow", 1, &options);
    narrow["spec"]["concurrency"] = json!(1);
    narrow["spec"]["queue"] = json!(1);
    let mut limited = simulated_model("limited", 1, &json!({"outputTokens": 3_000}));
    limited["spec"]["maxTokens"] = json!(20);
    limited["spec"]["maxTokensLimit"] = json!(50);
    let mut owned = demo_model("support-intent", 1);
    owned["metadata"]["name"] = json!("owned");
    owned["spec"]["defaults"] = json!({"temperature": 2, "seed": 7, "stop": ["_"]});
    let mut models = vec![
        limited,
        owned,
        simulated_model("instant", 1, &json!({"outputTokens": 9})),
        paced,
        narrow,
        local_model("tiny-embed", embedding_model.to_str().unwrap()),
    ];
    models.extend(DEMO_MODELS.map(|name| demo_model(name, 1)));
    // Never ready, as its files do not exist.
    let absent = local_model("absent", "/nowhere/at/all");
    cluster.api().apply(&absent).await;
    serve(&cluster, &models).await;

    let models_dir = repository().join("models");
    let env = [
        ("FLOTILLA_URL", cluster.url()),
        ("FLOTILLA_MODELS_DIR", models_dir.to_str().unwrap().into()),
    ];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let run = pytest::run(cases, &env).await;
    cluster.stop().await;
    run
}

async fn run_dashboard(cases: &[String]) -> PytestRun {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let mut models = vec![paced_model()];
    models.extend(DEMO_MODELS.map(|name| demo_model(name, 1)));
    serve(&cluster, &models).await;

    let kill = format!("kill -9 {}", cluster.agent("n2").id());
    let url = cluster.url();
    let env = [
        ("FLOTILLA_URL", url.as_str()),
        ("FLOTILLA_DASHBOARD_KILL", kill.as_str()),
        ("FLOTILLA_DASHBOARD_VICTIM", "n2"),
    ];
    // A case has killed a node, so the fleet is dropped instead of stopped in order.
    pytest::run(cases, &env).await
}

/// A model that answers with 200 tokens, 50 in a second.
fn paced_model() -> Value {
    let options = json!({"outputTokens": 200, "tokensPerSecond": 50});
    simulated_model("paced", 1, &options)
}

/// A model whose files are at a path of the nodes.
fn local_model(name: &str, path: &str) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"source": {"path": path}},
    })
}

/// Applies these models and the demo tasks, and waits until all are ready and trained.
async fn serve(cluster: &Cluster, models: &[Value]) {
    let api = cluster.api();
    for model in models {
        api.apply(model).await;
    }
    let is_served = async || {
        let reported = api.models().await;
        let is_ready = |model: &&Value| model["status"]["phase"] == "Ready";
        reported.iter().filter(is_ready).count() == models.len()
    };
    cluster.wait_until(is_served).await;

    let tasks = std::fs::read_to_string(repository().join("models/tasks.yaml")).unwrap();
    for resource in flotilla_core::spec::parse_yaml(&tasks).unwrap() {
        api.apply(&serde_json::to_value(&resource).unwrap()).await;
    }
    let is_trained = async || {
        let tasks = api.items("tasks").await;
        tasks.iter().all(|task| task["status"]["trained"] == true)
    };
    cluster.wait_until(is_trained).await;
}
