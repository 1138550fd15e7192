//! The suites of cases and the fleets that they run against.

use std::process::Command;

use flotilla_tests::{Cluster, FakeUpstream, Mode, demo_model, repository, simulated_model};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::case_runner::{CaseRun, CaseRunner};
use crate::node_test::NodeTest;
use crate::pytest::{self, Pytest};

const DEMO_MODELS: [&str; 5] = [
    "support-intent",
    "assistant-intent-s",
    "assistant-intent-m",
    "numbers",
    "extract",
];

/// The modes of the fake upstream server that other clients meet, each as the model `fake-MODE`.
const FAKE_UPSTREAM_MODES: [&str; 29] = [
    "ok",
    "echo",
    "tools",
    "reasoning-content",
    "refusal",
    "content-filter",
    "pause-300",
    "ignores-stream",
    "ignores-stream-calls",
    "no-call-index",
    "calls-from-one",
    "object-arguments",
    "no-call-id",
    "nulls",
    "content-parts",
    "no-finish",
    "no-done",
    "drop-after-finish",
    "unknown-finish",
    "status-503",
    "retry-seconds-429",
    "context-length",
    "html-error",
    "drop-in-answer",
    "bad-json",
    "error-in-answer",
    "huge-call-index",
    "embeddings-reversed",
    "embeddings-base64",
];

/// The variable that tells a runner the end of the names of the models that only it calls.
const MODEL_SUFFIX_VARIABLE: &str = "FLOTILLA_MODEL_SUFFIX";

/// A set of cases that share a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// The API as the official OpenAI client sees it.
    OpenAiClient,
    /// The live page in a real browser. Its last case kills a node, so it has its own fleet.
    Dashboard,
    /// The API as the libraries see it that applications are built with.
    OtherClients,
}

/// Cases of a suite and the program that runs them.
pub(crate) type SelectedCases = (CaseRunner, Vec<String>);

impl Suite {
    pub(crate) const ALL: [Self; 3] = [Self::OpenAiClient, Self::Dashboard, Self::OtherClients];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenAiClient => "openai_client",
            Self::Dashboard => "dashboard",
            Self::OtherClients => "other_clients",
        }
    }

    /// Returns the programs that run the suite's cases.
    pub(crate) fn runners(self) -> Vec<CaseRunner> {
        let pytest = |name, environment, files| {
            CaseRunner::Pytest(Pytest {
                name,
                environment,
                files,
            })
        };
        match self {
            Self::OpenAiClient => vec![pytest(
                "openai_client",
                "",
                &["--ignore=clients", "--ignore=test_dashboard.py"],
            )],
            Self::Dashboard => vec![pytest("dashboard", "", &["test_dashboard.py"])],
            Self::OtherClients => vec![
                pytest(
                    "clients_of_openai_3",
                    "tests/python/clients/openai_3",
                    &["clients/openai_3"],
                ),
                pytest(
                    "clients_of_openai_2",
                    "tests/python/clients/openai_2",
                    &["clients/openai_2"],
                ),
                CaseRunner::NodeTest(NodeTest),
            ],
        }
    }

    /// Starts the fleet of the suite, runs these cases and stops the fleet.
    ///
    /// # Panics
    /// Panics if the fleet does not start or stop, or if a runner does not run.
    pub(crate) async fn run(self, cases: &[SelectedCases]) -> CaseRun {
        match self {
            Self::OpenAiClient => run_openai_client(cases).await,
            Self::Dashboard => run_dashboard(cases).await,
            Self::OtherClients => run_other_clients(cases).await,
        }
    }
}

async fn run_openai_client(cases: &[SelectedCases]) -> CaseRun {
    let cluster = start_steady_cluster().await;
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
        embedding_model(&cluster),
    ];
    models.extend(DEMO_MODELS.map(|name| demo_model(name, 1)));
    models.extend(counted_models(cases));
    // Never ready, as its files do not exist.
    let absent = local_model("absent", "/nowhere/at/all");
    cluster.api().apply(&absent).await;
    serve(&cluster, &models).await;

    let models_dir = repository().join("models");
    let env = [
        ("FLOTILLA_URL", cluster.url()),
        ("FLOTILLA_MODELS_DIR", models_dir.to_str().unwrap().into()),
    ];
    let run = run_cases(cases, &env).await;
    cluster.stop().await;
    run
}

async fn run_dashboard(cases: &[SelectedCases]) -> CaseRun {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let mut models = counted_models(cases);
    models.extend(DEMO_MODELS.map(|name| demo_model(name, 1)));
    serve(&cluster, &models).await;

    let kill = format!("kill -9 {}", cluster.agent("n2").id());
    let env = [
        ("FLOTILLA_URL", cluster.url()),
        ("FLOTILLA_DASHBOARD_KILL", kill),
        ("FLOTILLA_DASHBOARD_VICTIM", "n2".into()),
    ];
    // A case has killed a node, so the fleet is dropped instead of stopped in order.
    run_cases(cases, &env).await
}

async fn run_other_clients(cases: &[SelectedCases]) -> CaseRun {
    let upstream = FakeUpstream::start().await;
    let cluster = start_steady_cluster().await;
    let mut models = vec![
        simulated_model("instant", 1, &json!({"outputTokens": 9})),
        embedding_model(&cluster),
    ];
    models.extend(DEMO_MODELS.map(|name| demo_model(name, 1)));
    models.extend(counted_models(cases));
    models.extend(FAKE_UPSTREAM_MODES.map(|mode| upstream_model(&upstream, mode)));
    serve(&cluster, &models).await;

    let run = run_cases(cases, &[("FLOTILLA_URL", cluster.url())]).await;
    cluster.stop().await;
    run
}

/// Runs the cases of all runners at the same time.
async fn run_cases(cases: &[SelectedCases], env: &[(&str, String)]) -> CaseRun {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let runs = cases.iter().map(async |(runner, cases)| {
        let suffix = model_suffix(runner);
        let mut env = env.clone();
        env.push((MODEL_SUFFIX_VARIABLE, &suffix));
        runner.run(cases, &env).await
    });
    let mut all = CaseRun::default();
    for run in join_all(runs).await {
        all.add(run);
    }
    all
}

/// The models that cases count the requests of: each runner has its own, since all work at the same time.
fn counted_models(cases: &[SelectedCases]) -> Vec<Value> {
    let suffixes = cases.iter().map(|(runner, _)| model_suffix(runner));
    suffixes
        .flat_map(|suffix| [paced_model(&suffix), narrow_model(&suffix)])
        .collect()
}

/// The end of the names of the models that only this runner calls.
fn model_suffix(runner: &CaseRunner) -> String {
    format!("-{}", runner.name().replace('_', "-"))
}

/// Starts a cluster of two nodes that keeps its links however busy the machine is, and lets pages of one
/// other origin call it.
///
/// Cases count what models do, so models must not be placed again and their counters start again.
async fn start_steady_cluster() -> Cluster {
    Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--link-timeout", "60", "--node-grace-period", "60"])
        .controller_args(&["--cors-origin", "https://chat.example"])
        .agents(["n1", "n2"])
        .start()
        .await
}

/// A model that answers through a mode of the fake upstream server.
fn upstream_model(upstream: &FakeUpstream, mode: &str) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": format!("fake-{mode}")},
        "spec": {"engine": "upstream", "options": {"url": upstream.url(mode), "model": "fake"}},
    })
}

/// A model that writes its files into the cluster's folder first.
fn embedding_model(cluster: &Cluster) -> Value {
    let folder = cluster.dir().join("tiny-embed");
    let status = Command::new(pytest::interpreter(""))
        .arg(pytest::folder().join("make_embedding_model.py"))
        .arg(&folder)
        .status()
        .unwrap();
    assert!(status.success(), "make_embedding_model.py: {status}");
    local_model("tiny-embed", folder.to_str().unwrap())
}

/// A slow model that computes one request and queues one.
fn narrow_model(suffix: &str) -> Value {
    let options = json!({"outputTokens": 20, "tokensPerSecond": 10});
    let mut model = simulated_model(&format!("narrow{suffix}"), 1, &options);
    model["spec"]["concurrency"] = json!(1);
    model["spec"]["queue"] = json!(1);
    model
}

/// A model that answers with 200 tokens, 50 in a second, and queues eight requests.
fn paced_model(suffix: &str) -> Value {
    let options = json!({"outputTokens": 200, "tokensPerSecond": 50});
    let mut model = simulated_model(&format!("paced{suffix}"), 1, &options);
    model["spec"]["queue"] = json!(8);
    model
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
