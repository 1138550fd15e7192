//! llama.cpp without anything around it.

use std::ffi::CString;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use llama_cpp_sys_2 as sys;

use crate::wave::Wave;

/// The formats that are measured.
pub(crate) const FORMATS: [(&str, sys::llama_ftype); 2] = [
    ("Q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("Q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
];
/// The most tokens of a step.
const BATCH: usize = 512;

/// Writes a model in another format, with llama.cpp's own function.
pub(crate) fn quantise(from: &Path, to: &Path, kind: sys::llama_ftype) {
    let text = |path: &Path| {
        let path = path.to_str().expect("a path that is text");
        CString::new(path).expect("a path without zeros")
    };
    let (from, to) = (text(from), text(to));
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
    // SAFETY: the paths are texts that end with a zero and live until the call returns, the parameters are those
    // that llama.cpp gives.
    let result = unsafe {
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = kind;
        params.allow_requantize = true;
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    assert_eq!(result, 0, "the model cannot be quantised");
}

/// Reads prompts of random tokens, one after the other, then writes all answers at once, always the most probable
/// token.
pub(crate) fn run(path: &Path, at_once: usize, prompt: usize, answer: usize) -> Wave {
    // Only one of a process can exist.
    let backend = LlamaBackend::init().expect("llama.cpp starts");
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default());
    let model = model.expect("the model loads");
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as i32;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new((at_once * (prompt + answer)) as u32))
        .with_n_batch(BATCH as u32)
        .with_n_ubatch(BATCH as u32)
        .with_n_seq_max(at_once as u32)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let mut context = model.new_context(&backend, params).expect("a context");
    let vocabulary = model.vocab().n_tokens();
    let mut random = fastrand::Rng::with_seed(7);
    let mut batch = LlamaBatch::new(BATCH, 1);
    let mut wave = Wave {
        tokens: vec![Vec::new(); at_once],
        joules: None,
    };
    let mut next = vec![LlamaToken(0); at_once];
    let began = Instant::now();
    let greedy = |logits: &[f32]| {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        LlamaToken(best.map_or(0, |(token, _)| token as i32))
    };
    for (sequence, next) in next.iter_mut().enumerate() {
        for begin in (0..prompt).step_by(BATCH) {
            batch.clear();
            let end = (begin + BATCH).min(prompt);
            for position in begin..end {
                let token = LlamaToken(random.i32(3..vocabulary));
                let is_last = position + 1 == prompt;
                let added = batch.add(token, position as i32, &[sequence as i32], is_last);
                added.expect("the batch has room");
            }
            context.decode(&mut batch).expect("a step");
        }
        *next = greedy(context.get_logits_ith(batch.n_tokens() - 1));
        wave.tokens[sequence].push(began.elapsed());
    }
    for step in 1..answer {
        batch.clear();
        for (sequence, token) in next.iter().enumerate() {
            let position = (prompt + step - 1) as i32;
            let added = batch.add(*token, position, &[sequence as i32], true);
            added.expect("the batch has room");
        }
        context.decode(&mut batch).expect("a step");
        for (sequence, token) in next.iter_mut().enumerate() {
            *token = greedy(context.get_logits_ith(sequence as i32));
            wave.tokens[sequence].push(began.elapsed());
        }
    }
    wave
}
