//! How long the contexts of requests may be, and what a long one costs.

use flotilla_tests::{Cluster, repository};
use serde_json::{Value, json};

use crate::fixtures::{CHAT_PATH, copy_folder};

#[tokio::test]
async fn model_with_a_long_context_fits_a_node_and_its_bound_is_shown_and_kept() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let folder = cluster.dir().join("long-context");
    copy_folder(&repository().join("models/support-intent"), &folder);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // The mask of such a prompt has 64 GiB.
    config["max_position_embeddings"] = 131_072.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let model = |options: Value| {
        json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "long-context"},
            "spec": {"source": {"path": folder}, "options": options},
        })
    };
    let in_force = async || {
        let status = api.model("long-context").await["status"].clone();
        let value = status["defaults"][0].clone();
        assert_eq!(value["value"], status["contextLength"]);
        json!([value["field"], value["value"], value["source"]])
    };
    api.apply(&model(json!({}))).await;
    cluster.wait_for_replicas("long-context", 1).await;
    assert_eq!(
        in_force().await,
        json!(["options.contextLength", 8_192, "built in"])
    );

    api.apply(&model(json!({"contextLength": 100}))).await;
    let bounded = json!(["options.contextLength", 100, "spec"]);
    cluster
        .wait_until(async || in_force().await == bounded)
        .await;
    let ask = async |words: usize| {
        let content = "card ".repeat(words);
        let body = json!({
            "model": "long-context", "max_tokens": 1_000,
            "messages": [{"role": "user", "content": content}],
            "logit_bias": {"0": -100, "1": -100, "2": -100},
        });
        let response = api.post(CHAT_PATH, &body).await;
        (
            response.status().as_u16(),
            response.json::<Value>().await.unwrap(),
        )
    };
    let (status, answer) = ask(20).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    let total = answer["usage"]["total_tokens"].as_u64().unwrap();
    assert!((98..=100).contains(&total), "{answer}");
    let (status, answer) = ask(200).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    cluster.stop().await;
}
