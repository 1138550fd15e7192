//! A fleet whose wish is kept in etcd.

use std::net::SocketAddr;

use flotilla_tests::{Api, Cluster, DEADLINE, Etcd, Mode, Process, free_address, null_model};
use serde_json::json;

#[tokio::test]
async fn while_etcd_is_away_requests_flow_and_changes_wait() {
    let mut etcd = Etcd::start();
    let cluster = Cluster::start_on(Mode::Processes, Some(etcd.store()), &["n1"]).await;
    let api = cluster.api();
    api.apply(&null_model("m", 1, &json!({}))).await;
    cluster.until(async || api.ready("m").await == 1).await;
    etcd.kill();
    for _ in 0..20 {
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    }
    let (status, answer) = api.try_apply(&null_model("other", 1, &json!({}))).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(answer["error"]["code"], "store_unavailable");
    etcd.resume();
    let other = null_model("other", 1, &json!({}));
    cluster
        .until(async || api.try_apply(&other).await.0 != 503)
        .await;
    cluster.until(async || api.ready("other").await == 1).await;
    assert_eq!(api.ready("m").await, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_finds_the_wish_in_etcd() {
    let etcd = Etcd::start();
    let mut cluster = Cluster::start_on(Mode::InProcess, Some(etcd.store()), &["n1"]).await;
    let api = cluster.api();
    api.apply(&null_model("m", 1, &json!({}))).await;
    cluster.until(async || api.ready("m").await == 1).await;
    cluster.restart_controller().await;
    cluster.until(async || api.ready("m").await == 1).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    cluster.stop().await;
}

/// Two controllers on one etcd, and an agent that may join either.
struct Pair {
    _etcd: Etcd,
    dir: tempfile::TempDir,
    store: String,
    http: [SocketAddr; 2],
    link: [SocketAddr; 2],
}

impl Pair {
    fn new() -> Self {
        let etcd = Etcd::start();
        Self {
            store: etcd.store().to_string(),
            _etcd: etcd,
            dir: tempfile::tempdir().unwrap(),
            http: [free_address(), free_address()],
            link: [free_address(), free_address()],
        }
    }

    fn controller(&self, which: usize) -> Process {
        let (http, link) = (self.http[which].to_string(), self.link[which].to_string());
        let args = [
            "controller",
            "--http",
            &http,
            "--link",
            &link,
            "--store",
            &self.store,
        ];
        Process::start(self.dir.path(), &args)
    }

    fn agent(&self) -> Process {
        let join = format!("{},{}", self.link[0], self.link[1]);
        let data = self.dir.path().join("n1").display().to_string();
        let args = [
            "agent",
            "--join",
            &join,
            "--name",
            "n1",
            "--data-dir",
            &data,
        ];
        Process::start(self.dir.path(), &args)
    }

    /// Waits until this controller serves the model.
    async fn serves(&self, which: usize) -> Api {
        let api = Api::new(self.http[which]);
        let served = async {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
            while api.ready("m").await != 1 {
                tick.tick().await;
            }
        };
        tokio::time::timeout(DEADLINE, served)
            .await
            .expect("it serves the model");
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
        api
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leading_controller_is_killed_the_one_standing_by_takes_over() {
    let pair = Pair::new();
    let mut first = pair.controller(0);
    first.line_with("ready http=");
    let mut second = pair.controller(1);
    second.line_with("standing by");
    let _agent = pair.agent();
    let api = Api::new(pair.http[0]);
    api.apply(&null_model("m", 1, &json!({}))).await;
    pair.serves(0).await;
    first.signal(libc::SIGKILL);
    second.line_with("ready http=");
    pair.serves(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_too_long_steps_down_when_it_resumes() {
    let pair = Pair::new();
    let mut first = pair.controller(0);
    first.line_with("ready http=");
    let mut second = pair.controller(1);
    second.line_with("standing by");
    first.signal(libc::SIGSTOP);
    second.line_with("ready http=");
    first.signal(libc::SIGCONT);
    let (status, output) = first.wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("another controller leads now"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over_at_once() {
    let pair = Pair::new();
    let mut first = pair.controller(0);
    first.line_with("ready http=");
    let mut second = pair.controller(1);
    second.line_with("standing by");
    first.signal(libc::SIGINT);
    let (status, output) = first.wait();
    assert!(status.success(), "{output}");
    second.line_with("ready http=");
    // One that stands by ends as well when it is asked to.
    let mut third = pair.controller(0);
    third.line_with("standing by");
    third.signal(libc::SIGINT);
    assert!(third.wait().0.success());
}
