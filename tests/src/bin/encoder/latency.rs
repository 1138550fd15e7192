//! How long requests wait for the encoder: through the controller and the agent, one after the other, with 20 examples of
//! each domain of CLINC150.

use std::collections::BTreeMap;

use flotilla_tests::{Api, Cluster};
use serde_json::{Value, json};

use crate::{ENCODER, texts};

/// Examples of each domain.
const EXAMPLES: usize = 20;
/// Requests that are planned.
const REQUESTS: usize = 1_000;

/// Prints the distribution of the time and what became of the requests.
pub(crate) async fn print(cluster: &Cluster, api: &Api) {
    for (domain, examples) in texts::examples(EXAMPLES) {
        let name = domain.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        api.apply(&json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Task", "metadata": {"name": name},
            "spec": {"models": [ENCODER], "examples": examples},
        }))
        .await;
    }
    api.apply(&json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Router", "metadata": {"name": "default"},
        "spec": {"encoder": ENCODER},
    }))
    .await;
    cluster
        .wait_until(async || {
            let (_, classifier) = api.get("api/v1/classifier").await;
            classifier["encoder"]["trained"] == true && classifier["trained"] == true
        })
        .await;
    let requests = texts::clinc150("val");
    let every = (requests.len() / REQUESTS).max(1);
    let (mut times, mut outcomes, mut planned) = (Vec::new(), BTreeMap::new(), 0_u32);
    for (text, ..) in requests.iter().step_by(every).take(REQUESTS) {
        let body = json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
        let response = api.post("v1/route", &body).await;
        let decision: Value = response.json().await.expect("the answer is JSON");
        planned += 1;
        let encoder = &decision["classification"]["encoder"];
        if let Some(outcome) = encoder["outcome"].as_str() {
            *outcomes.entry(outcome.to_owned()).or_insert(0_u32) += 1;
            // Those that pass it by wait for nothing.
            if matches!(outcome, "used" | "timeout") {
                times.extend(encoder["duration_ms"].as_f64());
            }
        }
    }
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let at = (times.len() as f64 * share) as usize;
        times.get(at.min(times.len().saturating_sub(1))).copied()
    };
    println!(
        "of {planned} requests the classifier was unsure of {}: {outcomes:?}",
        outcomes.values().sum::<u32>()
    );
    for (name, share) in [("median", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        println!("{name:<7} {:>6.1} ms", quantile(share).unwrap_or_default());
    }
}
