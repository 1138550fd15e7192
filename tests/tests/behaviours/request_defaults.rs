//! What a model's owner sets once for all requests, and what a model's files say.

use flotilla_tests::{Api, Cluster, FakeUpstream, demo_model, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::CHAT_PATH;

/// A question that the model `support-intent` was trained for.
const QUESTION: &str = "my card has not arrived yet";

/// Sends a question with further fields and returns the whole answer.
async fn ask(api: &Api, model: &str, fields: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": QUESTION}]});
    for (field, value) in fields.as_object().unwrap() {
        body[field] = value.clone();
    }
    let response = api.post(CHAT_PATH, &body).await;
    let (status, answer) = (response.status(), response.json::<Value>().await.unwrap());
    assert_eq!(status, 200, "{answer}");
    answer
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// Returns the number of tokens of an answer and why it ended.
fn length(answer: &Value) -> (u64, &str) {
    let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
    let reason = answer["choices"][0]["finish_reason"].as_str().unwrap();
    (tokens, reason)
}

#[tokio::test]
async fn answers_end_at_the_token_limit_of_their_model() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let long = |name: &str, limits: Value| {
        let mut model = simulated_model(name, 1, &json!({"outputTokens": 3_000}));
        for (field, value) in limits.as_object().unwrap() {
            model["spec"][field] = value.clone();
        }
        model
    };
    api.apply(&long("plain", json!({}))).await;
    let limits = json!({"maxTokens": 20, "maxTokensLimit": 50});
    api.apply(&long("limited", limits)).await;
    for model in ["plain", "limited"] {
        cluster.wait_for_replicas(model, 1).await;
    }
    let ended = async |model, fields| {
        let answer = ask(&api, model, fields).await;
        let (tokens, reason) = length(&answer);
        (tokens, reason.to_owned())
    };
    let cut = |tokens| (tokens, "length".to_owned());
    assert_eq!(ended("plain", json!({})).await, cut(2_048));
    let most = json!({"max_tokens": 4_000});
    assert_eq!(ended("plain", most).await, (3_000, "stop".to_owned()));
    assert_eq!(ended("limited", json!({})).await, cut(20));
    assert_eq!(ended("limited", json!({"max_tokens": 30})).await, cut(30));
    let above = json!({"max_completion_tokens": 60});
    assert_eq!(ended("limited", above).await, cut(50));
    cluster.stop().await;
}

#[tokio::test]
async fn owners_values_go_before_those_of_the_files_and_a_requests_before_both() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    api.apply(&demo_model("support-intent", 1)).await;
    let mut owned = demo_model("support-intent", 1);
    owned["metadata"]["name"] = json!("owned");
    owned["spec"]["defaults"] = json!({"temperature": 2, "seed": 7, "stop": ["_arr"]});
    api.apply(&owned).await;
    for model in ["support-intent", "owned"] {
        cluster.wait_for_replicas(model, 1).await;
    }
    // The ends of answers are banned, so that they are long enough to differ.
    let bans = json!({"0": -100, "1": -100});
    let ramble = async |model, fields: Value| {
        let mut fields = fields;
        fields["logit_bias"] = bans.clone();
        fields["max_tokens"] = json!(40);
        content(&ask(&api, model, fields).await).to_owned()
    };
    // The model's generation_config.json says `do_sample: false`.
    let greedy = ramble("support-intent", json!({"temperature": 0})).await;
    for _ in 0..3 {
        assert_eq!(ramble("support-intent", json!({})).await, greedy);
    }
    let hot = ramble("support-intent", json!({"temperature": 2, "seed": 7})).await;
    assert_ne!(hot, greedy);
    // The owner's temperature and seed.
    let no_stop = json!({"stop": []});
    assert_eq!(ramble("owned", no_stop.clone()).await, hot);
    assert_eq!(ramble("owned", no_stop).await, hot);
    let other = json!({"seed": 8, "stop": []});
    assert_ne!(ramble("owned", other).await, hot);
    let cold = json!({"temperature": 0, "stop": []});
    assert_eq!(ramble("owned", cold).await, greedy);
    // The owner's stop texts, and a request's in their place.
    let stopped = async |stop: Value| {
        let fields = json!({"temperature": 0, "stop": stop});
        content(&ask(&api, "owned", fields).await).to_owned()
    };
    assert_eq!(stopped(Value::Null).await, "card");
    assert_eq!(stopped(json!(["d_"])).await, "car");
    cluster.stop().await;
}

#[tokio::test]
async fn a_models_status_shows_what_is_in_force_and_from_where() {
    let cluster = Cluster::builder().agents(["n1", "n2"]).start().await;
    let api = cluster.api();
    let mut model = demo_model("support-intent", 2);
    model["spec"]["maxTokensLimit"] = json!(5_000);
    model["spec"]["defaults"] =
        json!({"topP": 0.9, "chatTemplateArgs": {"enable_thinking": false}});
    model["spec"]["systemPrompt"] = json!({"text": "Be brief.", "mode": "always"});
    api.apply(&model).await;
    cluster.wait_for_replicas("support-intent", 2).await;
    let status = api.model("support-intent").await["status"].clone();
    let context = status["contextLength"].as_u64().unwrap();
    let values = status["defaults"].as_array().unwrap();
    let values: Vec<_> = values
        .iter()
        .map(|v| json!([v["field"], v["value"], v["source"], v["overridable"]]))
        .collect();
    let expected = [
        json!(["options.contextLength", context, "model's files", false]),
        json!(["maxTokens", context.min(2_048), "context", true]),
        json!(["maxTokensLimit", 5_000, "spec", false]),
        json!(["temperature", 0, "generation_config.json", true]),
        json!(["topP", 0.9, "spec", true]),
        json!(["topK", 0, "built in", true]),
        json!(["minP", 0, "built in", true]),
        json!(["repetitionPenalty", 1, "built in", true]),
        json!(["frequencyPenalty", 0, "built in", true]),
        json!(["presencePenalty", 0, "built in", true]),
        json!(["chatTemplateArgs.enable_thinking", false, "spec", true]),
        json!(["systemPrompt", "Be brief.", "spec", false]),
    ];
    assert_eq!(values, expected);
    assert_eq!(status["defaultsDifferOn"], Value::Null);
    cluster.stop().await;
}

#[tokio::test]
async fn upstream_server_gets_what_the_request_and_the_owner_say_and_nothing_else() {
    let server = FakeUpstream::start().await;
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let upstream = |name: &str, fields: Value| {
        let mut model = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
            "spec": {"engine": "upstream", "options": {"url": server.url("echo")}},
        });
        for (field, value) in fields.as_object().unwrap() {
            model["spec"][field] = value.clone();
        }
        model
    };
    let prompt = |mode: &str| json!({"text": "Owner.", "mode": mode});
    let missing = json!({
        "maxTokens": 9, "defaults": {"temperature": 0.5, "topK": 4},
        "systemPrompt": prompt("whenMissing"),
    });
    api.apply(&upstream("plain", json!({}))).await;
    api.apply(&upstream("missing", missing)).await;
    api.apply(&upstream(
        "always",
        json!({"systemPrompt": prompt("always")}),
    ))
    .await;
    for model in ["plain", "missing", "always"] {
        cluster.wait_for_replicas(model, 1).await;
    }
    // The server answers with what it got.
    let received = async |model, fields| -> Value {
        let answer = ask(&api, model, fields).await;
        serde_json::from_str(content(&answer)).unwrap()
    };
    let user = json!({"role": "user", "content": QUESTION});
    let owner = json!({"role": "system", "content": "Owner."});
    let own = json!({"role": "system", "content": "Mine."});

    let plain = received("plain", json!({})).await;
    assert_eq!(plain["messages"], json!([user]));
    for field in ["temperature", "top_p", "top_k", "max_tokens", "stop"] {
        assert_eq!(plain[field], Value::Null, "{field}");
    }

    let defaults = received("missing", json!({})).await;
    assert_eq!(defaults["messages"], json!([owner, user]));
    let values = ["temperature", "top_k", "max_tokens", "top_p"].map(|f| defaults[f].clone());
    assert_eq!(values, [json!(0.5), json!(4), json!(9), Value::Null]);
    let named = json!({"messages": [own, user], "temperature": 1.5, "top_k": 0, "max_tokens": 5});
    let named = received("missing", named).await;
    assert_eq!(named["messages"], json!([own, user]));
    let values = ["temperature", "top_k", "max_tokens"].map(|f| named[f].clone());
    assert_eq!(values, [json!(1.5), json!(0), json!(5)]);

    let always = received("always", json!({"messages": [own, user]})).await;
    let joined = json!({"role": "system", "content": "Owner.\n\nMine."});
    assert_eq!(always["messages"], json!([joined, user]));
    cluster.stop().await;
}
