//! The two limits of an answer's time: until it begins, and until it is complete.

use flotilla_tests::{Api, Cluster, Mode, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::{active_node, error_code};

/// Starts two nodes with a replica of the model `m` each, which computes this many requests at once, under a
/// controller with these arguments.
async fn serve(arguments: &[&str], concurrency: u32, options: &Value) -> Cluster {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(arguments)
        .agents(["n1", "n2"])
        .start()
        .await;
    let mut model = simulated_model("m", 2, options);
    model["spec"]["concurrency"] = json!(concurrency);
    cluster.api().apply(&model).await;
    cluster.wait_for_replicas("m", 2).await;
    cluster
}

/// Returns whether the circuit breaker of a replica is open. Of two replicas with an open breaker one is
/// rejected, and the other is the last resort.
async fn a_breaker_is_open(api: &Api) -> bool {
    let body = json!({"model": "m", "prompt": "hi"});
    let dry_run: Value = api.post("v1/route", &body).await.json().await.unwrap();
    let rejected = dry_run["rejected"].as_array().cloned();
    rejected
        .unwrap_or_default()
        .iter()
        .any(|rejected| rejected["reason"] == "circuit_open")
}

#[tokio::test]
async fn answer_may_take_longer_than_its_first_token_whether_it_is_streamed_or_not() {
    // 3 s for the first token, 5 s for the answer.
    let options = json!({"outputTokens": 250, "tokensPerSecond": 50});
    let cluster = serve(&["--first-token-timeout", "3"], 4, &options).await;
    let api = cluster.api();
    let answers = (0..8).map(|n| api.chat("m", "hi", n == 0));
    for response in futures::future::join_all(answers).await {
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        assert!(!text.contains("\"error\""), "{text}");
    }
    assert!(!a_breaker_is_open(&api).await);
    cluster.stop().await;
}

#[tokio::test]
async fn answer_that_is_too_long_is_an_error_of_its_own_and_no_fault_of_the_replica() {
    let options = json!({"outputTokens": 1_000, "tokensPerSecond": 50});
    let cluster = serve(&["--answer-timeout", "2"], 4, &options).await;
    let api = cluster.api();
    let answers = (0..8).map(|_| api.chat("m", "hi", false));
    for response in futures::future::join_all(answers).await {
        assert_eq!(error_code(response).await, (504, json!("answer_timeout")));
    }
    let stream = api.chat("m", "hi", true).await;
    assert_eq!(stream.status(), 200);
    let stream = stream.text().await.unwrap();
    assert!(stream.contains("answer_timeout"), "{stream}");
    // The node stops computing them, and goes on to get requests.
    cluster
        .wait_until(async || api.counters("m").await.cancelled == 9)
        .await;
    assert!(!a_breaker_is_open(&api).await);
    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5,
    });
    let response = api.post("v1/chat/completions", &body).await;
    assert_eq!(response.status(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn node_that_begins_no_answer_is_a_fault_and_one_that_is_busy_is_none() {
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 30_000});
    let cluster = serve(&["--first-token-timeout", "2"], 1, &options).await;
    let api = cluster.api();
    let not_begun = (504, json!("deadline_exceeded"));
    // Only the first on each node is computed: the others show nothing about the replica.
    let answers = (0..8).map(|n| api.chat("m", "hi", n % 2 == 0));
    for response in futures::future::join_all(answers).await {
        assert_eq!(error_code(response).await, not_begun);
    }
    assert!(!a_breaker_is_open(&api).await);
    // Of four requests one by one, at least two are computed by the same node.
    for _ in 0..4 {
        assert_eq!(
            error_code(api.chat("m", "hi", false).await).await,
            not_begun
        );
    }
    assert!(a_breaker_is_open(&api).await);
    cluster.stop().await;
}

#[tokio::test]
async fn unstreamed_answer_that_has_begun_is_computed_by_another_node_if_its_own_is_lost() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1", "n2"])
        .start()
        .await;
    let api = cluster.api();
    let options = json!({"outputTokens": 200, "tokensPerSecond": 50});
    api.apply(&simulated_model("m", 2, &options)).await;
    cluster.wait_for_replicas("m", 2).await;
    let request = tokio::spawn({
        let api = api.clone();
        async move { api.chat("m", "hi", false).await.status() }
    });
    // More than a second after the first token: the controller knows that the answer has begun.
    let node = active_node(&cluster, 76).await;
    cluster.kill_agent(&node);
    assert_eq!(request.await.unwrap(), 200);
    cluster.stop().await;
}
