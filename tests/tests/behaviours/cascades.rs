//! Cascades: a small model answers first, and a larger one when the small one is not confident. And
//! `flotilla eval`, which measures both and calibrates the cascade.

use crate::fixtures::{CHAT_PATH, chat_body, decision_record, error_code, header, serve, task};
use flotilla_tests::{
    AgentSettings, Api, Cluster, Mode, demo_model, flotilla_binary, repository, simulated_model,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// Serves two real models and applies the task `assistant` with a cascade of them.
async fn serve_cascade(cluster: &Cluster, api: &Api, cascade: Value) {
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
async fn confident_answer_of_the_small_model_is_accepted_and_another_one_escalates() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let accept = json!({"measure": "min", "atLeast": 0.9});
    serve_cascade(&cluster, &api, json!({"accept": accept})).await;
    for stream in [false, true] {
        let response = api
            .chat("task:assistant", "what is the weather like today", stream)
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-flotilla-model"), "assistant-intent-s");
        let record = decision_record(&api, &response).await;
        let body = response.text().await.unwrap();
        assert!(body.contains("weather"), "{body}");
        // The cascade needs log-probabilities, but the client has not requested them.
        assert!(!body.contains("\"logprob\""), "{body}");
        assert_eq!(
            record["cascade_tiers"][0]["outcome"], "accepted",
            "{record}"
        );
        assert!(
            record["cascade_tiers"][0]["confidence"].as_f64().unwrap() >= 0.9,
            "{record}"
        );

        let unclear = "zebra purple seventeen maybe, or not";
        let response = api.chat("task:assistant", unclear, stream).await;
        assert_eq!(header(&response, "x-flotilla-model"), "assistant-intent-m");
        assert_eq!(header(&response, "x-flotilla-task"), "assistant");
        let record = decision_record(&api, &response).await;
        response.text().await.unwrap();
        let tier = &record["cascade_tiers"][0];
        assert_eq!(tier["model"], "assistant-intent-s");
        assert!(
            ["low_confidence", "stopped_early"].contains(&tier["outcome"].as_str().unwrap()),
            "{record}"
        );
        assert!(tier["confidence"].as_f64().unwrap() < 0.9, "{record}");
        assert_eq!(record["model"], "assistant-intent-m");
        // The replicas of both models are candidates.
        assert_eq!(
            record["candidates"].as_array().unwrap().len(),
            2,
            "{record}"
        );
    }
    // A request that names the small model gets no cascade.
    let response = api.chat("assistant-intent-s", "zebra purple", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "assistant-intent-s");
    // A client that requests log-probabilities gets as many as it requests.
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

/// Options of a simulated model whose tokens all have the probability 0.4.
fn unconfident(tokens: u32, tokens_per_second: u32) -> Value {
    json!({"outputTokens": tokens, "tokensPerSecond": tokens_per_second, "tokenProbability": 0.4})
}

#[tokio::test]
async fn hopeless_answer_is_stopped_early_and_the_only_answer_is_accepted_as_fallback() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    // The whole answer would take ten seconds.
    serve(&cluster, &api, "small", &unconfident(200, 20)).await;
    serve(&cluster, &api, "large", &json!({"outputTokens": 2})).await;
    let spec = json!({"models": ["small", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    let response = api.chat("task:t", "hi", true).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    let record = decision_record(&api, &response).await;
    assert_eq!(
        record["cascade_tiers"][0]["outcome"], "stopped_early",
        "{record}"
    );
    assert!(
        record["cascade_tiers"][0]["duration_ms"].as_f64().unwrap() < 5_000.0,
        "{record}"
    );
    cluster
        .wait_until(async || api.counters("small").await.cancelled == 1)
        .await;

    // A minimum quality applies to every tier, and neither model was measured.
    let body = chat_body("task:t", json!({"min_quality": 0.9}));
    let response = api.post(CHAT_PATH, &body).await;
    assert_eq!(error_code(response).await, (503, json!("limits_unmet")));

    // A small model that still loads is skipped when a larger one is ready.
    let options = json!({"outputTokens": 2, "loadMs": 600_000});
    api.apply(&simulated_model("loading", 1, &options)).await;
    let spec = json!({"models": ["loading", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    let record = decision_record(&api, &response).await;
    assert_eq!(record["cascade_tiers"][0]["outcome"], "failed", "{record}");
    api.delete_model("loading").await;
    // A sleeping model is skipped, too, and woken for later requests.
    // Its load takes longer than a busy machine takes for the request.
    let options = json!({"outputTokens": 2, "loadMs": 2_000});
    let mut sleepy = simulated_model("sleepy", 1, &options);
    sleepy["spec"]["replicas"] = json!({"min": 0, "max": 1});
    api.apply(&sleepy).await;
    let spec = json!({"models": ["sleepy", "large"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec)).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    cluster.wait_for_replicas("sleepy", 1).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "sleepy");

    // Without a larger model the answer of the small one is accepted.
    serve(&cluster, &api, "brief", &unconfident(3, 0)).await;
    let spec = json!({"models": ["brief", "absent"], "cascade": {"accept": {"atLeast": 0.5}}});
    api.apply(&task("t", spec.clone())).await;
    let response = api.chat("task:t", "hi", false).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-flotilla-model"), "brief");
    let record = decision_record(&api, &response).await;
    assert_eq!(
        record["cascade_tiers"][0]["outcome"], "accepted_as_fallback",
        "{record}"
    );
    assert_eq!(record["outcome"]["completion_tokens"], 3, "{record}");
    // But not when the task requires a quality.
    let mut strict = spec;
    strict["objective"] = json!({"minQuality": 0.9});
    api.apply(&task("t", strict)).await;
    assert_eq!(api.chat("task:t", "hi", false).await.status(), 503);
    cluster.stop().await;
}

#[tokio::test]
async fn answer_against_the_schema_escalates_but_not_out_of_the_zone() {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    cluster.start_agent(AgentSettings::new("inside").args(&["--zone", "clinic"]));
    cluster.start_agent(AgentSettings::new("outside"));
    cluster.wait_until_ready(&["inside", "outside"]).await;
    let api = cluster.api();
    let serve_on = async |name: &str, node: &str, options: Value| {
        let mut model = simulated_model(name, 1, &options);
        model["spec"]["nodeSelector"] = json!({"flotilla.dev/node": node});
        api.apply(&model).await;
        cluster.wait_for_replicas(name, 1).await;
    };
    serve_on("confident", "inside", json!({"outputTokens": 2})).await;
    serve_on("unconfident", "inside", unconfident(2, 0)).await;
    serve_on("large", "outside", json!({"outputTokens": 2})).await;
    let cascade = json!({"accept": {"atLeast": 0.5}, "schema": {"type": "object"}});
    api.apply(&task(
        "form",
        json!({"models": ["confident", "large"], "cascade": cascade}),
    ))
    .await;
    let response = api.chat("task:form", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "large");
    let record = decision_record(&api, &response).await;
    assert_eq!(
        record["cascade_tiers"][0]["outcome"], "schema_mismatch",
        "{record}"
    );

    // The counters are reported a moment later.
    cluster
        .wait_until(async || api.counters("large").await.requests == 1)
        .await;
    let spec = json!({
        "models": ["unconfident", "large"], "zones": ["clinic"],
        "cascade": {"accept": {"atLeast": 0.5}},
    });
    api.apply(&task("zoned", spec)).await;
    let response = api.chat("task:zoned", "hi", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "unconfident");
    let record = decision_record(&api, &response).await;
    let is_out_of_zone = |r: &Value| r["model"] == "large" && r["reason"] == "zone";
    assert!(
        record["rejected"]
            .as_array()
            .unwrap()
            .iter()
            .any(is_out_of_zone),
        "{record}"
    );
    // The request that is allowed is the second one that the large model gets, so the other was not sent.
    api.answer("large", "hi").await;
    cluster
        .wait_until(async || api.counters("large").await.requests >= 2)
        .await;
    assert_eq!(api.counters("large").await.requests, 2);
    // An invalid schema is refused.
    let cascade = json!({"schema": {"type": "no such type"}});
    let broken = task(
        "form",
        json!({"models": ["confident", "large"], "cascade": cascade}),
    );
    let (status, answer) = api.try_apply(&broken).await;
    assert_eq!(status, 400, "{answer}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_tier_may_be_a_hosted_model_with_an_api_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api-key");
    std::fs::write(&file, "the-key\n").unwrap();
    let secret = format!("hosted={}@127.0.0.1", file.display());
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agent(AgentSettings::new("n1").args(&["--upstream-secret", &secret]))
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "small", &unconfident(2, 0)).await;
    serve(
        &cluster,
        &api,
        "upstream-model",
        &json!({"outputTokens": 4}),
    )
    .await;
    // The fleet itself is the OpenAI-compatible server.
    let url = format!("{}/v1", cluster.url());
    let hosted = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "hosted"},
        "spec": {"engine": "upstream", "options": {
            "url": url, "model": "upstream-model", "apiKeySecret": "hosted",
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
        .wait_until(async || api.counters("upstream-model").await.requests == 2)
        .await;
    cluster.stop().await;
}

/// Runs `flotilla eval`, which must succeed, and returns its output.
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
async fn evaluation_continues_from_stored_results_and_calibrates_the_cascade() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve_cascade(&cluster, &api, json!({})).await;
    let data: PathBuf = repository().join("../shared/data/clinc150/val.jsonl");
    let data = data.to_str().unwrap();
    let common = [
        "--task",
        "assistant",
        "--data",
        data,
        "--expected-field",
        "intent",
    ];
    let run = |more: &[&str]| eval(&cluster, &[&common[..], more].concat());
    let output = run(&["--limit", "40"]);
    assert!(
        output.contains("assistant-intent-m") && output.contains("of 40"),
        "{output}"
    );
    let (_, task_resource) = api.get("api/v1/tasks/assistant").await;
    for model in task_resource["status"]["models"].as_array().unwrap() {
        let quality = &model["quality"];
        assert_eq!(
            (&quality["total"], &quality["current"]),
            (&json!(40), &json!(true)),
            "{quality}"
        );
        assert!(quality["correct"].as_u64().unwrap() > 30, "{quality}");
        assert!(quality["joules"].as_f64().unwrap() > 0.0, "{quality}");
    }
    // A second run with more items sends only those that were not measured before.
    let large_requests = async || api.counters("assistant-intent-m").await.requests;
    cluster
        .wait_until(async || large_requests().await == 40)
        .await;
    let output = run(&["--limit", "120", "--calibrate", "--apply"]);
    // Of 120 evenly drawn items 40 are those drawn before.
    cluster
        .wait_until(async || large_requests().await == 120)
        .await;
    assert!(
        output.contains("Compared with assistant-intent-m alone"),
        "{output}"
    );
    assert!(output.contains("it now uses this cascade"), "{output}");
    let (_, task_resource) = api.get("api/v1/tasks/assistant").await;
    let tier = &task_resource["spec"]["cascade"]["tiers"]["assistant-intent-s"];
    assert!(tier["atLeast"].as_f64().is_some(), "{task_resource}");
    // Nothing is left to measure: the next request that the model gets is the one below.
    run(&["--limit", "120"]);
    api.answer("assistant-intent-m", "hi").await;
    cluster
        .wait_until(async || large_requests().await >= 121)
        .await;
    assert_eq!(large_requests().await, 121);
    cluster.stop().await;
}
