//! Measures the router's encoder in a real fleet of a controller and an agent, with the encoder of `make encoder`.
//!
//! - `cargo run --release -p flotilla-tests --bin encoder vectors` writes the vectors of the texts of CLINC150 and Banking77,
//!   which `few_examples` reads, into `target/encoder/sentence_vectors.bin`.
//! - `cargo run --release -p flotilla-tests --bin encoder latency` prints how long requests wait for the encoder.
//!
//! The data is in `FLOTILLA_DATA`, by default `../shared/data` beside the repository.

mod latency;
mod texts;
mod vectors;

use std::path::PathBuf;

use flotilla_tests::{Api, Cluster, Mode, repository};
use serde_json::{Value, json};

/// The name of the encoder.
const ENCODER: &str = "minilm";

#[tokio::main]
async fn main() {
    let command = std::env::args().nth(1);
    let measure = match command.as_deref() {
        Some("vectors") => false,
        Some("latency") => true,
        _ => {
            eprintln!("usage: encoder vectors|latency");
            std::process::exit(2);
        }
    };
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&encoder()).await;
    cluster.wait_for_replicas(ENCODER, 1).await;
    if measure {
        latency::print(&cluster, &api).await;
    } else {
        vectors::write(&api, &encoder_dir().join("sentence_vectors.bin")).await;
    }
    cluster.stop().await;
}

fn encoder_dir() -> PathBuf {
    repository().join("target/encoder")
}

fn encoder() -> Value {
    let path = encoder_dir().join("minilm.gguf");
    assert!(
        path.exists(),
        "{} is missing: run `make encoder`",
        path.display()
    );
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": ENCODER},
        "spec": {"source": {"path": path}, "engine": "llama"},
    })
}

/// The embeddings of texts.
async fn embed(api: &Api, texts: &[String]) -> Vec<Vec<f32>> {
    let body = json!({"model": ENCODER, "input": texts});
    let response = api.post("v1/embeddings", &body).await;
    let answer: Value = response.json().await.expect("the answer is JSON");
    let data = answer["data"].as_array();
    let data = data.unwrap_or_else(|| panic!("no embeddings: {answer}"));
    let vector = |item: &Value| {
        let values = item["embedding"].as_array().expect("an embedding");
        let values = values.iter().filter_map(Value::as_f64);
        values.map(|value| value as f32).collect()
    };
    data.iter().map(vector).collect()
}
