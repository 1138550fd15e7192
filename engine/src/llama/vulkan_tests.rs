//! Computes the same text on the CPU and on a Vulkan device. `make check-release` runs it on Mesa's software driver.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::generate::{GenerateEvent, GenerateInput};
use futures::StreamExt;
use llama_cpp_2::LlamaBackendDeviceType::Gpu;
use llama_cpp_sys_2 as sys;

use super::LlamaEngine;
use super::backend::backend;
use crate::LoadedModel;
use crate::test_answers::{answer, load_with, request, spec};

const MODEL: &str = "../models/chat/SmolLM2-135M-Instruct.Q4_1.gguf";
const TEXT: &str = include_str!("../../../ARCHITECTURE.md");
/// Bytes of the text that are read in one go, with products of matrices.
const READ: usize = 3_000;
/// Words that follow one by one, with products of a matrix and a vector.
const WRITTEN: usize = 60;
/// The part of the next tokens that must be those of the CPU: where both compute with the same numbers.
const EQUAL: f64 = 0.95;
/// The same for a quantised model. For its products the CPU rounds what it multiplies with to 8 bits, and the device
/// does not. That alone moves more tokens than 5 % of this model's, as another type of the CPU's own cache does.
const EQUAL_QUANTISED: f64 = 0.9;

/// Writes the model with weights of 16 bits, with llama.cpp's own function.
fn write_f16(dir: &Path) -> PathBuf {
    // Without it llama.cpp prints what it does with each tensor.
    backend().unwrap();
    let written = dir.join("f16.gguf");
    let text = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    let (from, to) = (text(&delivered()), text(&written));
    // SAFETY: the paths are texts that end with a zero and live until the call returns, the parameters are those
    // that llama.cpp gives.
    let result = unsafe {
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = sys::LLAMA_FTYPE_MOSTLY_F16;
        params.allow_requantize = true;
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    assert_eq!(result, 0);
    written
}

fn delivered() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)
}

async fn load(file: &Path, gpu_layers: Option<u32>) -> Arc<dyn LoadedModel> {
    let mut spec = spec(file);
    spec.options.gpu_layers = gpu_layers;
    load_with(&LlamaEngine::default(), spec).await.unwrap()
}

/// Returns the most probable token at each position of the text, and after each of the words that follow it.
async fn next_tokens(model: &Arc<dyn LoadedModel>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let end = TEXT.floor_char_boundary(READ);
    let mut scored = request(GenerateInput::Text(TEXT[..end].to_owned()));
    scored.prompt_logprobs = true;
    scored.logprobs = Some(1);
    scored.sampling.max_tokens = Some(1);
    let mut events = model.generate(scored).await.unwrap();
    let Some(Ok(GenerateEvent::Delta(delta))) = events.next().await else {
        panic!("no scores");
    };
    let positions = delta.prompt_logprobs.iter();
    let read = positions
        .filter_map(|position| Some(position.top.first()?.bytes.clone()))
        .collect();
    let spaces = TEXT[end..].match_indices(' ');
    let mut written = Vec::new();
    for (space, _) in spaces.take(WRITTEN) {
        let mut next = request(GenerateInput::Text(TEXT[..end + space].to_owned()));
        next.logprobs = Some(1);
        next.sampling.max_tokens = Some(1);
        let answer = answer(model, next).await.unwrap();
        // None where the text would end.
        let token = answer.logprobs.first().and_then(|token| token.top.first());
        written.push(token.map(|token| token.bytes.clone()).unwrap_or_default());
    }
    (read, written)
}

fn equal(one: &[Vec<u8>], other: &[Vec<u8>]) -> f64 {
    assert_eq!(one.len(), other.len());
    let equal = one.iter().zip(other).filter(|(one, other)| one == other);
    equal.count() as f64 / one.len() as f64
}

/// Returns the parts of the next tokens that are equal: of the text that is read, and of the words one by one.
async fn compare(name: &str, file: &Path) -> (f64, f64) {
    let on_cpu = load(file, Some(0)).await;
    let devices = llama_cpp_2::list_llama_ggml_backend_devices();
    assert!(
        devices.iter().any(|device| device.device_type == Gpu),
        "no Vulkan device: GGML_VK_VISIBLE_DEVICES=0 admits a software driver"
    );
    let expected = next_tokens(&on_cpu).await;
    on_cpu.unload().await;
    let on_device = load(file, None).await;
    let found = next_tokens(&on_device).await;
    on_device.unload().await;
    assert!(expected.0.len() > 500);
    let (read, written) = (equal(&expected.0, &found.0), equal(&expected.1, &found.1));
    println!(
        "{name}: {} tokens read: {:.1} % equal; {} words one by one: {:.1} % equal",
        expected.0.len(),
        100.0 * read,
        expected.1.len(),
        100.0 * written
    );
    (read, written)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Vulkan device and the chat model: run `make check-release`"]
async fn vulkan_device_continues_a_text_as_the_cpu_does() {
    let dir = tempfile::tempdir().unwrap();
    let (f16, q4_1) = (write_f16(dir.path()), delivered());
    for (name, file, least) in [("F16", f16, EQUAL), ("Q4_1", q4_1, EQUAL_QUANTISED)] {
        let (read, written) = compare(name, &file).await;
        assert!(
            read >= least && written >= least,
            "{name}: {read} {written}"
        );
    }
}
