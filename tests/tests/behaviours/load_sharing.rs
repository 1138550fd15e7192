//! How equal replicas share constant load when one of them had a bad moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_tests::{Api, Cluster, Mode, simulated_model};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fixtures::header;

/// Requests that are always under way: more than two replicas compute at once.
const CONCURRENCY: usize = 16;
/// Answers that a share is counted of.
const ANSWERS: usize = 400;

/// When an answer came, and from which node.
type Answer = (Instant, String);

/// Constant load on the model `m`, with who answered.
struct ConstantLoad {
    answers: Arc<Mutex<Vec<Answer>>>,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

impl ConstantLoad {
    fn start(api: &Api) -> Self {
        let (answers, stop) = (
            Arc::<Mutex<Vec<Answer>>>::default(),
            CancellationToken::new(),
        );
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (api, answers, stop) = (api.clone(), answers.clone(), stop.clone());
            workers.spawn(async move {
                while !stop.is_cancelled() {
                    let response = api.chat("m", "hi", false).await;
                    let (status, node) = (response.status(), header(&response, "x-flotilla-node"));
                    let text = response.text().await.unwrap();
                    assert_eq!(status, 200, "{text}");
                    answers.lock().push((Instant::now(), node));
                }
            });
        }
        Self {
            answers,
            stop,
            workers,
        }
    }

    /// The number of answers of each node since this time.
    fn count_since(&self, since: Instant) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, node) in self.answers.lock().iter().filter(|(at, _)| *at >= since) {
            *counts.entry(node.clone()).or_default() += 1;
        }
        counts
    }

    /// Waits for [`ANSWERS`] after this time, ends the load, and returns the number of each node's answers.
    async fn finish(mut self, cluster: &Cluster, since: Instant) -> BTreeMap<String, usize> {
        let count = || self.count_since(since).values().sum::<usize>();
        cluster.wait_until(async || count() >= ANSWERS).await;
        self.stop.cancel();
        while let Some(worker) = self.workers.join_next().await {
            worker.unwrap();
        }
        self.count_since(since)
    }
}

fn assert_fair(counts: &BTreeMap<String, usize>) {
    let of = |node: &str| counts.get(node).copied().unwrap_or(0);
    let (most, least) = (of("n1").max(of("n2")), of("n1").min(of("n2")));
    assert!(most * 5 <= least * 6, "{counts:?}");
}

fn model(revision: &str, options: &Value) -> Value {
    let mut model = simulated_model("m", 2, options);
    model["spec"]["revision"] = json!(revision);
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_replicas_share_the_load_from_two_seconds_after_a_rollout_on() {
    let cluster = Cluster::builder().agents(["n1", "n2"]).start().await;
    let api = cluster.api();
    // After a load the first answers take twenty times as long as the later ones.
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 40, "warmUpMs": 800});
    api.apply(&model("1", &options)).await;
    cluster.wait_for_replicas("m", 2).await;
    let load = ConstantLoad::start(&api);
    api.apply(&model("2", &options)).await;
    let is_rolled_out = async || {
        let status = api.model("m").await["status"].clone();
        let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
        let is_new = |r: &Value| r["phase"] == "Ready" && r["revision"] == status["revision"];
        status["phase"] == "Ready" && replicas.len() == 2 && replicas.iter().all(is_new)
    };
    cluster.wait_until(is_rolled_out).await;
    let counts = load
        .finish(&cluster, Instant::now() + Duration::from_secs(2))
        .await;
    assert_fair(&counts);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_was_slow_once_comes_back_while_others_queue() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 40});
    api.apply(&simulated_model("m", 2, &options)).await;
    cluster.wait_for_replicas("m", 2).await;
    let load = ConstantLoad::start(&api);
    let began = Instant::now();
    let both_answer = async || load.count_since(began).len() == 2;
    cluster.wait_until(both_answer).await;
    // One replica stops while the other gives a hundred answers, which takes about twenty times as long as
    // an answer.
    cluster.agent("n2").signal(libc::SIGSTOP);
    let stopped = Instant::now();
    let others = || load.count_since(stopped).get("n1").copied().unwrap_or(0);
    cluster.wait_until(async || others() >= 100).await;
    cluster.agent("n2").signal(libc::SIGCONT);
    let counts = load
        .finish(&cluster, Instant::now() + Duration::from_secs(2))
        .await;
    assert_fair(&counts);
    cluster.stop().await;
}
