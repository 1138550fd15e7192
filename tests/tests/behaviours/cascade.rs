//! A small model answers first, a larger one where it is not sure; and how well they do is measured.

use std::path::PathBuf;
use std::process::Command;

use flotilla_tests::{
    AgentSettings, Api, Cluster, Mode, demo_model, flotilla_binary, repository, simulated_model,
};
use serde_json::{Value, json};

use crate::resources::{header, serve, task};

async fn record(api: &Api, response: &reqwest::Response) -> Value {
    let id = header(response, "x-flotilla-decision");
    let (status, record) = api.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(status, 200, "{record}");
    record
}

/// The pair of real models, as a task with a cascade.
async fn serve_pair(cluster: &Cluster, api: &Api, cascade: Value) {
    for name in ["assistant-intent-s", "assistant-intent-m"] {
        api.apply(&demo_model(name, 1)).await;
    }
    for name in ["assistant-intent-s", "assistant-intent-m"] {
        cluster.wait_for_replicas(name, 1).await;
    }
    let models = ["assistant-intent-s", "assistant-intent-m"];
    api.apply(&task(
        "assistant",
        json!({"models": models, "cascade": cascade}),
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sure_answer_of_the_small_model_is_kept_and_an_unsure_one_escalates() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let accept = json!({"measure": "min", "atLeast": 0.9});
    serve_pair(&cluster, &api, json!({"accept": accept})).await;
    for stream in [false, true] {
        let response = api
            .chat("task:assistant", "what is the weather like today", stream)
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-flotilla-model"), "assistant-intent-s");
        let told = record(&api, &response).await;
        let body = response.text().await.unwrap();
        assert!(body.contains("weather"), "{body}");
        // Log-probabilities were needed, but nobody asked to see them.
        assert!(!body.contains("\"logprob\""), "{body}");
        assert_eq!(told["cascade_tiers"][0]["outcome"], "accepted", "{told}");
        assert!(
            told["cascade_tiers"][0]["confidence"].as_f64().unwrap() >= 0.9,
            "{told}"
        );

        let unclear = "zebra purple seventeen maybe, or not";
        let response = api.chat("task:assistant", unclear, stream).await;
        assert_eq!(header(&response, "x-flotilla-model"), "assistant-intent-m");
        assert_eq!(header(&response, "x-flotilla-task"), "assistant");
        let told = record(&api, &response).await;
        response.text().await.unwrap();
        let tier = &told["cascade_tiers"][0];
        assert_eq!(tier["model"], "assistant-intent-s");
        assert!(
            ["low_confidence", "stopped_early"].contains(&tier["outcome"].as_str().unwrap()),
            "{told}"
        );
        assert!(tier["confidence"].as_f64().unwrap() < 0.9, "{told}");
        assert_eq!(told["model"], "assistant-intent-m");
        // Both are among what was compared.
        assert_eq!(told["candidates"].as_array().unwrap().len(), 2, "{told}");
    }
    // Whoever names the small model gets the small model.
    let response = api.chat("assistant-intent-s", "zebra purple", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "assistant-intent-s");
    // What was asked for is there, and not more.
    let body = json!({
        "model": "task:assistant", "logprobs": true, "top_logprobs": 1, "temperature": 0,
        "messages": [{"role": "user", "content": "what is the weather like today"}],
    });
    let answer: Value = api
        .post("v1/chat/completions", &body)
        .await
        .json()
        .await
        .unwrap();
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert!(!tokens.is_empty());
    assert!(
        tokens
            .iter()
            .all(|t| t["top_logprobs"].as_array().unwrap().len() == 1),
        "{answer}"
    );
    cluster.stop().await;
}

fn unsure(tokens: u32, pace: u32) -> Value {
    json!({"outputTokens": tokens, "tokensPerSecond": pace, "tokenProbability": 0.4})
}

#[tokio::test]
async fn an_answer_that_is_lost_is_stopped_and_one_that_nobody_betters_is_kept() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    // Ten seconds for the whole answer, if anybody waited for it.
    serve(&cluster, &api, "small", &unsure(200, 20)).await;
    serve(&cluster, &api, "large", &json!({"outputTokens": 2})).await;
    let spec = json!({"models": ["small", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    let response = api.chat("task:t", "hi", true).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    let told = record(&api, &response).await;
    assert_eq!(
        told["cascade_tiers"][0]["outcome"], "stopped_early",
        "{told}"
    );
    assert!(
        told["cascade_tiers"][0]["duration_ms"].as_f64().unwrap() < 5_000.0,
        "{told}"
    );
    cluster
        .wait_until(async || api.counters("small").await.cancelled == 1)
        .await;

    // One that has yet to be loaded is not waited for where a larger one is ready.
    let options = json!({"outputTokens": 2, "loadMs": 600_000});
    api.apply(&simulated_model("loading", 1, &options)).await;
    let spec = json!({"models": ["loading", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    let told = record(&api, &response).await;
    assert_eq!(told["cascade_tiers"][0]["outcome"], "failed", "{told}");
    api.delete_model("loading").await;
    // One that sleeps is woken, though nobody waits for it.
    let mut sleeps = simulated_model("sleeps", 1, &json!({"outputTokens": 2}));
    sleeps["spec"]["replicas"] = json!({"min": 0, "max": 1});
    api.apply(&sleeps).await;
    let spec = json!({"models": ["sleeps", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    cluster.wait_for_replicas("sleeps", 1).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "sleeps");

    // Without the larger one the small one's answer is better than none.
    serve(&cluster, &api, "brief", &unsure(3, 0)).await;
    let spec = json!({"models": ["brief", "absent"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec.clone())).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-flotilla-model"), "brief");
    let told = record(&api, &response).await;
    assert_eq!(
        told["cascade_tiers"][0]["outcome"], "accepted_as_fallback",
        "{told}"
    );
    assert_eq!(told["outcome"]["completion_tokens"], 3, "{told}");
    // But not where the quality was to be certain.
    let mut strict = spec;
    strict["objective"] = json!({"minQuality": 0.9});
    api.apply(&task("t", strict)).await;
    assert_eq!(api.chat("task:t", "hi", false).await.status(), 503);
    cluster.stop().await;
}

#[tokio::test]
async fn an_answer_of_the_wrong_form_escalates_and_a_zone_keeps_the_larger_one_out() {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    cluster.start_agent(AgentSettings::new("inside").args(&["--zone", "clinic"]));
    cluster.start_agent(AgentSettings::new("outside"));
    cluster.wait_until_ready(&["inside", "outside"]).await;
    let api = cluster.api();
    let placed = async |name: &str, node: &str, options: Value| {
        let mut model = simulated_model(name, 1, &options);
        model["spec"]["nodeSelector"] = json!({"flotilla.dev/node": node});
        api.apply(&model).await;
        cluster.wait_for_replicas(name, 1).await;
    };
    placed("sure", "inside", json!({"outputTokens": 2})).await;
    placed("unsure", "inside", unsure(2, 0)).await;
    placed("large", "outside", json!({"outputTokens": 2})).await;
    let cascade = json!({"accept": {"atLeast": 0.5}, "schema": {"type": "object"}});
    api.apply(&task(
        "form",
        json!({"models": ["sure", "large"], "cascade": cascade}),
    ))
    .await;
    let response = api.chat("task:form", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    let told = record(&api, &response).await;
    assert_eq!(
        told["cascade_tiers"][0]["outcome"], "schema_mismatch",
        "{told}"
    );

    // What a node has counted is told a moment later.
    cluster
        .wait_until(async || api.counters("large").await.requests == 1)
        .await;
    let spec = json!({
        "models": ["unsure", "large"], "zones": ["clinic"],
        "cascade": {"accept": {"atLeast": 0.5}},
    });
    api.apply(&task("held", spec)).await;
    let response = api.chat("task:held", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "unsure");
    let told = record(&api, &response).await;
    let zone = |r: &Value| r["model"] == "large" && r["reason"] == "zone";
    assert!(
        told["rejected"].as_array().unwrap().iter().any(zone),
        "{told}"
    );
    // The next one that it gets is the next one that may go there.
    api.answer("large", "hi").await;
    cluster
        .wait_until(async || api.counters("large").await.requests >= 2)
        .await;
    assert_eq!(api.counters("large").await.requests, 2);
    // A schema that is none is refused.
    let cascade = json!({"schema": {"type": "no such type"}});
    let broken = task(
        "form",
        json!({"models": ["sure", "large"], "cascade": cascade}),
    );
    let (status, answer) = api.try_apply(&broken).await;
    assert_eq!(status, 400, "{answer}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_tier_may_be_a_hosted_model_with_a_key_of_its_own() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, "small", &unsure(2, 0)).await;
    serve(&cluster, &api, "there", &json!({"outputTokens": 4})).await;
    // Any OpenAI-compatible server will do: this fleet is one.
    let url = format!("{}/v1", cluster.url());
    let hosted = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "hosted"},
        "spec": {"engine": "upstream", "options": {
            "url": url, "model": "there", "apiKeyEnv": "PATH",
        }},
    });
    api.apply(&hosted).await;
    cluster.wait_for_replicas("hosted", 1).await;
    let spec = json!({"models": ["small", "hosted"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    for stream in [false, true] {
        let response = api.chat("task:t", "hi", stream).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-flotilla-model"), "hosted");
        response.text().await.unwrap();
    }
    cluster
        .wait_until(async || api.counters("there").await.requests == 2)
        .await;
    cluster.stop().await;
}

fn eval(cluster: &Cluster, args: &[&str]) -> String {
    let output = Command::new(flotilla_binary())
        .arg("eval")
        .args(args)
        .env("FLOTILLA_URL", cluster.url())
        .current_dir(cluster.dir())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_is_kept_and_goes_on_where_it_was_broken_off_and_calibrates_the_cascade() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve_pair(&cluster, &api, json!({})).await;
    let data: PathBuf = repository().join("../shared/data/clinc150/val.jsonl");
    let data = data.to_str().unwrap();
    let of = [
        "--task",
        "assistant",
        "--data",
        data,
        "--expected-field",
        "intent",
    ];
    let run = |more: &[&str]| eval(&cluster, &[&of[..], more].concat());
    let told = run(&["--limit", "40"]);
    assert!(
        told.contains("assistant-intent-m") && told.contains("of 40"),
        "{told}"
    );
    let (_, of_task) = api.get("api/v1/tasks/assistant").await;
    for model in of_task["status"]["models"].as_array().unwrap() {
        let quality = &model["quality"];
        assert_eq!(
            (&quality["total"], &quality["current"]),
            (&json!(40), &json!(true)),
            "{quality}"
        );
        assert!(quality["correct"].as_u64().unwrap() > 30, "{quality}");
        assert!(quality["joules"].as_f64().unwrap() > 0.0, "{quality}");
    }
    // Called again for more, only what is new is asked.
    let large = async || api.counters("assistant-intent-m").await.requests;
    cluster.wait_until(async || large().await == 40).await;
    let told = run(&["--limit", "120", "--calibrate", "--apply"]);
    // Of 120 drawn evenly 40 are those drawn before.
    cluster.wait_until(async || large().await == 120).await;
    assert!(
        told.contains("Compared with assistant-intent-m alone"),
        "{told}"
    );
    assert!(told.contains("has this cascade now"), "{told}");
    let (_, of_task) = api.get("api/v1/tasks/assistant").await;
    let tier = &of_task["spec"]["cascade"]["tiers"]["assistant-intent-s"];
    assert!(tier["atLeast"].as_f64().is_some(), "{of_task}");
    // Nothing is left to ask: one more request is the next one that the model gets.
    run(&["--limit", "120"]);
    api.answer("assistant-intent-m", "hi").await;
    cluster.wait_until(async || large().await >= 121).await;
    assert_eq!(large().await, 121);
    cluster.stop().await;
}
