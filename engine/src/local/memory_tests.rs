//! Measures the memory of a model whose context is full, beside the estimate.

use std::path::PathBuf;

use flotilla_core::Bytes;
use flotilla_core::generate::GenerateInput;
use flotilla_core::spec::EngineKind;

use super::LocalEngine;
use crate::Engine;
use crate::test_answers::{answer, load_with, model, request, spec};

/// A figure of this process's memory: `VmRSS` now, or `VmHWM` at most so far.
fn memory(name: &str) -> Bytes {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    Bytes(kilobytes.parse::<u64>().unwrap() * 1_024)
}

/// Loads the model at `FLOTILLA_MODEL`, with the context length `FLOTILLA_CONTEXT_LENGTH` if it is set and the engine
/// mistral if `FLOTILLA_ENGINE` is, fills its contexts and prints its peak beside the estimate. It must run in a
/// process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs FLOTILLA_MODEL, the path of a model, and a process of its own"]
async fn memory_of_a_full_context() {
    let path = PathBuf::from(std::env::var("FLOTILLA_MODEL").unwrap());
    let mut spec = spec(&path);
    spec.options.max_prompt_seconds = Some(3_600);
    let context_length = std::env::var("FLOTILLA_CONTEXT_LENGTH").ok();
    spec.options.context_length = context_length.map(|length| length.parse().unwrap());
    if std::env::var_os("FLOTILLA_ENGINE").is_some() {
        spec.engine = EngineKind::Mistral;
    }
    let engine = LocalEngine::default();
    let estimate = engine.estimate(&model(spec.clone())).await.unwrap();
    let requests = spec.concurrency;
    let before = memory("VmRSS");
    let model = load_with(&engine, spec).await.unwrap();
    let (loading, loaded) = (memory("VmHWM"), memory("VmRSS"));
    // From here on the kernel counts the peak anew, as in a runner.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let context = model.context_length().unwrap();
    // Prompts that have nothing in common.
    for beginning in 0..requests {
        let tokens = (0..context - 8).map(|index| 40 + (index * (beginning + 7)) % 1_000);
        let mut request = request(GenerateInput::Tokens(tokens.collect()));
        request.sampling.logit_bias = [0, 1, 2].map(|token| (token, -100.0)).into();
        answer(&model, request).await.unwrap();
    }
    let (peak, full) = (memory("VmHWM"), memory("VmRSS"));
    let error = 100.0 * (estimate.0 as f64 / peak.0 as f64 - 1.0);
    println!(
        "context {context}: estimate {estimate}, peak {peak} ({error:+.1} %); process {before}, loading {loading}, \
         loaded {loaded}, full {full}"
    );
}
