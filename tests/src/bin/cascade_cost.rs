//! Measures what a cascade costs a streaming client: the time to its first token, the energy and the
//! share of right answers. Sends requests of CLINC150 to assistant-intent-s, to assistant-intent-m and
//! to the cascade of both, in turn, in one run.
//!
//! Reads the folder `clinc150` in `FLOTILLA_DATA`, by default `../shared/data` beside the repository.
//!
//! `cargo run --release --workspace --bin cascade_cost [REQUESTS]`

use std::path::PathBuf;
use std::time::Instant;

use flotilla_tests::{Api, Cluster, Mode, demo_model, repository};
use futures::StreamExt;
use serde_json::{Value, json};

const SMALL: &str = "assistant-intent-s";
const LARGE: &str = "assistant-intent-m";

/// Measurements of the answers of one model or of the cascade.
#[derive(Default)]
struct AnswerStats {
    /// Milliseconds to the first token of each answer.
    first_token_ms: Vec<f64>,
    /// The energy of all answers.
    joules: f64,
    right: usize,
}

#[tokio::main]
async fn main() {
    let requests = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let items = read_items(requests.unwrap_or(600));
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    for model in [SMALL, LARGE] {
        api.apply(&demo_model(model, 1)).await;
        cluster.wait_for_replicas(model, 1).await;
    }
    // The threshold of models/tasks.yaml.
    let accept = json!({"measure": "margin", "atLeast": 0.39});
    api.apply(&json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Task", "metadata": {"name": "assistant"},
        "spec": {"models": [SMALL, LARGE], "cascade": {"accept": accept}},
    }))
    .await;
    let mut alone = [AnswerStats::default(), AnswerStats::default()];
    let (mut accepted, mut escalated) = (AnswerStats::default(), AnswerStats::default());
    for (text, intent) in &items {
        for (model, stats) in [SMALL, LARGE].into_iter().zip(&mut alone) {
            ask(&api, model, text, intent).await.add_to(stats);
        }
        let answer = ask(&api, "task:assistant", text, intent).await;
        let stats = if answer.model == SMALL {
            &mut accepted
        } else {
            &mut escalated
        };
        answer.add_to(stats);
    }
    println!(
        "{:<38}{:>10}{:>12}{:>14}{:>14}{:>10}",
        "", "requests", "right", "first, p50", "first, p95", "J each"
    );
    let [small, large] = alone;
    print(&format!("{SMALL} alone"), &small);
    print(&format!("{LARGE} alone"), &large);
    print("cascade: answer of the small model", &accepted);
    print("cascade: escalated to the large model", &escalated);
    accepted
        .first_token_ms
        .append(&mut escalated.first_token_ms);
    accepted.joules += escalated.joules;
    accepted.right += escalated.right;
    print("cascade: all", &accepted);
    cluster.stop().await;
}

/// Reads at most about `limit` requests, evenly spread over the data, each with the right intent.
fn read_items(limit: usize) -> Vec<(String, String)> {
    let data = std::env::var_os("FLOTILLA_DATA").map(PathBuf::from);
    let data = data.unwrap_or_else(|| repository().join("../shared/data"));
    let path = data.join("clinc150/val.jsonl");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; set FLOTILLA_DATA", path.display()));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of CLINC150 is JSON"))
        .collect();
    let step = (lines.len() / limit.max(1)).max(1);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let picked = lines.iter().step_by(step);
    picked
        .map(|line| (text(&line["text"]), text(&line["intent"])))
        .collect()
}

struct Answer {
    /// The model that answered.
    model: String,
    first_token_ms: f64,
    joules: f64,
    right: bool,
}

impl Answer {
    fn add_to(self, stats: &mut AnswerStats) {
        stats.first_token_ms.push(self.first_token_ms);
        stats.joules += self.joules;
        stats.right += usize::from(self.right);
    }
}

/// Sends one request and reads its answer and the record of its decision.
async fn ask(api: &Api, model: &str, text: &str, intent: &str) -> Answer {
    let begun = Instant::now();
    let response = api.chat(model, text, true).await;
    let header = |name: &str| {
        let value = response.headers().get(name);
        value.map_or_else(String::new, |v| v.to_str().expect("text").to_owned())
    };
    let (model, id) = (header("x-flotilla-model"), header("x-flotilla-decision"));
    let mut chunks = response.bytes_stream();
    let mut body = Vec::new();
    let mut first_token_ms = None;
    while let Some(chunk) = chunks.next().await {
        first_token_ms.get_or_insert_with(|| begun.elapsed().as_secs_f64() * 1e3);
        body.extend_from_slice(&chunk.expect("a stream"));
    }
    let answer: String = String::from_utf8_lossy(&body)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
    Answer {
        model,
        first_token_ms: first_token_ms.unwrap_or_default(),
        joules: record["outcome"]["joules"].as_f64().unwrap_or_default(),
        right: answer.trim() == intent,
    }
}

fn print(name: &str, stats: &AnswerStats) {
    let mut first = stats.first_token_ms.clone();
    first.sort_by(f64::total_cmp);
    let quantile = |part: f64| {
        let index = (first.len() as f64 * part) as usize;
        first.get(index).copied().unwrap_or_default()
    };
    let total = first.len().max(1) as f64;
    println!(
        "{name:<38}{:>10}{:>10.2} %{:>11.1} ms{:>11.1} ms{:>10.4}",
        first.len(),
        stats.right as f64 / total * 100.0,
        quantile(0.5),
        quantile(0.95),
        stats.joules / total
    );
}
