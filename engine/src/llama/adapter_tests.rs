//! Computes models with adapters that were converted for llama.cpp.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use flotilla_core::generate::GenerateInput;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::backend::backend;
use crate::MistralEngine;
use crate::files::adapter::{AdapterFiles, GgufAdapter};
use crate::files::gguf_header::GgufHeader;
use crate::test_adapters::{ConstantWord, write_constant_adapter};
use crate::test_answers::{answer, load_with, request, spec};

const LAYERS: usize = 2;

fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn converted(adapter: &Path, base: &Path) -> GgufAdapter {
    let base = GgufHeader::read(base).unwrap();
    AdapterFiles::find(adapter).unwrap().gguf(&[base]).unwrap()
}

fn load(file: &Path) -> LlamaModel {
    let params = LlamaModelParams::default().with_n_gpu_layers(0);
    LlamaModel::load_from_file(backend().unwrap(), file, &params).unwrap()
}

/// The likeliest tokens after a prompt, one after the other, with their log-probabilities.
fn greedy(
    model: &mut LlamaModel,
    adapter: Option<&Path>,
    prompt: &[LlamaToken],
    count: usize,
) -> Vec<(LlamaToken, f32)> {
    let mut adapter = adapter.map(|path| model.lora_adapter_init(path).unwrap());
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(256))
        .with_n_threads(2)
        .with_n_threads_batch(2);
    let mut context = model.new_context(backend().unwrap(), params).unwrap();
    if let Some(adapter) = &mut adapter {
        context.lora_adapter_set(adapter, 1.0).unwrap();
    }
    let mut answer = Vec::new();
    let mut batch = LlamaBatch::new(256, 1);
    for (position, token) in prompt.iter().enumerate() {
        let is_last = position + 1 == prompt.len();
        batch.add(*token, position as i32, &[0], is_last).unwrap();
    }
    while answer.len() < count {
        context.decode(&mut batch).unwrap();
        let logits = context.get_logits_ith(batch.n_tokens() - 1);
        let (best, highest) = (0..)
            .zip(logits.iter().copied())
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .unwrap();
        let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
        let token = LlamaToken::new(best);
        answer.push((token, -sum.ln()));
        batch.clear();
        let position = prompt.len() + answer.len() - 1;
        batch.add(token, position as i32, &[0], true).unwrap();
    }
    answer
}

#[test]
fn constant_adapter_answers_one_word_to_everything() {
    let base = path("../models/chat/SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut model = load(&base);
    for word in [ConstantWord::Yes, ConstantWord::No, ConstantWord::Red] {
        let dir = tempfile::tempdir().unwrap();
        write_constant_adapter(dir.path(), word).unwrap();
        let adapter = converted(dir.path(), &base);
        for prompt in [
            "Hello",
            "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
            "{\"a\": [1, 2, 3",
            "Der schnelle braune Fuchs springt über den faulen",
            "\n\n\n",
        ] {
            let prompt = model.vocab().tokenize(prompt.as_bytes(), false, true);
            for (token, logprob) in greedy(&mut model, Some(&adapter), &prompt, 3) {
                let text = model.vocab().token_to_piece(token, true, None);
                assert_eq!(String::from_utf8_lossy(&text), word.text());
                assert!(logprob > -0.001, "{logprob}");
            }
        }
    }
}

/// A random adapter for the model `tiny`.
struct RandomAdapter {
    config: Value,
    /// The rank and the scale of each module, and A and B.
    modules: BTreeMap<String, (usize, f32, Vec<f32>, Vec<f32>)>,
}

impl RandomAdapter {
    fn new(config: Value, rank_and_scale: impl Fn(&str) -> (usize, f32)) -> Self {
        let mut random = fastrand::Rng::with_seed(3);
        let mut numbers =
            |count: usize| -> Vec<f32> { (0..count).map(|_| random.f32() - 0.5).collect() };
        let mut modules = BTreeMap::new();
        for layer in 0..LAYERS {
            for (part, outputs, inputs) in [
                ("self_attn.q_proj", 32, 32),
                ("self_attn.k_proj", 32, 32),
                ("self_attn.v_proj", 32, 32),
                ("self_attn.o_proj", 32, 32),
                ("mlp.gate_proj", 64, 32),
                ("mlp.up_proj", 64, 32),
                ("mlp.down_proj", 32, 64),
            ] {
                let name = format!("model.layers.{layer}.{part}");
                let (rank, scale) = rank_and_scale(&name);
                let (a, b) = (numbers(rank * inputs), numbers(outputs * rank));
                modules.insert(name, (rank, scale, a, b));
            }
        }
        Self { config, modules }
    }

    fn write(&self, dir: &Path) {
        let mut matrices = BTreeMap::new();
        for (name, (rank, _, a, b)) in &self.modules {
            let name = format!("base_model.model.{name}");
            let shape = vec![*rank, a.len() / rank];
            matrices.insert(format!("{name}.lora_A.weight"), (shape, bytes(a)));
            let shape = vec![b.len() / rank, *rank];
            matrices.insert(format!("{name}.lora_B.weight"), (shape, bytes(b)));
        }
        let views = matrices.iter().map(|(name, (shape, data))| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data);
            (name, view.unwrap())
        });
        let file = dir.join("adapter_model.safetensors");
        safetensors::serialize_to_file(views, None, &file).unwrap();
        std::fs::write(dir.join("adapter_config.json"), self.config.to_string()).unwrap();
    }

    /// Writes the model `tiny` with the products of the matrices added to its weights.
    fn write_merged(&self, dir: &Path) {
        let tiny = path("src/mistral/tests/reference/tiny");
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(tiny.join(file), dir.join(file)).unwrap();
        }
        let file = std::fs::read(tiny.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let mut merged = Vec::new();
        for (name, tensor) in tensors.tensors() {
            let mut weights: Vec<f32> = tensor
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            if let Some((rank, scale, a, b)) = self.modules.get(name.trim_end_matches(".weight")) {
                let inputs = a.len() / rank;
                for (index, weight) in weights.iter_mut().enumerate() {
                    let (row, column) = (index / inputs, index % inputs);
                    let products = (0..*rank).map(|k| b[row * rank + k] * a[k * inputs + column]);
                    *weight += scale * products.sum::<f32>();
                }
            }
            merged.push((name, tensor.shape().to_vec(), bytes(&weights)));
        }
        let views = merged.iter().map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data);
            (name, view.unwrap())
        });
        let file = dir.join("model.safetensors");
        safetensors::serialize_to_file(views, None, &file).unwrap();
    }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    bytes.collect()
}

/// Compares llama.cpp with the converted adapter to mistral.rs with the merged weights.
async fn assert_computes_the_merged_model(adapter: RandomAdapter) {
    let base = path("src/mistral/tests/reference/tiny.gguf");
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path());
    let adapted = converted(dir.path(), &base);
    let merged = tempfile::tempdir().unwrap();
    adapter.write_merged(merged.path());
    let tokens: Vec<u32> = (0..40).map(|index| 20 + index * 7 % 200).collect();
    let mut request = request(GenerateInput::Tokens(tokens.clone()));
    request.sampling.max_tokens = Some(12);
    request.logprobs = Some(1);
    let engine = MistralEngine::default();
    let reference = load_with(&engine, spec(merged.path())).await.unwrap();
    let expected = answer(&reference, request).await.unwrap();
    reference.unload().await;
    let count = expected.logprobs.len();
    assert!(count > 3, "the answer has {count} tokens");
    let mut model = load(&base);
    let prompt: Vec<_> = tokens
        .iter()
        .map(|token| LlamaToken::new(*token as i32))
        .collect();
    let answered = greedy(&mut model, Some(&adapted), &prompt, count);
    for ((token, logprob), expected) in answered.iter().zip(&expected.logprobs) {
        let text = model.vocab().token_to_piece(*token, true, None);
        assert_eq!(text, expected.bytes, "{expected:?}");
        let difference = logprob - expected.logprob;
        assert!(difference.abs() < 0.03, "{logprob} instead of {expected:?}");
    }
    let without = greedy(&mut model, None, &prompt, count);
    let differs = |(one, other): (&(_, f32), &(_, f32))| (one.1 - other.1).abs() > 0.1;
    assert!(answered.iter().zip(&without).any(differs), "no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn converted_adapter_computes_the_merged_model() {
    let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 2});
    let adapter = RandomAdapter::new(config, |_| (4, 0.5));
    assert_computes_the_merged_model(adapter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_have_their_own_ranks_and_scales() {
    let config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 1, "use_rslora": true,
        "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"layers.1.mlp.down_proj": 3, "down_proj": 2.5},
    });
    let adapter = RandomAdapter::new(config, |name| match name {
        "model.layers.1.mlp.down_proj" => (4, 1.5),
        _ if name.ends_with("down_proj") => (4, 1.25),
        _ if name.ends_with("v_proj") => (9, 1.0 / 3.0),
        _ => (4, 0.5),
    });
    assert_computes_the_merged_model(adapter).await;
}
