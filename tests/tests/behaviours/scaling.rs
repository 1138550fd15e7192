//! Replicas that follow load, and models that give their memory to others.

use flotilla_tests::Load;
use serde_json::json;

use crate::fixtures::{fast_options, nodes_with_memory, sized_model};

#[tokio::test(flavor = "multi_thread")]
async fn idle_model_is_unloaded_and_the_next_request_waits_until_it_is_loaded() {
    let cluster = nodes_with_memory(&["n1"]).await;
    let api = cluster.api();
    let mut sleepy = sized_model(&json!({"min": 0, "max": 1}), "1", 0.5, &fast_options());
    sleepy["spec"]["keepAlive"] = json!("1s");
    api.apply(&sleepy).await;
    cluster.wait_for_replicas("m", 1).await;
    for _ in 0..2 {
        cluster
            .wait_until(async || api.model("m").await["status"]["phase"] == "Asleep")
            .await;
        let load = Load::start(std::slice::from_ref(&api), "m", 5);
        cluster.wait_for_replicas("m", 1).await;
        let tally = load.stop("woken from sleep").await;
        assert!(tally.errors.is_empty(), "{tally}");
        assert!(tally.slowest.as_millis() >= 300, "{tally}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_for_a_sleeping_model_that_fits_on_no_node_is_refused_with_the_reason() {
    let cluster = nodes_with_memory(&["n1"]).await;
    let api = cluster.api();
    let mut sleepy = sized_model(&json!({"min": 0, "max": 1}), "1", 2.0, &fast_options());
    sleepy["spec"]["keepAlive"] = json!("1s");
    api.apply(&sleepy).await;
    cluster
        .wait_until(async || !api.model("m").await.is_null())
        .await;
    let response = api.chat("m", "hi", false).await;
    assert_eq!(response.status(), 503);
    let text = response.text().await.unwrap();
    assert!(text.contains("1 with too little memory"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_load_up_to_the_maximum() {
    let cluster = nodes_with_memory(&["n1", "n2"]).await;
    let api = cluster.api();
    let slow = json!({"outputTokens": 50, "tokensPerSecond": 50});
    let mut busy = sized_model(&json!({"min": 1, "max": 2}), "1", 0.5, &slow);
    busy["spec"]["concurrency"] = json!(1);
    api.apply(&busy).await;
    cluster.wait_for_replicas("m", 1).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    cluster.wait_for_replicas("m", 2).await;
    let tally = load.stop("scaled up").await;
    assert!(tally.errors.is_empty(), "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_model_takes_the_memory_of_the_least_recently_used_one() {
    let cluster = nodes_with_memory(&["n1"]).await;
    let api = cluster.api();
    let named_model = |name: &str| {
        let mut model = sized_model(&json!({"min": 0, "max": 1}), "1", 0.45, &fast_options());
        model["metadata"]["name"] = json!(name);
        model
    };
    for name in ["a", "b"] {
        api.apply(&named_model(name)).await;
        cluster.wait_for_replicas(name, 1).await;
        api.answer(name, "hi").await;
    }
    // Now `a` is the one used last.
    api.answer("a", "hi").await;
    cluster
        .wait_until(async || api.counters("a").await.requests == 2)
        .await;
    api.apply(&named_model("c")).await;
    api.answer("c", "hi").await;
    assert_eq!(
        (api.ready_replicas("a").await, api.ready_replicas("b").await),
        (1, 0)
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sleeping_models_with_memory_for_one_answer_one_after_the_other() {
    let cluster = nodes_with_memory(&["n1"]).await;
    let api = cluster.api();
    for name in ["a", "b"] {
        let mut model = sized_model(&json!({"min": 0, "max": 1}), "1", 0.6, &fast_options());
        model["metadata"]["name"] = json!(name);
        model["spec"]["keepAlive"] = json!("1s");
        api.apply(&model).await;
    }
    let is_asleep = async |name| api.model(name).await["status"]["phase"] == "Asleep";
    for _ in 0..3 {
        cluster
            .wait_until(async || is_asleep("a").await && is_asleep("b").await)
            .await;
        let (a, b) = tokio::join!(api.chat("a", "hi", false), api.chat("b", "hi", false));
        assert_eq!((a.status().as_u16(), b.status().as_u16()), (200, 200));
    }
    cluster.stop().await;
}
