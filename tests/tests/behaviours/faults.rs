//! What clients see when nodes fail.

use flotilla_tests::{
    AgentSettings, Cluster, Load, Mode, Proxy, free_address, open_files, simulated_model,
};
use futures::future::join_all;
use serde_json::{Value, json};

/// 50 tokens a second for 20 seconds: long enough for anything to happen in between.
fn slow(replicas: u32) -> Value {
    simulated_model(
        "slow",
        replicas,
        &json!({"outputTokens": 1_000, "tokensPerSecond": 50}),
    )
}

#[tokio::test]
async fn an_agent_killed_mid_stream_ends_it_with_an_error_and_the_next_request_goes_elsewhere() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&slow(2)).await;
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
    while let Some(piece) = response.chunk().await.expect("the stream itself ends well") {
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
async fn a_replica_that_does_not_answer_is_left_alone_until_it_does() {
    // Its link stays: only its answers tell that something is wrong.
    let arguments = ["--first-token-timeout", "1", "--link-timeout", "60"];
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
    // Until its breaker opens, some requests still go there and are answered too late.
    let body = json!({"model": "m", "prompt": "hi"});
    let told = async || -> Value { api.post("v1/route", &body).await.json().await.unwrap() };
    let open = |told: &Value| told["rejected"][0]["reason"] == "circuit_open";
    cluster
        .wait_until(async || {
            join_all((0..4).map(|_| api.chat("m", "hi", false))).await;
            open(&told().await)
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
            let there = |r: &reqwest::Response| node(r).as_deref() == Some("n1");
            responses.iter().any(there) && !open(&told().await)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_unstreamed_request_on_a_killed_agent_is_answered_by_another() {
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
    let active = async || {
        for node in api.nodes().await {
            if node["status"]["models"][0]["counters"]["active"] == 1 {
                return node["metadata"]["name"].as_str().map(str::to_owned);
            }
        }
        None
    };
    cluster.wait_until(async || active().await.is_some()).await;
    let node = active().await.expect("a node computes it");
    cluster.kill_agent(&node);
    assert_eq!(request.await.unwrap(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn a_lost_node_loses_its_models_to_others_and_serves_again_when_it_returns() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    cluster.wait_for_replicas("m", 1).await;
    let node = api.model("m").await["status"]["replicas"][0]["node"].clone();
    let node = node.as_str().unwrap();
    cluster.kill_agent(node);
    // Placed elsewhere once the grace is over.
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
async fn a_restarted_controller_learns_from_the_agents_what_runs() {
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
    // What was loaded stayed loaded: its counters go on.
    cluster
        .wait_until(async || api.counters("m").await.requests >= 1)
        .await;
    api.answer("m", "hi").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_generation_within_a_token() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&slow(1)).await;
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
        let gone = async || {
            let counters = api.counters("slow").await;
            counters.cancelled == cancelled && counters.active == 0
        };
        cluster.wait_until(gone).await;
    }
    // Left alone, the two would have given 2,000 tokens; a later request's report shows that
    // no more than those up to the cut were generated.
    let before = api.counters("slow").await.output_tokens;
    api.apply(&simulated_model("mark", 1, &json!({}))).await;
    cluster.wait_for_replicas("mark", 1).await;
    api.answer("mark", "hi").await;
    cluster
        .wait_until(async || api.counters("mark").await.requests == 1)
        .await;
    assert_eq!(api.counters("slow").await.output_tokens, before);
    cluster.stop().await;
}

#[tokio::test]
async fn many_clients_that_come_and_go_leave_no_file_open() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({"outputTokens": 3})))
        .await;
    api.apply(&slow(1)).await;
    let both = async || api.ready_replicas("m").await == 1 && api.ready_replicas("slow").await == 1;
    cluster.wait_until(both).await;
    let agent = cluster.agent("n1").id();
    let round = async || {
        let whole = (0..20).map(|_| api.answer("m", "hi"));
        join_all(whole).await;
        let cut_off = (0..4).map(|_| api.chat("slow", "hi", true));
        drop(join_all(cut_off).await);
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

/// Two replicas on two nodes, the second one behind a line that can be broken.
struct Broken {
    cluster: Cluster,
    proxy: Proxy,
}

impl Broken {
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

    async fn wait_until_ready(&self, replicas: u64) {
        self.cluster.wait_for_replicas("m", replicas).await;
    }

    /// Under constant load no request fails that had not begun to stream.
    async fn under_load(self, name: &str, fault: impl AsyncFnOnce(&Self)) {
        let load = Load::start(&[self.cluster.api()], "m", 6);
        fault(&self).await;
        let tally = load.stop(name).await;
        assert!(tally.errors.is_empty(), "{tally}");
        assert!(tally.requests > 20, "{tally}");
        self.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_line_fails_no_request_and_the_node_returns_with_what_it_has() {
    let broken = Broken::start().await;
    let fault = async |broken: &Broken| {
        let before = broken.cluster.api().counters("m").await.requests;
        for _ in 0..3 {
            broken.proxy.cut();
            broken.wait_until_ready(1).await;
            broken.proxy.open();
            broken.wait_until_ready(2).await;
        }
        // Nothing was loaded anew.
        let after = broken.cluster.api().counters("m").await.requests;
        assert!(after >= before, "{before} {after}");
    };
    broken
        .under_load("the line to a node cut three times", fault)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_line_is_noticed_and_fails_no_request() {
    let broken = Broken::start().await;
    let fault = async |broken: &Broken| {
        let began = std::time::Instant::now();
        broken.proxy.silence();
        broken.wait_until_ready(1).await;
        println!("noticed after {:.1} s", began.elapsed().as_secs_f64());
        broken.proxy.open();
        broken.wait_until_ready(2).await;
    };
    broken
        .under_load("the line to a node half open", fault)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_is_noticed_and_its_requests_are_answered_by_others() {
    let broken = Broken::start().await;
    let fault = async |broken: &Broken| {
        broken.cluster.agent("n2").signal(libc::SIGSTOP);
        broken.wait_until_ready(1).await;
        broken.cluster.agent("n2").signal(libc::SIGCONT);
        broken.wait_until_ready(2).await;
    };
    broken
        .under_load("an agent stopped and resumed", fault)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_fails_no_request_that_had_not_begun_to_stream() {
    let mut broken = Broken::start().await;
    let load = Load::start(&[broken.cluster.api()], "m", 6);
    for _ in 0..3 {
        broken.cluster.kill_agent("n1");
        broken.wait_until_ready(1).await;
        broken.cluster.start_agent("n1");
        broken.wait_until_ready(2).await;
    }
    let tally = load.stop("an agent killed and started three times").await;
    assert!(tally.errors.is_empty(), "{tally}");
    broken.cluster.stop().await;
}
