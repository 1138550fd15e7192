//! Tools that a model's chat template prints into the prompt.

use std::path::{Path, PathBuf};

use flotilla_tests::{Api, Cluster, repository};
use serde_json::{Value, json};

use crate::fixtures::{CHAT_PATH, copy_folder};

/// The context of the demo models, in tokens.
const CONTEXT: u64 = 512;

/// Writes a copy of a demo model whose template puts the tools before the question. None of the demo
/// models was trained on tools.
fn write_model_that_sees_tools(dir: &Path) -> PathBuf {
    let folder = dir.join("sees-tools");
    copy_folder(&repository().join("models/support-intent"), &folder);
    let path = folder.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    config["chat_template"] =
        json!("{%- for tool in tools -%}{{ tool | tojson }}{%- endfor -%}".to_owned() + template);
    std::fs::write(&path, config.to_string()).unwrap();
    folder
}

/// Asks with a tool whose description has this many words, and with the end tokens banned.
async fn ask(api: &Api, words: u64, max_tokens: u64) -> (u16, Value) {
    let description = "word ".repeat(words as usize);
    let function =
        json!({"name": "f", "description": description, "parameters": {"type": "object"}});
    let body = json!({
        "model": "sees-tools",
        "messages": [{"role": "user", "content": "hello"}],
        "tools": [{"type": "function", "function": function}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "logit_bias": {"0": -100, "1": -100, "2": -100},
    });
    let response = api.post(CHAT_PATH, &body).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn tools_count_as_a_part_of_the_prompt() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let folder = write_model_that_sees_tools(cluster.dir());
    api.apply(&json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "sees-tools"},
        "spec": {"source": {"path": folder}},
    }))
    .await;
    cluster.wait_for_replicas("sees-tools", 1).await;
    let prompt_tokens = async |words| {
        let (status, answer) = ask(&api, words, 1).await;
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let (few, more) = (prompt_tokens(10).await, prompt_tokens(30).await);
    assert!(more > few, "the template does not print the tools");
    let words = 10 + (CONTEXT - 30 - few) * 20 / (more - few);

    // The answer has the rest of the context, however many tokens it may have.
    let (status, answer) = ask(&api, words, 300).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    let total = answer["usage"]["total_tokens"].as_u64().unwrap();
    assert!((CONTEXT - 2..=CONTEXT).contains(&total), "{answer}");

    let (status, answer) = ask(&api, 2 * words, 300).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    cluster.stop().await;
}
