//! What a cascade costs a streaming client until its first token, and what it takes: the pair
//! assistant-intent-s → -m on requests of CLINC150, each model alone and both as a cascade, asked in
//! turn in one run.
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

/// What was measured of one way to answer.
#[derive(Default)]
struct Measured {
    /// Milliseconds to the first token.
    first: Vec<f64>,
    joules: f64,
    right: usize,
}

#[tokio::main]
async fn main() {
    let requests = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let items = read(requests.unwrap_or(600));
    let cluster = Cluster::start(Mode::Processes, &["n1"]).await;
    let api = cluster.api();
    for model in [SMALL, LARGE] {
        api.apply(&demo_model(model, 1)).await;
        cluster.until(async || api.ready(model).await == 1).await;
    }
    // As models/tasks.yaml has it.
    let accept = json!({"measure": "margin", "atLeast": 0.39});
    api.apply(&json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Task", "metadata": {"name": "assistant"},
        "spec": {"models": [SMALL, LARGE], "cascade": {"accept": accept}},
    }))
    .await;
    let mut alone = [Measured::default(), Measured::default()];
    let (mut kept, mut escalated) = (Measured::default(), Measured::default());
    for (text, intent) in &items {
        for (model, measured) in [SMALL, LARGE].into_iter().zip(&mut alone) {
            ask(&api, model, text, intent).await.add_to(measured);
        }
        let answer = ask(&api, "task:assistant", text, intent).await;
        let of = if answer.model == SMALL {
            &mut kept
        } else {
            &mut escalated
        };
        answer.add_to(of);
    }
    println!(
        "{:<38}{:>10}{:>12}{:>14}{:>14}{:>10}",
        "", "requests", "right", "first, p50", "first, p95", "J each"
    );
    let [small, large] = alone;
    print(&format!("{SMALL} alone"), &small);
    print(&format!("{LARGE} alone"), &large);
    print("cascade: kept by the small one", &kept);
    print("cascade: handed on to the larger one", &escalated);
    kept.first.append(&mut escalated.first);
    kept.joules += escalated.joules;
    kept.right += escalated.right;
    print("cascade: all", &kept);
    cluster.stop().await;
}

fn read(most: usize) -> Vec<(String, String)> {
    let data = std::env::var_os("FLOTILLA_DATA").map(PathBuf::from);
    let data = data.unwrap_or_else(|| repository().join("../shared/data"));
    let path = data.join("clinc150/val.jsonl");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; set FLOTILLA_DATA", path.display()));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of CLINC150"))
        .collect();
    let step = (lines.len() / most.max(1)).max(1);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let picked = lines.iter().step_by(step);
    picked
        .map(|line| (text(&line["text"]), text(&line["intent"])))
        .collect()
}

struct Answer {
    model: String,
    first: f64,
    joules: f64,
    right: bool,
}

impl Answer {
    fn add_to(self, measured: &mut Measured) {
        measured.first.push(self.first);
        measured.joules += self.joules;
        measured.right += usize::from(self.right);
    }
}

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
    let mut first = None;
    while let Some(chunk) = chunks.next().await {
        first.get_or_insert_with(|| begun.elapsed().as_secs_f64() * 1e3);
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
        first: first.unwrap_or_default(),
        joules: record["outcome"]["joules"].as_f64().unwrap_or_default(),
        right: answer.trim() == intent,
    }
}

fn print(what: &str, measured: &Measured) {
    let mut first = measured.first.clone();
    first.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = (first.len() as f64 * part) as usize;
        first.get(place).copied().unwrap_or_default()
    };
    let total = first.len().max(1) as f64;
    println!(
        "{what:<38}{:>10}{:>10.2} %{:>11.1} ms{:>11.1} ms{:>10.4}",
        first.len(),
        measured.right as f64 / total * 100.0,
        at(0.5),
        at(0.95),
        measured.joules / total
    );
}
