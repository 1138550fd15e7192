//! A fleet that reports every metric.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use flotilla_tests::{
    Api, Cluster, Etcd, Mode, Process, address_in_line, free_address, simulated_model,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fixtures::{router, task};

/// Two controllers on one etcd and two nodes, one of them slower and in a zone, under a load of all
/// kinds of requests.
pub(super) struct ObservedFleet {
    cluster: Cluster,
    _etcd: Etcd,
    second: Process,
    slow: Process,
    apis: [Api; 2],
    /// The addresses of the controllers, which Prometheus scrapes.
    pub(super) targets: [SocketAddr; 2],
    /// The address at which the slow node reports its own metrics.
    pub(super) node_target: SocketAddr,
    /// The load and a server that fails. They end with the fleet.
    tasks: JoinSet<()>,
}

impl ObservedFleet {
    pub(super) async fn start() -> Self {
        let etcd = Etcd::start();
        let cluster = Cluster::builder()
            .mode(Mode::Processes)
            .store(etcd.store())
            .agents(["fast"])
            .start()
            .await;
        let (store, any_port) = (etcd.store().to_string(), "127.0.0.1:0");
        let controller = [
            "controller",
            "--http",
            any_port,
            "--link",
            any_port,
            "--store",
            &store,
            "--data-dir",
            "second",
        ];
        let mut second = Process::start(cluster.dir(), &controller);
        let line = second.wait_for_line("ready http=");
        let node_target = free_address();
        let (link, metrics) = (cluster.link_address().to_string(), node_target.to_string());
        let mut agent = vec!["agent", "--join", &link, "--name", "slow"];
        agent.extend(["--zone", "clinic", "--simulated-slowdown", "10"]);
        agent.extend([
            "--data-dir",
            "slow",
            "--drain-timeout",
            "5",
            "--metrics",
            &metrics,
        ]);
        let slow = Process::start(cluster.dir(), &agent);
        let targets = [cluster.http_address(), address_in_line(&line, "http")];
        let mut observed = Self {
            cluster,
            _etcd: etcd,
            second,
            slow,
            apis: targets.map(Api::new),
            targets,
            node_target,
            tasks: JoinSet::new(),
        };
        observed.serve().await;
        for api in observed.apis.clone() {
            observed.tasks.spawn(send_requests(api));
        }
        observed
    }

    /// Applies models and tasks: answers by name, by task, from a cascade, and a model that always fails.
    async fn serve(&mut self) {
        let api = &self.apis[0];
        let options = |more: Value| {
            let mut all =
                json!({"outputTokens": 9, "tokensPerSecond": 500, "timeToFirstTokenMs": 5});
            let more = more.as_object().unwrap().clone();
            all.as_object_mut().unwrap().extend(more);
            all
        };
        api.apply(&simulated_model("large", 2, &options(json!({}))))
            .await;
        let unconfident = options(json!({"tokenProbability": 0.4}));
        api.apply(&simulated_model("small", 2, &unconfident)).await;
        let broken = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "broken"},
            "spec": {
                "engine": "upstream", "replicas": 2,
                "options": {"url": self.broken_server().await},
            },
        });
        let api = &self.apis[0];
        api.apply(&broken).await;
        let banking = json!({
            "models": ["large"], "hedge": {"after": "2ms"},
            "examples": ["freeze my account please", "what is my routing number"],
        });
        api.apply(&task("banking", banking)).await;
        let travel = json!({
            "models": ["small", "large"], "cascade": {"accept": {"atLeast": 0.5}},
            "examples": ["book a flight to paris", "find me a hotel in rome"],
            "learn": {"from": "escalations"},
        });
        api.apply(&task("travel", travel)).await;
        let grid = json!({"carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR"});
        api.apply(&router(json!({"grid": grid}))).await;
        for api in &self.apis {
            let ready = async || {
                let ready = async |model: &'static str, replicas| {
                    api.ready_replicas(model).await == replicas
                };
                ready("large", 2).await && ready("small", 2).await && ready("broken", 2).await
            };
            self.cluster.wait_until(ready).await;
            let is_trained = async || {
                let tasks = api.items("tasks").await;
                tasks.len() == 2 && tasks.iter().all(|task| task["status"]["trained"] == true)
            };
            self.cluster.wait_until(is_trained).await;
        }
    }

    /// Starts a server that fails every request, so that attempts are retried, and returns its URL.
    async fn broken_server(&mut self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let fails = Router::new().fallback(|| std::future::ready(StatusCode::BAD_GATEWAY));
        self.tasks
            .spawn(async move { axum::serve(listener, fails).await.unwrap() });
        url
    }

    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.slow.stop();
        self.second.stop();
        self.cluster.stop().await;
    }
}

/// Sends requests of all kinds, one after the other, until it is aborted.
async fn send_requests(api: Api) {
    let keyed = api.with_key("a-client");
    // It is too long to be kept, which is counted.
    let long_prompt = "a flight ".repeat(4_000);
    for round in 0.. {
        for (model, text) in [
            ("auto", "freeze my account"),
            ("auto", "a flight to rome"),
            ("task:travel", &long_prompt),
            ("large", "hi"),
            ("broken", "hi"),
            ("no-such-model", "hi"),
        ] {
            if let Ok(response) = keyed.try_chat(model, text, round % 2 == 0).await {
                // Only the metrics matter here, not the answer.
                let _ = response.bytes().await;
            }
        }
    }
}
