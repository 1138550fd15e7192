//! Which replica and which model answer when several could.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_tests::{Api, Cluster, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::{
    CHAT_PATH, chat_body, decision_record, decision_with_id, fast_and_slow, header, serve, task,
};

#[tokio::test(flavor = "multi_thread")]
async fn node_ten_times_slower_gets_a_small_share_of_the_requests() {
    let options = json!({"outputTokens": 2, "tokensPerSecond": 200});
    let cluster = fast_and_slow("10", &options).await;
    let api = cluster.api();
    let mut requests = BTreeMap::<String, u32>::new();
    for _ in 0..100 {
        // Two at a time, so that the fast node is never idle.
        let (one, two) = tokio::join!(api.chat("m", "hi", false), api.chat("m", "hi", false));
        for response in [one, two] {
            *requests
                .entry(header(&response, "x-flotilla-node"))
                .or_default() += 1;
        }
    }
    let (fast, slow) = (requests["fast"], requests.get("slow").copied().unwrap_or(0));
    assert!(slow * 5 < fast, "{requests:?}");
    // The dry run shows the expected time of each node.
    let body = json!({"model": "m", "prompt": "hi"});
    let dry_run: Value = api.post("v1/route", &body).await.json().await.unwrap();
    let expected = |node: &str| {
        let candidates = dry_run["candidates"].as_array().unwrap();
        let candidate = candidates.iter().find(|c| c["node"] == node).unwrap();
        candidate["predicted_ms"].as_f64().unwrap()
    };
    assert!(expected("slow") > 3.0 * expected("fast"), "{dry_run}");
    assert_eq!(dry_run["node"], "fast");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_replica_is_hedged_with_a_second_one_and_the_loser_is_cancelled() {
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 20});
    let cluster = fast_and_slow("100", &options).await;
    let api = cluster.api();
    api.apply(&task(
        "t",
        json!({"models": ["m"], "hedge": {"after": "100ms"}}),
    ))
    .await;
    let mut hedged = None;
    for n in 0..50 {
        let response = api.chat("task:t", "hi", n % 2 == 0).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-flotilla-node"), "fast");
        let id = header(&response, "x-flotilla-decision");
        response.text().await.unwrap();
        let record = decision_with_id(&api, &id).await;
        if record["hedges"][0]["slow_node"] == "slow" {
            hedged = Some(record);
            break;
        }
    }
    let record = hedged.expect("a request was sent to the slow node first");
    let hedge = &record["hedges"][0];
    assert_eq!(
        (&hedge["slow_node"], &hedge["node"]),
        (&json!("slow"), &json!("fast"))
    );
    assert_eq!(hedge["won"], true);
    cluster
        .wait_until(async || api.counters("m").await.cancelled >= 1)
        .await;
    // The lost time counts in the speed estimate, so the slow node is not selected for a while.
    let mut unhedged = 0;
    let mut unhedged_joules = f64::INFINITY;
    for _ in 0..10 {
        let response = api.chat("task:t", "hi", false).await;
        let is_unhedged = header(&response, "x-flotilla-attempts") == "1";
        unhedged += u32::from(is_unhedged);
        let body: Value = response.json().await.unwrap();
        let joules = body["usage"]["energy"]["joules"].as_f64().unwrap();
        if is_unhedged {
            unhedged_joules = unhedged_joules.min(joules);
        }
    }
    assert!(
        unhedged >= 8,
        "{unhedged} of 10 requests went to the fast node at once"
    );
    // The slow node computed for at least 100 ms before it was cancelled, the fast one for 20 ms.
    let hedged_joules = record["outcome"]["joules"].as_f64().unwrap();
    assert!(
        hedged_joules > 2.0 * unhedged_joules,
        "{hedged_joules} J with a hedge, {unhedged_joules} J without"
    );
    cluster.stop().await;
}

/// Stores the measured quality of a model at a task, as `flotilla eval` does.
async fn store_quality(api: &Api, task: &str, model: &str, correct: u32) {
    let (_, task_resource) = api.get(&format!("api/v1/tasks/{task}")).await;
    let models = task_resource["status"]["models"].as_array().unwrap();
    let current = models.iter().find(|m| m["name"] == model).unwrap();
    let quality = json!({
        "revision": current["revision"], "scoring": "exact", "correct": correct, "total": 100,
        "medianMs": 1.0,
    });
    let path = format!("api/v1/tasks/{task}/quality/{model}");
    let (status, answer) = api.put(&path, &quality).await;
    assert_eq!(status, 204, "{answer}");
}

#[tokio::test]
async fn model_is_selected_by_the_weights_and_limits_of_its_task() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(
        &cluster,
        &api,
        "small",
        &json!({"outputTokens": 2, "timeToFirstTokenMs": 5}),
    )
    .await;
    serve(
        &cluster,
        &api,
        "large",
        &json!({"outputTokens": 2, "timeToFirstTokenMs": 800}),
    )
    .await;
    let apply_objective = async |objective: Value| {
        let spec = json!({"models": ["small", "large"], "objective": objective});
        api.apply(&task("t", spec)).await;
    };
    let send = async |flotilla: Value| {
        let response = api.post(CHAT_PATH, &chat_body("task:t", flotilla)).await;
        let record = decision_record(&api, &response).await;
        let model = header(&response, "x-flotilla-model");
        (model, record)
    };
    // A model without a measured quality does not meet a minimum.
    apply_objective(json!({"minQuality": 0.8})).await;
    let (model, record) = send(json!({})).await;
    assert_eq!(model, "", "{record}");
    assert_eq!(record["rejected"][0]["reason"], "quality", "{record}");
    store_quality(&api, "t", "small", 70).await;
    store_quality(&api, "t", "large", 90).await;
    let (model, record) = send(json!({})).await;
    assert_eq!(model, "large", "{record}");
    let (model, _) = send(json!({"min_quality": 0.95})).await;
    assert_eq!(model, "", "a request may raise the minimum");

    // Their time and energy are known once both have answered.
    for model in ["small", "large"] {
        api.answer(model, "hi").await;
    }
    for (weights, chosen) in [
        (json!({"quality": 1}), "large"),
        (json!({"latency": 1}), "small"),
        (json!({"energy": 1}), "small"),
        (json!({"quality": 1, "latency": 0.05}), "large"),
        (json!({"quality": 0.3, "latency": 1, "energy": 1}), "small"),
    ] {
        apply_objective(json!({"weights": weights})).await;
        let (model, record) = send(json!({})).await;
        assert_eq!(model, chosen, "{weights}: {record}");
        let candidates = record["candidates"].as_array().unwrap();
        assert!(
            candidates.iter().all(|c| c["score"]["total"].is_number()),
            "{record}"
        );
        assert!(
            candidates.iter().all(|c| c["predicted_joules"].is_number()),
            "{record}"
        );
        assert!(
            record["outcome"]["joules"].as_f64().unwrap() > 0.0,
            "{record}"
        );
        let body = json!({"model": "task:t", "prompt": "hi"});
        let dry_run: Value = api.post("v1/route", &body).await.json().await.unwrap();
        assert_eq!(dry_run["model"], chosen, "the dry run differs: {dry_run}");
    }
    // Limits exclude models whatever the weights are.
    apply_objective(json!({"weights": {"quality": 1}, "maxLatency": "400ms"})).await;
    let (model, record) = send(json!({})).await;
    assert_eq!(model, "small", "{record}");
    let reasons: Vec<_> = record["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["reason"])
        .collect();
    assert_eq!(reasons, ["latency"], "{record}");
    apply_objective(json!({})).await;
    let response = api
        .post(CHAT_PATH, &chat_body("task:t", json!({"max_joules": 1e-9})))
        .await;
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "limits_unmet", "{body}");

    // The quality of a new revision is unknown until it is measured.
    apply_objective(json!({"minQuality": 0.8})).await;
    let mut changed = simulated_model("large", 1, &json!({"outputTokens": 2}));
    changed["spec"]["revision"] = json!("other");
    api.apply(&changed).await;
    let is_outdated = async || {
        let (_, task) = api.get("api/v1/tasks/t").await;
        task["status"]["models"][1]["quality"]["current"] == false
    };
    cluster.wait_until(is_outdated).await;
    let (model, record) = send(json!({})).await;
    assert_eq!(model, "", "{record}");
    cluster.stop().await;
}

#[tokio::test]
async fn conversation_stays_on_the_node_that_has_its_prompt_cached() {
    let nodes = ["n1", "n2", "n3"];
    let cluster = Cluster::builder().agents(nodes).start().await;
    let api = cluster.api();
    // A model without a prefix cache has no affinity.
    api.apply(&simulated_model("uncached", 1, &json!({"outputTokens": 1})))
        .await;
    cluster.wait_for_replicas("uncached", 1).await;
    let long = json!([{"role": "user", "content": "a long story ".repeat(40)}]);
    for _ in 0..2 {
        let body = json!({"model": "uncached", "messages": long});
        let response = api.post(CHAT_PATH, &body).await;
        let record = decision_record(&api, &response).await;
        assert_eq!(record["affinity"], Value::Null, "{record}");
    }
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 20, "prefixCache": true});
    api.apply(&simulated_model("m", 3, &options)).await;
    cluster.wait_for_replicas("m", 3).await;
    for conversation in 0..5 {
        let mut messages = vec![json!({
            "role": "user", "content": format!("{conversation} tells a long story. ").repeat(40),
        })];
        let mut previous_node: Option<String> = None;
        for turn in 0..6 {
            let body = json!({"model": "m", "messages": messages});
            let response = api.post(CHAT_PATH, &body).await;
            let node = header(&response, "x-flotilla-node");
            let record = decision_record(&api, &response).await;
            if let Some(previous) = &previous_node {
                assert_eq!(
                    record["affinity"]["node"],
                    json!(previous),
                    "{turn}: {record}"
                );
                assert!(
                    record["affinity"]["cached_bytes"].as_u64().unwrap() >= 800,
                    "{record}"
                );
                assert_eq!(&node, previous, "{record}");
            }
            previous_node = Some(node);
            messages.push(json!({"role": "assistant", "content": "I see."}));
            messages.push(json!({"role": "user", "content": "And then?"}));
        }
    }
    // Requests of a session stay together by its name, even without a long prompt.
    api.apply(&simulated_model("s", 3, &json!({"outputTokens": 1})))
        .await;
    cluster.wait_for_replicas("s", 3).await;
    let mut nodes = BTreeSet::new();
    for _ in 0..10 {
        let response = api
            .post(CHAT_PATH, &chat_body("s", json!({"session": "till-7"})))
            .await;
        nodes.insert(header(&response, "x-flotilla-node"));
    }
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    cluster.stop().await;
}
