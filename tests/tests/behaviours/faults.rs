//! What clients see when nodes fail.

use flotilla_tests::{Cluster, Mode, null_model, open_files};
use futures::future::join_all;
use serde_json::{Value, json};

/// 50 tokens a second for 20 seconds: long enough for anything to happen in between.
fn slow(replicas: u32) -> Value {
    null_model(
        "slow",
        replicas,
        &json!({"outputTokens": 1_000, "tokensPerSecond": 50}),
    )
}

#[tokio::test]
async fn an_agent_killed_mid_stream_ends_it_with_an_error_and_the_next_request_goes_elsewhere() {
    let mut cluster = Cluster::start(Mode::Processes, &["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&slow(2)).await;
    cluster.until(async || api.ready("slow").await == 2).await;
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

#[tokio::test]
async fn an_unstreamed_request_on_a_killed_agent_is_answered_by_another() {
    let mut cluster = Cluster::start(Mode::Processes, &["n1", "n2"]).await;
    let api = cluster.api();
    let model = null_model("m", 2, &json!({"outputTokens": 100, "tokensPerSecond": 50}));
    api.apply(&model).await;
    cluster.until(async || api.ready("m").await == 2).await;
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
    cluster.until(async || active().await.is_some()).await;
    let node = active().await.expect("a node computes it");
    cluster.kill_agent(&node);
    assert_eq!(request.await.unwrap(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn a_lost_node_loses_its_models_to_others_and_serves_again_when_it_returns() {
    let mut cluster = Cluster::start(Mode::Processes, &["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&null_model("m", 1, &json!({}))).await;
    cluster.until(async || api.ready("m").await == 1).await;
    let node = api.model("m").await["status"]["replicas"][0]["node"].clone();
    let node = node.as_str().unwrap();
    cluster.kill_agent(node);
    // Placed elsewhere once the grace is over.
    cluster
        .until(async || {
            let model = api.model("m").await;
            model["status"]["ready"] == 1 && model["status"]["replicas"][0]["node"] != node
        })
        .await;
    api.answer("m", "hi").await;
    cluster.start_agent(node);
    cluster.until_ready(&["n1", "n2"]).await;
    api.apply(&null_model("m", 2, &json!({}))).await;
    cluster.until(async || api.ready("m").await == 2).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_learns_from_the_agents_what_runs() {
    let mut cluster = Cluster::start(Mode::Processes, &["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&null_model("m", 2, &json!({}))).await;
    cluster.until(async || api.ready("m").await == 2).await;
    api.answer("m", "hi").await;
    cluster.restart_controller().await;
    cluster.until(async || api.ready("m").await == 2).await;
    // What was loaded stayed loaded: its counters go on.
    cluster
        .until(async || api.counters("m").await.requests >= 1)
        .await;
    api.answer("m", "hi").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_generation_within_a_token() {
    let cluster = Cluster::start(Mode::Processes, &["n1"]).await;
    let api = cluster.api();
    api.apply(&slow(1)).await;
    cluster.until(async || api.ready("slow").await == 1).await;
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
            .until(async || api.counters("slow").await.active == 1)
            .await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        let gone = async || {
            let counters = api.counters("slow").await;
            counters.cancelled == cancelled && counters.active == 0
        };
        cluster.until(gone).await;
    }
    // Left alone, the two would have given 2,000 tokens; a later request's report shows that
    // no more than those up to the cut were generated.
    let before = api.counters("slow").await.output_tokens;
    api.apply(&null_model("mark", 1, &json!({}))).await;
    cluster.until(async || api.ready("mark").await == 1).await;
    api.answer("mark", "hi").await;
    cluster
        .until(async || api.counters("mark").await.requests == 1)
        .await;
    assert_eq!(api.counters("slow").await.output_tokens, before);
    cluster.stop().await;
}

#[tokio::test]
async fn many_clients_that_come_and_go_leave_no_file_open() {
    let cluster = Cluster::start(Mode::Processes, &["n1"]).await;
    let api = cluster.api();
    api.apply(&null_model("m", 1, &json!({"outputTokens": 3})))
        .await;
    api.apply(&slow(1)).await;
    let both = async || api.ready("m").await == 1 && api.ready("slow").await == 1;
    cluster.until(both).await;
    let agent = cluster.agent("n1").id();
    let round = async || {
        let whole = (0..20).map(|_| api.answer("m", "hi"));
        join_all(whole).await;
        let cut_off = (0..4).map(|_| api.chat("slow", "hi", true));
        drop(join_all(cut_off).await);
        cluster
            .until(async || api.counters("slow").await.active == 0)
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
