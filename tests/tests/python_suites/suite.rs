//! The suites of cases and the fleets that they run against.

use std::path::Path;
use std::process::Command;

use flotilla_tests::{Cluster, FakeUpstream, Mode, demo_model, repository, simulated_model};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::case_runner::{CaseRun, CaseRunner, printed};
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
    /// The same with models in GGUF files, which the engine `llama` computes instead of `mistral`.
    OpenAiClientOnLlama,
    /// The live page in a real browser. Its last case kills a node, so it has its own fleet.
    Dashboard,
    /// The API as the libraries see it that applications are built with.
    OtherClients,
}

/// Cases of a suite and the program that runs them.
pub(crate) type SelectedCases = (CaseRunner, Vec<String>);

impl Suite {
    pub(crate) const ALL: [Self; 4] = [
        Self::OpenAiClient,
        Self::OpenAiClientOnLlama,
        Self::Dashboard,
        Self::OtherClients,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenAiClient => "openai_client",
            Self::OpenAiClientOnLlama => "openai_client_on_llama",
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
            Self::OpenAiClient | Self::OpenAiClientOnLlama => vec![pytest(
                self.name(),
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
            Self::OpenAiClient => run_openai_client(cases, ModelFiles::Folders).await,
            Self::OpenAiClientOnLlama => run_openai_client(cases, ModelFiles::Gguf).await,
            Self::Dashboard => run_dashboard(cases).await,
            Self::OtherClients => run_other_clients(cases).await,
        }
    }
}

/// How the files of the real models are laid out, which decides what engine computes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelFiles {
    /// The folders of the repository: `mistral`.
    Folders,
    /// GGUF files with the same weights: `llama`. In float32 throughout, since the cases compare answers that are
    /// computed alone and beside others: llama.cpp adds numbers in another order then.
    Gguf,
}

impl ModelFiles {
    /// The demo models and the embedding model. What the repository has in another layout is written into the
    /// cluster's folder.
    fn models(self, cluster: &Cluster) -> Vec<Value> {
        let mut models = vec![self.embedding_model(cluster)];
        if self == Self::Gguf {
            let script = repository().join("models/train/to_gguf.py");
            run_python(
                &script,
                &["all", "--f32", "--out", path_text(cluster.dir())],
            );
        }
        models.extend(DEMO_MODELS.map(|name| match self {
            Self::Folders => demo_model(name, 1),
            Self::Gguf => gguf_model(name, &cluster.dir().join(format!("{name}.gguf"))),
        }));
        models
    }

    fn embedding_model(self, cluster: &Cluster) -> Value {
        let (script, files) = match self {
            Self::Folders => ("make_embedding_model.py", "tiny-embed"),
            Self::Gguf => ("make_embedding_gguf.py", "tiny-embed.gguf"),
        };
        let files = cluster.dir().join(files);
        run_python(&pytest::folder().join(script), &[path_text(&files)]);
        match self {
            Self::Folders => local_model("tiny-embed", &files),
            Self::Gguf => gguf_model("tiny-embed", &files),
        }
    }
}

async fn run_openai_client(cases: &[SelectedCases], files: ModelFiles) -> CaseRun {
    let cluster = start_steady_cluster().await;
    let mut limited = simulated_model("limited", 1, &json!({"outputTokens": 3_000}));
    limited["spec"]["maxTokens"] = json!(20);
    limited["spec"]["maxTokensLimit"] = json!(50);
    let mut models = files.models(&cluster);
    let mut owned = models
        .iter()
        .find(|model| model["metadata"]["name"] == "support-intent")
        .unwrap()
        .clone();
    owned["metadata"]["name"] = json!("owned");
    owned["spec"]["defaults"] = json!({"temperature": 2, "seed": 7, "stop": ["_"]});
    models.extend([
        limited,
        owned,
        simulated_model("instant", 1, &json!({"outputTokens": 9})),
    ]);
    models.extend(counted_models(cases));
    // Never ready, as its files do not exist.
    let absent = local_model("absent", Path::new("/nowhere/at/all"));
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
    let mut models = ModelFiles::Folders.models(&cluster);
    models.push(simulated_model("instant", 1, &json!({"outputTokens": 9})));
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

/// Runs a Python script to its end.
fn run_python(script: &Path, arguments: &[&str]) {
    let mut command = Command::new(pytest::interpreter(""));
    let command = command.arg(script).args(arguments);
    let output = command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let printed = printed(&output);
    assert!(output.status.success(), "{}: {printed}", script.display());
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
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
fn local_model(name: &str, path: &Path) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"source": {"path": path_text(path)}},
    })
}

/// A model in a GGUF file that is computed in float32 as far as its weights are. Flash attention rounds what it reads
/// from the cache to 16 bits, whatever its type.
fn gguf_model(name: &str, path: &Path) -> Value {
    let mut model = local_model(name, path);
    model["spec"]["options"] = json!({"kvCacheType": "f32", "flashAttention": false});
    model
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
