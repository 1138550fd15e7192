//! What requests take of a node's energy, as its meter says, and what follows from it.

use flotilla_tests::{AgentSettings, Api, Cluster, FakeRapl, simulated_model};
use serde_json::{Value, json};

use crate::resources::task;

async fn chat(api: Api, model: &str) -> Value {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    let response = api.post("v1/chat/completions", &body).await;
    assert_eq!(response.status(), 200);
    response.json().await.expect("an answer")
}

#[tokio::test]
async fn a_meters_joules_reach_the_answer_the_record_and_the_metrics_with_what_they_cost() {
    // Close to the counter's end: it wraps around while it is read.
    let mut counter = FakeRapl::counter_range() - 1_000_000;
    let rapl = FakeRapl::new(counter);
    let mut cluster = Cluster::builder().start().await;
    cluster.start_agent(AgentSettings::new("n1").energy_accounting(rapl.energy_accounting()));
    cluster.wait_until_ready(&["n1"]).await;
    let api = cluster.api();
    let grid = json!({"carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR"});
    api.apply(&json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Router", "metadata": {"name": "default"},
        "spec": {"grid": grid},
    }))
    .await;
    // 30 tokens at 20 a second: long enough for the meter's windows.
    let options = json!({"outputTokens": 30, "tokensPerSecond": 20});
    api.apply(&simulated_model("m", 1, &options)).await;
    cluster.wait_for_replicas("m", 1).await;
    let asked = chat(api.clone(), "m");
    let mut asked = std::pin::pin!(asked);
    let answer = loop {
        // About 50 J in every 50 ms.
        counter += 50_000_000;
        rapl.set_counter(counter);
        let pause = std::time::Duration::from_millis(50);
        if let Ok(answer) = tokio::time::timeout(pause, &mut asked).await {
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

    let brief = async || {
        let nodes = api.nodes().await;
        let energy = nodes[0]["status"]["energy"].clone();
        energy["attributedJoules"]
            .as_f64()
            .is_some_and(|joules| joules > 100.0)
    };
    cluster.wait_until(brief).await;
    let nodes = api.nodes().await;
    let told = &nodes[0]["status"]["energy"];
    let (all, attributed) = (told["joules"].as_f64(), told["attributedJoules"].as_f64());
    assert!(
        all >= attributed && all < Some(1e5),
        "the wrap-around is no jump: {told}"
    );
    assert_eq!(told["source"], "rapl");
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_on_battery_is_used_less_and_its_record_says_why() {
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
    let strained = async || {
        let nodes = api.nodes().await;
        let of = |name: &str| {
            nodes
                .iter()
                .find(|n| n["metadata"]["name"] == name)
                .cloned()
        };
        of("portable").is_some_and(|n| n["status"]["energy"]["battery"]["discharging"] == true)
    };
    cluster.wait_until(strained).await;
    let mut on = std::collections::BTreeMap::<String, u32>::new();
    let mut told = false;
    for _ in 0..60 {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let response = api.post("v1/chat/completions", &body).await;
        let header = |name: &str| {
            let value = response.headers().get(name).expect("a header");
            value.to_str().expect("a text").to_owned()
        };
        *on.entry(header("x-flotilla-node")).or_default() += 1;
        let id = header("x-flotilla-decision");
        let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
        told |= record["candidates"]
            .as_array()
            .expect("candidates")
            .iter()
            .any(|candidate| {
                let pressure = candidate["pressure"].as_str().unwrap_or_default();
                candidate["node"] == "portable" && pressure.contains("on battery, 20 % full")
            });
        for candidate in record["candidates"].as_array().expect("candidates") {
            let first = ["only_replica", "shortest_time", "lowest_energy"];
            let is = candidate["selection"]["reason"]
                .as_str()
                .expect("a selection reason");
            let chosen = candidate["node"] == record["node"];
            assert_eq!(first.contains(&is), chosen, "{record}");
            assert!(candidate["selection"]["text"].is_string(), "{record}");
        }
    }
    assert!(on["plugged"] > 45, "{on:?}");
    assert!(told, "no record says why");
    cluster.stop().await;
}

#[tokio::test]
async fn what_an_answer_took_that_did_not_begin_in_time_is_on_record() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 60_000});
    api.apply(&simulated_model("m", 1, &options)).await;
    cluster.wait_for_replicas("m", 1).await;
    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}],
        "flotilla": {"deadline": "200ms"},
    });
    let response = api.post("v1/chat/completions", &body).await;
    assert_eq!(response.status(), 504);
    let id = response.headers()["x-flotilla-decision"].to_str();
    let path = format!("v1/decisions/{}", id.expect("a text"));
    let (_, record) = api.get(&path).await;
    let outcome = &record["outcome"];
    assert!(outcome["joules"].as_f64() > Some(0.0), "{record}");
    assert_eq!(outcome["joules_source"], "estimate");

    // Nor does what a small model took get lost whose answer was held back when the time was up.
    let slow = json!({"outputTokens": 1000, "tokensPerSecond": 50, "tokenProbability": 0.9});
    api.apply(&simulated_model("small", 1, &slow)).await;
    cluster.wait_for_replicas("small", 1).await;
    let spec = json!({"models": ["small", "m"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("both", spec)).await;
    let mut body = body;
    body["model"] = json!("task:both");
    let response = api.post("v1/chat/completions", &body).await;
    assert_eq!(response.status(), 504);
    let id = response.headers()["x-flotilla-decision"].to_str();
    let path = format!("v1/decisions/{}", id.expect("a text"));
    let (_, record) = api.get(&path).await;
    assert_eq!(record["cascade_tiers"][0]["outcome"], "failed", "{record}");
    assert!(record["outcome"]["joules"].as_f64() > Some(0.0), "{record}");
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_cascade_took_of_several_models_is_one_sum() {
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
    let body = json!({"model": "task:both", "messages": [{"role": "user", "content": "hi"}]});
    let response = api.post("v1/chat/completions", &body).await;
    let id = response.headers()["x-flotilla-decision"]
        .to_str()
        .expect("a text")
        .to_owned();
    let answer: Value = response.json().await.expect("an answer");
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
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
