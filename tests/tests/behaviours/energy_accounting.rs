//! The energy of requests: measured, attributed, reported, and used to select replicas.

use flotilla_tests::{AgentSettings, Api, Cluster, FakeRapl, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::{
    CHAT_PATH, chat_body, decision_record, decision_with_id, header, router, task,
};

/// Sends a chat request and returns the body of the answer.
async fn chat(api: Api, model: &str) -> Value {
    let response = api.post(CHAT_PATH, &chat_body(model, json!({}))).await;
    assert_eq!(response.status(), 200);
    response.json().await.expect("a JSON body")
}

#[tokio::test]
async fn measured_joules_and_their_cost_are_in_the_answer_and_in_the_node_status() {
    // Close to its range, so that the counter wraps around during the test.
    let mut counter = FakeRapl::counter_range() - 1_000_000;
    let rapl = FakeRapl::new(counter);
    let mut cluster = Cluster::builder().start().await;
    cluster.start_agent(AgentSettings::new("n1").energy_accounting(rapl.energy_accounting()));
    cluster.wait_until_ready(&["n1"]).await;
    let api = cluster.api();
    let grid = json!({"carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR"});
    api.apply(&router(json!({"grid": grid}))).await;
    // 30 tokens at 20 per second: long enough for several windows of the sampler.
    let options = json!({"outputTokens": 30, "tokensPerSecond": 20});
    api.apply(&simulated_model("m", 1, &options)).await;
    cluster.wait_for_replicas("m", 1).await;
    let mut answer = std::pin::pin!(chat(api.clone(), "m"));
    let answer = loop {
        // The fake meter draws about 50 J every 50 ms for as long as the model computes.
        counter += 50_000_000;
        rapl.set_counter(counter);
        let interval = std::time::Duration::from_millis(50);
        if let Ok(answer) = tokio::time::timeout(interval, &mut answer).await {
            break answer;
        }
    };
    let energy = &answer["usage"]["energy"];
    assert_eq!(
        (&energy["source"], &energy["measured"]),
        (&json!("rapl"), &json!(true))
    );
    let joules = energy["joules"].as_f64().expect("joules");
    assert!((200.0..3000.0).contains(&joules), "{energy}");
    assert_eq!(energy["currency"], "EUR");
    // 360 g and 0.36 EUR per 3.6 MJ.
    let grams = energy["co2_grams"].as_f64().expect("grams");
    assert!((grams - joules / 1e4).abs() < 1e-4, "{energy}");

    let is_attributed = async || {
        let nodes = api.nodes().await;
        let energy = nodes[0]["status"]["energy"].clone();
        energy["attributedJoules"]
            .as_f64()
            .is_some_and(|joules| joules > 100.0)
    };
    cluster.wait_until(is_attributed).await;
    let nodes = api.nodes().await;
    let energy = &nodes[0]["status"]["energy"];
    let (all, attributed) = (
        energy["joules"].as_f64(),
        energy["attributedJoules"].as_f64(),
    );
    assert!(
        all >= attributed && all < Some(1e5),
        "the wrap-around is not a jump: {energy}"
    );
    assert_eq!(energy["source"], "rapl");
    cluster.stop().await;
}

#[tokio::test]
async fn node_on_battery_gets_fewer_requests_and_the_record_says_why() {
    let (plugged, portable) = (FakeRapl::new(0), FakeRapl::new(0));
    portable.set_battery(20);
    let mut cluster = Cluster::builder().start().await;
    cluster
        .start_agent(AgentSettings::new("plugged").energy_accounting(plugged.energy_accounting()));
    cluster.start_agent(
        AgentSettings::new("portable").energy_accounting(portable.energy_accounting()),
    );
    cluster.wait_until_ready(&["plugged", "portable"]).await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 2, &json!({"outputTokens": 3})))
        .await;
    cluster.wait_for_replicas("m", 2).await;
    let is_discharging = async || {
        let nodes = api.nodes().await;
        let node = |name: &str| {
            nodes
                .iter()
                .find(|n| n["metadata"]["name"] == name)
                .cloned()
        };
        node("portable").is_some_and(|n| n["status"]["energy"]["battery"]["discharging"] == true)
    };
    cluster.wait_until(is_discharging).await;
    let mut requests = std::collections::BTreeMap::<String, u32>::new();
    let mut is_explained = false;
    for _ in 0..60 {
        let response = api.post(CHAT_PATH, &chat_body("m", json!({}))).await;
        let node = header(&response, "x-flotilla-node");
        *requests.entry(node).or_default() += 1;
        let record = decision_record(&api, &response).await;
        is_explained |= record["candidates"]
            .as_array()
            .expect("candidates")
            .iter()
            .any(|candidate| {
                let pressure = candidate["pressure"].as_str().unwrap_or_default();
                candidate["node"] == "portable" && pressure.contains("on battery, 20 % full")
            });
        for candidate in record["candidates"].as_array().expect("candidates") {
            let chosen_reasons = ["only_replica", "shortest_time", "lowest_energy"];
            let reason = candidate["selection"]["reason"]
                .as_str()
                .expect("a selection reason");
            let is_chosen = candidate["node"] == record["node"];
            assert_eq!(chosen_reasons.contains(&reason), is_chosen, "{record}");
            assert!(candidate["selection"]["text"].is_string(), "{record}");
        }
    }
    assert!(requests["plugged"] > 45, "{requests:?}");
    assert!(is_explained, "no record names the battery");
    cluster.stop().await;
}

#[tokio::test]
async fn energy_of_an_answer_that_misses_its_deadline_is_recorded() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 60_000});
    api.apply(&simulated_model("m", 1, &options)).await;
    cluster.wait_for_replicas("m", 1).await;
    let deadline = json!({"deadline": "200ms"});
    let response = api.post(CHAT_PATH, &chat_body("m", deadline.clone())).await;
    assert_eq!(response.status(), 504);
    let record = decision_record(&api, &response).await;
    let outcome = &record["outcome"];
    assert!(outcome["joules"].as_f64() > Some(0.0), "{record}");
    assert_eq!(outcome["joules_source"], "estimate");

    // So is the energy of a small model whose answer the cascade still holds back at the deadline.
    let slow = json!({"outputTokens": 1000, "tokensPerSecond": 50, "tokenProbability": 0.9});
    api.apply(&simulated_model("small", 1, &slow)).await;
    cluster.wait_for_replicas("small", 1).await;
    let spec = json!({"models": ["small", "m"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("both", spec)).await;
    let response = api.post(CHAT_PATH, &chat_body("task:both", deadline)).await;
    assert_eq!(response.status(), 504);
    let record = decision_record(&api, &response).await;
    assert_eq!(record["cascade_tiers"][0]["outcome"], "failed", "{record}");
    assert!(record["outcome"]["joules"].as_f64() > Some(0.0), "{record}");
    cluster.stop().await;
}

#[tokio::test]
async fn energy_of_a_cascade_is_the_sum_over_its_models() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let options = |probability: f64| json!({"outputTokens": 4, "tokenProbability": probability});
    api.apply(&simulated_model("small", 1, &options(0.4))).await;
    api.apply(&simulated_model("large", 1, &options(0.99)))
        .await;
    cluster
        .wait_until(async || {
            api.ready_replicas("small").await == 1 && api.ready_replicas("large").await == 1
        })
        .await;
    let spec = json!({"models": ["small", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("both", spec)).await;
    let response = api
        .post(CHAT_PATH, &chat_body("task:both", json!({})))
        .await;
    let id = header(&response, "x-flotilla-decision");
    let answer: Value = response.json().await.expect("a JSON body");
    let record = decision_with_id(&api, &id).await;
    let all = answer["usage"]["energy"]["joules"]
        .as_f64()
        .expect("joules");
    let small = record["cascade_tiers"][0]["joules"]
        .as_f64()
        .expect("joules");
    assert!(all > small && small > 0.0, "{record}");
    assert!((record["outcome"]["joules"].as_f64().expect("joules") - all).abs() < 1e-6);
    cluster.stop().await;
}
