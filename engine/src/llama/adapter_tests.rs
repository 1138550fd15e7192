//! Computes models with adapters that were converted for llama.cpp.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use flotilla_core::generate::{GenerateInput, GenerateRequest};
use flotilla_core::spec::Model;
use futures::future::join_all;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use serde_json::{Value, json};

use super::backend::backend;
use crate::files::adapter::{AdapterFiles, GgufAdapter};
use crate::files::gguf_header::GgufHeader;
use crate::test_adapters::{ConstantWord, write_constant_adapter};
use crate::test_answers::{answer, load_with, model, request, spec};
use crate::{LlamaEngine, LoadError, LoadedModel, MistralEngine};

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

/// A Llama as a Hugging Face folder and as a GGUF file.
struct Base {
    folder: PathBuf,
    gguf: PathBuf,
}

impl Base {
    fn tiny() -> Self {
        let path = |name: &str| path("src/mistral/tests/reference").join(name);
        Self {
            folder: path("tiny"),
            gguf: path("tiny.gguf"),
        }
    }

    fn weights(&self) -> HashMap<String, Tensor> {
        let weights = self.folder.join("model.safetensors");
        candle_core::safetensors::load(weights, &Device::Cpu).unwrap()
    }
}

/// An adapter of random numbers for all modules in the layers of a base.
struct RandomAdapter {
    config: Value,
    /// The scale, A and B of each module.
    modules: BTreeMap<String, (f64, Tensor, Tensor)>,
}

impl RandomAdapter {
    fn new(base: &Base, config: Value, rank_and_scale: impl Fn(&str) -> (usize, f64)) -> Self {
        let mut random = fastrand::Rng::with_seed(3);
        let mut matrix = |rows: usize, columns: usize| {
            let numbers = (0..rows * columns).map(|_| random.f32() - 0.5);
            Tensor::from_iter(numbers, &Device::Cpu)
                .and_then(|numbers| numbers.reshape((rows, columns)))
                .unwrap()
        };
        let mut modules = BTreeMap::new();
        let weights: BTreeMap<String, Tensor> = base.weights().into_iter().collect();
        for (name, weight) in weights {
            let module = name.trim_end_matches(".weight");
            if !module.ends_with("_proj") {
                continue;
            }
            let (rank, scale) = rank_and_scale(module);
            let (outputs, inputs) = weight.dims2().unwrap();
            let (a, b) = (matrix(rank, inputs), matrix(outputs, rank));
            modules.insert(module.to_owned(), (scale, a, b));
        }
        Self { config, modules }
    }

    fn write(&self, dir: &Path) {
        let mut tensors = HashMap::new();
        for (name, (_, a, b)) in &self.modules {
            tensors.insert(format!("base_model.model.{name}.lora_A.weight"), a.clone());
            tensors.insert(format!("base_model.model.{name}.lora_B.weight"), b.clone());
        }
        candle_core::safetensors::save(&tensors, dir.join("adapter_model.safetensors")).unwrap();
        std::fs::write(dir.join("adapter_config.json"), self.config.to_string()).unwrap();
    }

    /// Writes the base with the products of the matrices added to its weights.
    fn write_merged(&self, base: &Base, dir: &Path) {
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(base.folder.join(file), dir.join(file)).unwrap();
        }
        let mut weights = base.weights();
        for (name, (scale, a, b)) in &self.modules {
            let weight = weights.get_mut(&format!("{name}.weight")).unwrap();
            let change = (b.matmul(a).unwrap() * *scale).unwrap();
            let merged = (weight.to_dtype(DType::F32).unwrap() + change).unwrap();
            *weight = merged.to_dtype(weight.dtype()).unwrap();
        }
        candle_core::safetensors::save(&weights, dir.join("model.safetensors")).unwrap();
    }
}

/// Compares llama.cpp with the converted adapter to mistral.rs with the merged weights.
async fn assert_computes_the_merged_model(base: &Base, adapter: RandomAdapter) {
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path());
    let adapted = converted(dir.path(), &base.gguf);
    let merged = tempfile::tempdir().unwrap();
    adapter.write_merged(base, merged.path());
    let engine = MistralEngine::default();
    let reference = load_with(&engine, spec(merged.path())).await.unwrap();
    let mut model = load(&base.gguf);
    let (mut compared, mut greatest_effect) = (0, 0.0f32);
    for first in 0..6 {
        let tokens: Vec<u32> = (0..40)
            .map(|index| 20 + (index + first) * 7 % 200)
            .collect();
        let prompt = tokens.iter().map(|token| LlamaToken::new(*token as i32));
        let prompt: Vec<LlamaToken> = prompt.collect();
        let mut request = request(GenerateInput::Tokens(tokens));
        request.logprobs = Some(1);
        let expected = answer(&reference, request).await.unwrap().logprobs;
        let answered = greedy(&mut model, Some(&adapted), &prompt, expected.len().max(1));
        for ((token, logprob), expected) in answered.iter().zip(&expected) {
            let text = model.vocab().token_to_piece(*token, true, None);
            assert_eq!(text, expected.bytes, "{expected:?}");
            let difference = logprob - expected.logprob;
            assert!(difference.abs() < 0.03, "{logprob} instead of {expected:?}");
        }
        let without = greedy(&mut model, None, &prompt, 1);
        compared += expected.len();
        greatest_effect = greatest_effect.max((answered[0].1 - without[0].1).abs());
    }
    reference.unload().await;
    assert!(compared >= 12, "{compared} tokens were compared");
    assert!(greatest_effect > 0.1, "it has no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn converted_adapter_computes_the_merged_model() {
    let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 2});
    let base = Base::tiny();
    let adapter = RandomAdapter::new(&base, config, |_| (4, 0.5));
    assert_computes_the_merged_model(&base, adapter).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs FLOTILLA_LLAMA, the folder of a Llama, and FLOTILLA_LLAMA_GGUF, a GGUF file of the same"]
async fn converted_adapter_computes_another_merged_model() {
    let path = |variable| PathBuf::from(std::env::var(variable).unwrap());
    let base = Base {
        folder: path("FLOTILLA_LLAMA"),
        gguf: path("FLOTILLA_LLAMA_GGUF"),
    };
    let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 1});
    let adapter = RandomAdapter::new(&base, config, |_| (4, 0.25));
    assert_computes_the_merged_model(&base, adapter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_have_their_own_ranks_and_scales() {
    let config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 1, "use_rslora": true,
        "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"layers.1.mlp.down_proj": 3, "down_proj": 2.5},
    });
    let base = Base::tiny();
    let adapter = RandomAdapter::new(&base, config, |name| match name {
        "model.layers.1.mlp.down_proj" => (4, 1.5),
        _ if name.ends_with("down_proj") => (4, 1.25),
        _ if name.ends_with("v_proj") => (9, 1.0 / 3.0),
        _ => (4, 0.5),
    });
    assert_computes_the_merged_model(&base, adapter).await;
}

/// An adapter of SmolLM2 as a model whose files are in `dir`.
fn constant_adapter(dir: &Path, word: ConstantWord) -> Model {
    write_constant_adapter(dir, word).unwrap();
    model(spec(dir))
}

fn words(prompt: &str, count: u32) -> GenerateRequest {
    let mut request = request(GenerateInput::Text(prompt.into()));
    request.sampling.max_tokens = Some(count);
    request
}

async fn text(model: &Arc<dyn LoadedModel>, request: GenerateRequest) -> String {
    answer(model, request).await.unwrap().content
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_different_adapters_do_not_mix() {
    let file = path("../models/chat/SmolLM2-135M-Instruct.Q4_1.gguf");
    let base = load_with(&LlamaEngine::default(), spec(&file))
        .await
        .unwrap();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let yes = constant_adapter(dirs[0].path(), ConstantWord::Yes);
    let no = constant_adapter(dirs[1].path(), ConstantWord::No);
    let yes = base.load_adapter(&yes).await.unwrap();
    let no = base.load_adapter(&no).await.unwrap();
    // The same prompts for all, so that beginnings would be shared if they could.
    let prompts = [
        "The weather in the mountains is often",
        "The weather in the mountains was",
    ];
    let mut alone = Vec::new();
    for prompt in prompts {
        alone.push(text(&base, words(prompt, 6)).await);
    }
    let answers = async |model: &Arc<dyn LoadedModel>| {
        let answers = prompts.map(|prompt| text(model, words(prompt, 6)));
        join_all(answers).await
    };
    // Twice: the second time from what the first has left.
    for _ in 0..2 {
        let (from_base, from_yes, from_no) =
            tokio::join!(answers(&base), answers(&yes), answers(&no));
        assert_eq!(from_base, alone);
        assert_eq!(from_yes, [" yes".repeat(6), " yes".repeat(6)]);
        assert_eq!(from_no, [" no".repeat(6), " no".repeat(6)]);
    }
    yes.unload().await;
    let gone = answer(&yes, words("Hello", 1)).await.err().unwrap();
    assert!(gone.to_string().contains("adapter"), "{gone}");
    assert_eq!(text(&no, words("Hello", 2)).await, " no no");
    assert_eq!(text(&base, words(prompts[0], 6)).await, alone[0]);
    no.unload().await;
    base.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adapter_that_does_not_fit_is_refused_and_its_base_goes_on() {
    let tiny = path("src/mistral/tests/reference/tiny.gguf");
    let base = load_with(&LlamaEngine::default(), spec(&tiny))
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let adapter = constant_adapter(dir.path(), ConstantWord::Red);
    let refused = base.load_adapter(&adapter).await.err().unwrap();
    assert!(matches!(refused, LoadError::OtherBase { .. }), "{refused}");
    assert!(!text(&base, words("Hello", 4)).await.is_empty());
    let folder = path("../models/extract");
    let mistral = load_with(&MistralEngine::default(), spec(&folder))
        .await
        .unwrap();
    let refused = mistral.load_adapter(&adapter).await.err().unwrap();
    assert!(refused.to_string().contains("GGUF"), "{refused}");
    base.unload().await;
    mistral.unload().await;
}
