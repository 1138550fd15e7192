//! A fleet that has something to tell of everything.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use flotilla_tests::{
    Api, Cluster, Etcd, Mode, Process, address_in_line, free_address, simulated_model,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::resources::task;

/// Two controllers on one etcd with two nodes, of which one is slower and in a zone, and requests of
/// all sorts that go on.
pub(super) struct Observed {
    cluster: Cluster,
    _etcd: Etcd,
    second: Process,
    slow: Process,
    apis: [Api; 2],
    /// Where Prometheus finds the controllers.
    pub(super) targets: [SocketAddr; 2],
    /// Where it could find the slow node itself.
    pub(super) of_node: SocketAddr,
    /// What goes on beside the test; ends with it.
    beside: JoinSet<()>,
}

impl Observed {
    pub(super) async fn start() -> Self {
        let etcd = Etcd::start();
        let cluster = Cluster::builder()
            .mode(Mode::Processes)
            .store(etcd.store())
            .agents(["fast"])
            .start()
            .await;
        let (store, any) = (etcd.store().to_string(), "127.0.0.1:0");
        let controller = [
            "controller",
            "--http",
            any,
            "--link",
            any,
            "--store",
            &store,
        ];
        let mut second = Process::start(cluster.dir(), &controller);
        let line = second.wait_for_line("ready http=");
        let of_node = free_address();
        let (link, metrics) = (cluster.link_address().to_string(), of_node.to_string());
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
            of_node,
            beside: JoinSet::new(),
        };
        observed.serve().await;
        for api in observed.apis.clone() {
            observed.beside.spawn(ask_on(api));
        }
        observed
    }

    /// Has models answer, by their names, by task, after a smaller one and not at all.
    async fn serve(&mut self) {
        let api = &self.apis[0];
        let pace = |more: Value| {
            let mut options =
                json!({"outputTokens": 9, "tokensPerSecond": 500, "timeToFirstTokenMs": 5});
            let more = more.as_object().unwrap().clone();
            options.as_object_mut().unwrap().extend(more);
            options
        };
        api.apply(&simulated_model("large", 2, &pace(json!({}))))
            .await;
        let unsure = pace(json!({"tokenProbability": 0.4}));
        api.apply(&simulated_model("small", 2, &unsure)).await;
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
        });
        api.apply(&task("travel", travel)).await;
        let grid = json!({"carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR"});
        let router = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Router", "metadata": {"name": "default"},
            "spec": {"grid": grid},
        });
        api.apply(&router).await;
        for api in &self.apis {
            let ready = async || {
                let ready = async |model: &'static str, replicas| {
                    api.ready_replicas(model).await == replicas
                };
                ready("large", 2).await && ready("small", 2).await && ready("broken", 2).await
            };
            self.cluster.wait_until(ready).await;
            let learnt = async || {
                let tasks = api.items("tasks").await;
                tasks.len() == 2 && tasks.iter().all(|task| task["status"]["trained"] == true)
            };
            self.cluster.wait_until(learnt).await;
        }
    }

    /// A server for a model that fails whatever is asked, so that others are tried.
    async fn broken_server(&mut self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let fails = Router::new().fallback(|| std::future::ready(StatusCode::BAD_GATEWAY));
        self.beside
            .spawn(async move { axum::serve(listener, fails).await.unwrap() });
        url
    }

    pub(super) async fn stop(mut self) {
        self.beside.shutdown().await;
        for process in [&mut self.slow, &mut self.second] {
            process.signal(libc::SIGINT);
            let (status, output) = process.wait();
            assert!(status.success(), "{status}:\n{output}");
        }
        self.cluster.stop().await;
    }
}

/// Requests of all sorts, one after the other, for as long as somebody waits for them.
async fn ask_on(api: Api) {
    let keyed = api.with_key("a-client");
    for turn in 0.. {
        for (model, text) in [
            ("auto", "freeze my account"),
            ("auto", "a flight to rome"),
            ("large", "hi"),
            ("broken", "hi"),
            ("no-such-model", "hi"),
        ] {
            if let Ok(response) = keyed.try_chat(model, text, turn % 2 == 0).await {
                // Whether it was answered is not what is looked at here.
                let _ = response.bytes().await;
            }
        }
    }
}
