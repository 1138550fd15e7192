//! Models of upstream servers, which answer in many forms and misbehave in many ways.

use std::time::{Duration, Instant};

use flotilla_tests::{AgentSettings, Api, Cluster, FakeRapl, FakeUpstream};
use serde_json::{Value, json};

use crate::fixtures::{CHAT_PATH, serve};

/// The text of the fake server's answers.
const TEXT: &str = "Hello from upstream.";

/// A fleet of one node with a model for each of some modes of the fake server.
struct UpstreamFleet {
    cluster: Cluster,
    api: Api,
    server: FakeUpstream,
}

impl UpstreamFleet {
    /// Starts a fleet with these models, which have the names of their modes.
    async fn start(modes: &[&str]) -> Self {
        let cluster = Cluster::builder().agents(["n1"]).start().await;
        let (api, server) = (cluster.api(), FakeUpstream::start().await);
        for mode in modes {
            api.apply(&upstream_model(mode, &server.url(mode))).await;
        }
        for mode in modes {
            cluster.wait_for_replicas(mode, 1).await;
        }
        Self {
            cluster,
            api,
            server,
        }
    }

    /// Sends a request to the model of a mode and returns the status and the body.
    async fn whole(&self, mode: &str) -> (u16, Value) {
        let response = self.api.post(CHAT_PATH, &body(mode, json!({}))).await;
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    /// Sends a request for a stream and returns its chunks. The last one is `null` if the stream did not
    /// end with `[DONE]`.
    async fn streamed(&self, mode: &str) -> Vec<Value> {
        let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
        let response = self.api.post(CHAT_PATH, &body(mode, stream)).await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{mode}: {text}");
        let frames = text
            .split("\n\n")
            .filter_map(|frame| frame.strip_prefix("data: "));
        let mut chunks: Vec<Value> = frames
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        if !text.contains("data: [DONE]") {
            chunks.push(Value::Null);
        }
        chunks
    }
}

fn upstream_model(name: &str, url: &str) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"engine": "upstream", "options": {"url": url}},
    })
}

/// A chat request with a tool and these further fields.
fn body(model: &str, fields: Value) -> Value {
    let mut body = json!({
        "model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "weather"}}],
    });
    for (field, value) in fields.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

/// Joins a field of the deltas of a stream.
fn joined(chunks: &[Value], field: &str) -> String {
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    deltas.filter_map(|delta| delta[field].as_str()).collect()
}

/// The finish reason of a stream.
fn finish_reason(chunks: &[Value]) -> Value {
    let reasons = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"]);
    reasons
        .clone()
        .find(|reason| !reason.is_null())
        .cloned()
        .unwrap_or_default()
}

#[tokio::test]
async fn every_form_of_an_answer_is_understood() {
    let modes = [
        "ok",
        "trickle",
        "untyped",
        "comments-2",
        "ignores-stream",
        "ignores-stream-typed",
        "nulls",
        "content-parts",
        "choice-from-one",
        "no-finish",
        "no-done",
        "no-usage",
        "drop-after-finish",
        "unknown-finish",
        "drop-every-other",
    ];
    let fleet = UpstreamFleet::start(&modes).await;
    for mode in modes {
        let (status, answer) = fleet.whole(mode).await;
        assert_eq!(status, 200, "{mode}: {answer}");
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], TEXT, "{mode}");
        assert_eq!(choice["finish_reason"], "stop", "{mode}");
        let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
        assert!((1..=5).contains(&tokens), "{mode}: {answer}");

        let chunks = fleet.streamed(mode).await;
        assert_eq!(joined(&chunks, "content"), TEXT, "{mode}");
        assert_eq!(finish_reason(&chunks), "stop", "{mode}: {chunks:?}");
        assert!(chunks.last().unwrap()["usage"].is_object(), "{mode}");
    }
    fleet.cluster.stop().await;
}

#[tokio::test]
async fn tool_calls_of_every_form_are_numbered_from_zero() {
    let modes = [
        "tools",
        "object-arguments",
        "huge-call-index",
        "no-call-index",
        "calls-from-one",
        "no-call-id",
        "ignores-stream-calls",
    ];
    let fleet = UpstreamFleet::start(&modes).await;
    for (position, mode) in modes.into_iter().enumerate() {
        let cities = if position < 3 {
            &["Rome"][..]
        } else {
            &["Rome", "Oslo"]
        };
        let (status, answer) = fleet.whole(mode).await;
        assert_eq!(status, 200, "{mode}: {answer}");
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{mode}");
        assert_eq!(choice["message"]["content"], Value::Null, "{mode}");
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        check_calls(mode, calls, cities);

        let chunks = fleet.streamed(mode).await;
        assert_eq!(finish_reason(&chunks), "tool_calls", "{mode}");
        check_calls(mode, &joined_calls(&chunks), cities);
    }
    fleet.cluster.stop().await;
}

/// Checks that there is a call for each of these cities.
fn check_calls(mode: &str, calls: &[Value], cities: &[&str]) {
    assert_eq!(calls.len(), cities.len(), "{mode}: {calls:?}");
    for (call, city) in calls.iter().zip(cities) {
        assert_eq!(call["function"]["name"], "weather", "{mode}: {calls:?}");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert_eq!(arguments, json!({"city": city}), "{mode}");
        assert!(!call["id"].as_str().unwrap().is_empty(), "{mode}");
    }
}

/// Joins the parts of a stream's tool calls as clients do.
fn joined_calls(chunks: &[Value]) -> Vec<Value> {
    let mut calls: Vec<[String; 3]> = Vec::new();
    let deltas = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"]);
    for part in deltas.filter_map(Value::as_array).flatten() {
        let index = part["index"].as_u64().unwrap() as usize;
        assert!(index <= calls.len(), "{part}");
        calls.resize_with(calls.len().max(index + 1), Default::default);
        let function = &part["function"];
        let texts = [&part["id"], &function["name"], &function["arguments"]];
        for (joined, text) in calls[index].iter_mut().zip(texts) {
            joined.push_str(text.as_str().unwrap_or_default());
        }
    }
    let call = |[id, name, arguments]: [String; 3]| json!({"id": id, "function": {"name": name, "arguments": arguments}});
    calls.into_iter().map(call).collect()
}

#[tokio::test]
async fn what_a_server_says_reaches_the_client() {
    let reasoning = ["reasoning", "reasoning-content", "reasoning-both"];
    let refusals = ["refusal", "refusal-whole"];
    let modes = [
        &reasoning[..],
        &refusals,
        &["content-filter", "nulls-whole"],
    ]
    .concat();
    let fleet = UpstreamFleet::start(&modes).await;
    for mode in reasoning {
        let (_, answer) = fleet.whole(mode).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "Hm.", "{mode}: {answer}");
        assert_eq!(message["content"], TEXT, "{mode}");
        let chunks = fleet.streamed(mode).await;
        assert_eq!(joined(&chunks, "reasoning_content"), "Hm.", "{mode}");
        assert_eq!(joined(&chunks, "content"), TEXT, "{mode}");
    }
    for mode in refusals {
        let text = "I cannot help with that.";
        let (_, answer) = fleet.whole(mode).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["refusal"], text, "{mode}: {answer}");
        assert_eq!(message["content"], Value::Null, "{mode}");
        let chunks = fleet.streamed(mode).await;
        assert_eq!(joined(&chunks, "refusal"), text, "{mode}");
    }
    let (_, answer) = fleet.whole("content-filter").await;
    assert_eq!(answer["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
    let chunks = fleet.streamed("content-filter").await;
    assert_eq!(finish_reason(&chunks), "content_filter");
    let (status, answer) = fleet.whole("nulls-whole").await;
    assert_eq!(
        (status, &answer["choices"][0]["message"]["content"]),
        (200, &json!(""))
    );

    fleet.cluster.stop().await;
}

#[tokio::test]
async fn misbehaving_server_is_a_bad_gateway_at_once_with_the_cause() {
    let failures = [
        ("html", "<h1>Fake gateway</h1>"),
        ("empty-body", "begins with nothing"),
        ("empty-stream", "no choice"),
        ("bad-json", "cannot be parsed"),
        ("bad-utf8", "not valid UTF-8"),
        ("bad-types", "cannot be parsed"),
        ("deep-json", "cannot be parsed"),
        ("error-object", "out of memory"),
        ("error-text", "out of memory"),
        ("error-event", "out of memory"),
        ("error-whole", "out of memory"),
        ("drop-before-headers", "cannot be reached"),
        ("redirect", "/ok/v1/chat/completions"),
        ("html-error", "502"),
        ("status-401", "status 401"),
        ("status-403", "status 403"),
        ("status-404", "status 404"),
        ("status-500", "status 500"),
        ("many-choices", "a list has more than 16 elements"),
    ];
    let broken_off = [
        ("drop-in-answer", "interrupted"),
        ("drop-in-event", "interrupted"),
        ("error-in-answer", "out of memory"),
    ];
    let all = [&failures[..], &broken_off].concat();
    let modes: Vec<_> = all.iter().map(|(mode, _)| *mode).collect();
    let fleet = UpstreamFleet::start(&modes).await;
    let started = Instant::now();
    for (mode, cause) in all {
        let (status, answer) = fleet.whole(mode).await;
        check_failure(mode, status, &answer, cause);
    }
    for (mode, cause) in broken_off {
        let chunks = fleet.streamed(mode).await;
        assert!(joined(&chunks, "content").starts_with("Hello"), "{mode}");
        let [.., failure, Value::Null] = &chunks[..] else {
            panic!("{mode}: {chunks:?}");
        };
        check_failure(mode, 502, failure, cause);
    }
    // Nothing was waited for.
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    fleet.cluster.stop().await;
}

fn check_failure(mode: &str, status: u16, answer: &Value, cause: &str) {
    let error = &answer["error"];
    let code = error["code"].as_str().unwrap_or_default();
    assert_eq!((status, code), (502, "upstream_failed"), "{mode}: {answer}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(cause), "{mode}: {message}");
    assert!(message.chars().count() < 1_200, "{mode}: {message}");
}

#[tokio::test]
async fn answers_without_bounds_are_cut_off() {
    let modes = [
        "many-calls",
        "endless",
        "endless-reasoning",
        "endless-arguments",
        "endless-calls",
        "endless-comments",
        "endless-event",
        "endless-body",
        "endless-error",
        "huge-choice-index",
    ];
    let fleet = UpstreamFleet::start(&modes).await;
    for mode in modes {
        let (status, answer) = fleet.whole(mode).await;
        if mode == "huge-choice-index" {
            // Its number does not matter where there is only one.
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
        } else {
            let cause = if mode == "endless-error" {
                "500"
            } else {
                "more than"
            };
            check_failure(mode, status, &answer, cause);
        }
    }
    for mode in ["endless", "endless-calls"] {
        let chunks = fleet.streamed(mode).await;
        let [.., failure, Value::Null] = &chunks[..] else {
            panic!("{mode}: {} chunks", chunks.len());
        };
        check_failure(mode, 502, failure, "more than");
    }
    fleet.cluster.stop().await;
}

#[tokio::test]
async fn refusals_of_a_server_keep_their_status() {
    let refusals = [
        ("status-400", 400),
        ("status-422", 400),
        ("status-413", 413),
    ];
    let modes = refusals.map(|(mode, _)| mode);
    let fleet = UpstreamFleet::start(&[&modes[..], &["context-length"]].concat()).await;
    for (mode, expected) in refusals {
        let (status, answer) = fleet.whole(mode).await;
        assert_eq!(status, expected, "{mode}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(&mode.replace('-', " ")), "{message}");
    }
    let (status, answer) = fleet.whole("context-length").await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    // The client's mistakes are not the replica's: it still gets requests.
    for _ in 0..5 {
        assert_eq!(fleet.whole("status-400").await.0, 400);
    }
    fleet.cluster.stop().await;
}

#[tokio::test]
async fn what_the_client_says_reaches_the_server_and_nothing_is_added() {
    let fleet = UpstreamFleet::start(&["ok"]).await;
    let send = async |body: Value| {
        assert_eq!(fleet.api.post(CHAT_PATH, &body).await.status(), 200);
        fleet.server.received().pop().unwrap()
    };
    let plain = json!({"model": "ok", "messages": [{"role": "user", "content": "hi"}]});
    let mut received = send(plain.clone()).await;
    // A fleet has a limit of its own, see `maxTokens` in the reference of models.
    received.as_object_mut().unwrap().remove("max_tokens");
    let expected = json!({
        "model": "ok", "messages": [{"role": "user", "content": "hi"}],
        "stream": true, "stream_options": {"include_usage": true},
    });
    assert_eq!(received, expected);

    let schema = json!({
        "type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"],
        "additionalProperties": false,
    });
    let said = json!({
        "temperature": 0.25, "top_p": 0.5, "seed": -1, "max_completion_tokens": 7, "stop": ["x"],
        "user": "ann", "reasoning_effort": "low", "parallel_tool_calls": false,
        "tools": [{"type": "function", "function": {
            "name": "f", "description": "a function", "parameters": schema, "strict": true,
        }}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "city", "description": "a city", "schema": schema, "strict": true,
        }},
        "verbosity": "low", "metadata": {"a": "b"}, "mirostat_tau": 5.0, "stop_token_ids": [1, 2],
    });
    let mut body = plain;
    let mut expected = expected;
    for (field, value) in said.as_object().unwrap() {
        body[field] = value.clone();
        expected[field] = value.clone();
    }
    // Neither known to Flotilla nor passed on.
    body["n_predict"] = json!(9_999);
    body["unheard_of"] = json!(true);
    assert_eq!(send(body).await, expected);
    fleet.cluster.stop().await;
}

#[tokio::test]
async fn embeddings_are_one_for_each_input_in_their_order() {
    let right = [
        "ok",
        "embeddings-reversed",
        "embeddings-unnumbered",
        "embeddings-base64",
    ];
    let wrong = [
        "embeddings-few",
        "embeddings-many",
        "embeddings-twice",
        "embeddings-empty",
        "embeddings-uneven",
        "embeddings-nulls",
        "html",
    ];
    let fleet = UpstreamFleet::start(&[&right[..], &wrong].concat()).await;
    let embed = async |mode: &str| {
        let body = json!({"model": mode, "input": ["a", "b", "c"]});
        let response = fleet.api.post("v1/embeddings", &body).await;
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap())
    };
    for mode in right {
        let (status, answer) = embed(mode).await;
        assert_eq!(status, 200, "{mode}: {answer}");
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), 3, "{mode}");
        for (index, item) in data.iter().enumerate() {
            assert_eq!(item["index"], json!(index));
            // The fake server's base64 is always the same.
            let first = if mode == "embeddings-base64" {
                0.0
            } else {
                index as f64
            };
            assert_eq!(item["embedding"], json!([first, 1.0]), "{mode}: {answer}");
        }
    }
    for mode in wrong {
        let (status, answer) = embed(mode).await;
        check_failure(mode, status, &answer, "The server's answer");
    }
    fleet.cluster.stop().await;
}

#[tokio::test]
async fn waiting_for_a_server_elsewhere_takes_nothing_from_a_local_models_joules() {
    let mut counter = 0;
    let rapl = FakeRapl::new(counter);
    let mut cluster = Cluster::builder().start().await;
    cluster.start_agent(AgentSettings::new("n1").energy_accounting(rapl.energy_accounting()));
    cluster.wait_until_ready(&["n1"]).await;
    let (api, server) = (cluster.api(), FakeUpstream::start().await);
    // An address that the node does not recognise as its own.
    let port = server.address().port();
    let url = format!("http://[::ffff:127.0.0.1]:{port}/wait-4000/v1");
    api.apply(&upstream_model("elsewhere", &url)).await;
    cluster.wait_for_replicas("elsewhere", 1).await;
    let options = json!({"outputTokens": 20, "tokensPerSecond": 20});
    serve(&cluster, &api, "local", &options).await;

    let ask = async |model: &str| -> Value {
        let response = api
            .post(CHAT_PATH, &body(model, json!({"tools": null})))
            .await;
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    };
    let waiting = ask("elsewhere");
    let local = async {
        let first = ask("local").await;
        let second = ask("local").await;
        [first, second].map(|answer| answer["usage"]["energy"]["joules"].as_f64().unwrap())
    };
    let both = async { tokio::join!(waiting, local) };
    let mut both = std::pin::pin!(both);
    let (waited, joules) = loop {
        // The fake meter draws 1,000 W.
        counter += 50_000_000;
        rapl.set_counter(counter);
        let interval = Duration::from_millis(50);
        if let Ok(answers) = tokio::time::timeout(interval, &mut both).await {
            break answers;
        }
    };
    assert_eq!(waited["choices"][0]["message"]["content"], TEXT);
    assert_eq!(waited["usage"]["energy"]["joules"], 0.0, "{waited}");
    let attributed: f64 = joules.iter().sum();
    assert!(attributed > 0.0);
    // All that any request was charged was charged to the local ones.
    let is_complete = async || {
        let nodes = api.nodes().await;
        let all = nodes[0]["status"]["energy"]["attributedJoules"].as_f64();
        all.is_some_and(|all| (all - attributed).abs() <= 0.01 * attributed)
    };
    cluster.wait_until(is_complete).await;
    cluster.stop().await;
}
