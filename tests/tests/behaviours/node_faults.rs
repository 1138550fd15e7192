//! Agents and network lines that fail, and what clients see of it.

use std::process::{Command, Stdio};

use crate::fixtures::{active_node, serve};
use flotilla_tests::{
    AgentSettings, Cluster, Load, Mode, Proxy, flotilla_binary, free_address, open_files,
    simulated_model,
};
use futures::future::join_all;
use serde_json::{Value, json};

/// A model whose answers take 20 seconds, at 50 tokens a second, so that faults happen within them.
fn slow_model(replicas: u32) -> Value {
    simulated_model(
        "slow",
        replicas,
        &json!({"outputTokens": 1_000, "tokensPerSecond": 50}),
    )
}

#[tokio::test]
async fn killed_agent_ends_its_streams_with_an_error_and_the_next_request_uses_another_node() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&slow_model(2)).await;
    cluster.wait_for_replicas("slow", 2).await;
    let mut response = api.chat("slow", "hi", true).await;
    let node = response.headers()["x-flotilla-node"]
        .to_str()
        .unwrap()
        .to_owned();
    let first = response.chunk().await.unwrap().expect("a frame");
    assert!(first.starts_with(b"data: "));

    cluster.kill_agent(&node);
    let mut rest = Vec::new();
    while let Some(piece) = response.chunk().await.expect("the response ends in order") {
        rest.extend_from_slice(&piece);
    }
    let rest = String::from_utf8(rest).unwrap();
    let last = rest.trim_end().rsplit("data: ").next().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "node_lost", "{error}");

    let other = api.chat("slow", "hi", true).await;
    assert_eq!(other.status(), 200);
    assert_ne!(other.headers()["x-flotilla-node"], node.as_str());
    drop(other);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_does_not_answer_gets_no_requests_until_it_does() {
    // The link stays up: only missing answers show that something is wrong.
    let arguments = ["--first-token-timeout", "2", "--link-timeout", "60"];
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&arguments)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 2, &json!({"outputTokens": 2})))
        .await;
    cluster.wait_for_replicas("m", 2).await;
    let node = |response: &reqwest::Response| {
        let name = response.headers().get("x-flotilla-node");
        name.map(|name| name.to_str().unwrap().to_owned())
    };
    cluster.agent("n1").signal(libc::SIGSTOP);
    // Until the circuit breaker opens, some requests are sent there and retried elsewhere.
    let body = json!({"model": "m", "prompt": "hi"});
    let dry_run = async || -> Value { api.post("v1/route", &body).await.json().await.unwrap() };
    let is_open = |dry_run: &Value| dry_run["rejected"][0]["reason"] == "circuit_open";
    cluster
        .wait_until(async || {
            join_all((0..4).map(|_| api.chat("m", "hi", false))).await;
            is_open(&dry_run().await)
        })
        .await;
    for _ in 0..20 {
        let response = api.chat("m", "hi", false).await;
        assert_eq!(response.status(), 200);
        assert_eq!(node(&response).as_deref(), Some("n2"));
    }
    cluster.agent("n1").signal(libc::SIGCONT);
    cluster
        .wait_until(async || {
            let responses = join_all((0..4).map(|_| api.chat("m", "hi", false))).await;
            let is_from_n1 = |r: &reqwest::Response| node(r).as_deref() == Some("n1");
            responses.iter().any(is_from_n1) && !is_open(&dry_run().await)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn unstreamed_request_on_a_killed_agent_is_answered_by_another() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    let model = simulated_model("m", 2, &json!({"outputTokens": 100, "tokensPerSecond": 50}));
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 2).await;
    let request = tokio::spawn({
        let api = api.clone();
        async move { api.chat("m", "hi", false).await.status() }
    });
    let node = active_node(&cluster, 0).await;
    cluster.kill_agent(&node);
    assert_eq!(request.await.unwrap(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn models_of_a_lost_node_move_to_others_and_the_node_serves_again_when_it_returns() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    let node = api.model("m").await["status"]["replicas"][0]["node"].clone();
    let node = node.as_str().unwrap();
    cluster.kill_agent(node);
    // The model moves when the grace period of the node is over.
    cluster
        .wait_until(async || {
            let model = api.model("m").await;
            model["status"]["ready"] == 1 && model["status"]["replicas"][0]["node"] != node
        })
        .await;
    api.answer("m", "hi").await;
    cluster.start_agent(node);
    cluster.wait_until_ready(&["n1", "n2"]).await;
    api.apply(&simulated_model("m", 2, &json!({}))).await;
    cluster.wait_for_replicas("m", 2).await;
    cluster.stop().await;
}

#[tokio::test]
async fn restarted_controller_learns_from_the_agents_what_runs() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 2, &json!({}))).await;
    cluster.wait_for_replicas("m", 2).await;
    api.answer("m", "hi").await;
    cluster.restart_controller().await;
    cluster.wait_for_replicas("m", 2).await;
    // The replicas stayed loaded: their counters continue.
    cluster
        .wait_until(async || api.counters("m").await.requests >= 1)
        .await;
    api.answer("m", "hi").await;
    cluster.stop().await;
}

#[tokio::test]
async fn generation_stops_when_the_client_disconnects() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&slow_model(1)).await;
    cluster.wait_for_replicas("slow", 1).await;
    for (streamed, cancelled) in [(true, 1), (false, 2)] {
        let request = tokio::spawn({
            let api = api.clone();
            async move {
                let mut response = api.chat("slow", "hi", streamed).await;
                response.chunk().await.unwrap();
                std::future::pending::<()>().await;
            }
        });
        cluster
            .wait_until(async || api.counters("slow").await.active == 1)
            .await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        let is_cancelled = async || {
            let counters = api.counters("slow").await;
            counters.cancelled == cancelled && counters.active == 0
        };
        cluster.wait_until(is_cancelled).await;
    }
    // The two answers would have had 2,000 tokens. The report of a later request shows that none was
    // generated after the clients left.
    let before = api.counters("slow").await.output_tokens;
    api.apply(&simulated_model("marker", 1, &json!({}))).await;
    cluster.wait_for_replicas("marker", 1).await;
    api.answer("marker", "hi").await;
    cluster
        .wait_until(async || api.counters("marker").await.requests == 1)
        .await;
    assert_eq!(api.counters("slow").await.output_tokens, before);
    cluster.stop().await;
}

#[tokio::test]
async fn clients_that_come_and_go_leave_no_file_open() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({"outputTokens": 3})))
        .await;
    api.apply(&slow_model(1)).await;
    let are_ready =
        async || api.ready_replicas("m").await == 1 && api.ready_replicas("slow").await == 1;
    cluster.wait_until(are_ready).await;
    let agent = cluster.agent("n1").id();
    let round = async || {
        let complete = (0..20).map(|_| api.answer("m", "hi"));
        join_all(complete).await;
        let aborted = (0..4).map(|_| api.chat("slow", "hi", true));
        drop(join_all(aborted).await);
        cluster
            .wait_until(async || api.counters("slow").await.active == 0)
            .await;
    };
    round().await;
    let before = open_files(agent);
    for _ in 0..5 {
        round().await;
    }
    let after = open_files(agent);
    assert!(after <= before, "{before} open files became {after}");
    cluster.stop().await;
}

/// Two replicas of `m` on two nodes, the second node behind a line that can be fleet.
struct ClusterWithProxy {
    cluster: Cluster,
    proxy: Proxy,
}

impl ClusterWithProxy {
    async fn start() -> Self {
        let link = free_address();
        let proxy = Proxy::start(link).await;
        let advertised = proxy.address().to_string();
        let mut cluster = Cluster::builder()
            .mode(Mode::Processes)
            .link(link)
            .controller_args(&["--advertise-link", &advertised])
            .agents(["n1"])
            .start()
            .await;
        cluster.start_agent(AgentSettings::new("n2").controller(proxy.address()));
        cluster.wait_until_ready(&["n1", "n2"]).await;
        let api = cluster.api();
        let options = json!({"outputTokens": 4, "tokensPerSecond": 100});
        api.apply(&simulated_model("m", 2, &options)).await;
        cluster.wait_for_replicas("m", 2).await;
        Self { cluster, proxy }
    }

    /// Waits until this many replicas are ready.
    async fn wait_for_replicas(&self, replicas: u64) {
        self.cluster.wait_for_replicas("m", replicas).await;
    }

    /// Injects a fault under constant load; no request may fail before anything was streamed.
    async fn inject_under_load(self, name: &str, fault: impl AsyncFnOnce(&Self)) {
        let load = Load::start(&[self.cluster.api()], "m", 6);
        fault(&self).await;
        let tally = load.stop(name).await;
        assert!(tally.errors.is_empty(), "{tally}");
        assert!(tally.requests > 20, "{tally}");
        self.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_line_fails_no_request_and_the_node_returns_with_its_models() {
    let fleet = ClusterWithProxy::start().await;
    let fault = async |fleet: &ClusterWithProxy| {
        let before = fleet.cluster.api().counters("m").await.requests;
        for _ in 0..3 {
            fleet.proxy.cut();
            fleet.wait_for_replicas(1).await;
            fleet.proxy.open();
            fleet.wait_for_replicas(2).await;
        }
        // No replica was loaded again: that would reset the counters.
        let after = fleet.cluster.api().counters("m").await.requests;
        assert!(after >= before, "{before} {after}");
    };
    fleet
        .inject_under_load("the line to a node cut three times", fault)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_line_is_detected_and_fails_no_request() {
    let fleet = ClusterWithProxy::start().await;
    let fault = async |fleet: &ClusterWithProxy| {
        let began = std::time::Instant::now();
        fleet.proxy.silence();
        fleet.wait_for_replicas(1).await;
        println!("detected after {:.1} s", began.elapsed().as_secs_f64());
        fleet.proxy.open();
        fleet.wait_for_replicas(2).await;
    };
    fleet
        .inject_under_load("the line to a node half open", fault)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_agent_is_detected_and_its_requests_are_answered_by_others() {
    let fleet = ClusterWithProxy::start().await;
    let fault = async |fleet: &ClusterWithProxy| {
        fleet.cluster.agent("n2").signal(libc::SIGSTOP);
        fleet.wait_for_replicas(1).await;
        fleet.cluster.agent("n2").signal(libc::SIGCONT);
        fleet.wait_for_replicas(2).await;
    };
    fleet
        .inject_under_load("an agent paused and resumed", fault)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_agent_fails_only_requests_that_already_stream() {
    let mut fleet = ClusterWithProxy::start().await;
    let load = Load::start(&[fleet.cluster.api()], "m", 6);
    for _ in 0..3 {
        fleet.cluster.kill_agent("n1");
        fleet.wait_for_replicas(1).await;
        fleet.cluster.start_agent("n1");
        fleet.wait_for_replicas(2).await;
    }
    let tally = load.stop("an agent killed and started three times").await;
    assert!(tally.errors.is_empty(), "{tally}");
    fleet.cluster.stop().await;
}

#[tokio::test]
async fn agent_whose_log_nobody_reads_serves() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let link = cluster.link_address().to_string();
    let data = cluster.dir().join("n1").display().to_string();
    let mut agent = Command::new(flotilla_binary())
        .args([
            "agent",
            "--join",
            &link,
            "--name",
            "n1",
            "--data-dir",
            &data,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Before it has written a line.
    drop(agent.stderr.take());
    cluster.wait_until_ready(&["n1"]).await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    assert!(agent.try_wait().expect("it can be asked").is_none());
    agent.kill().expect("it runs");
    agent.wait().expect("it can be waited for");
    cluster.stop().await;
}
