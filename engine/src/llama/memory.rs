//! Estimates the memory of a model from its file.
//!
//! A model has a process of its own: the estimate is the largest memory that the process is charged, with the
//! contexts of all requests that are computed at once full.

use flotilla_core::Bytes;
use flotilla_core::spec::{KvCacheType, ModelSpec, Pipeline};

use super::attention::Attention;
use super::load::threads;
use super::load_plan::{LoadPlan, seems_to_have_accelerator};
use super::step_plan::SCORED_TOKENS;
use crate::LoadError;
use crate::file_reading::FileReading;
use crate::files::gguf_header::{GgufHeader, GgufTensor};
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::files::model_shape::ModelShape;
use crate::gpu_context::GPU_CONTEXT;
use crate::text::source_path::source_path;

/// Memory of a process without a model, as it is charged: threads, what their first answer takes, and a part of
/// the program's code, which the agent and all runners share.
const PROCESS: u64 = 40 << 20;
/// Memory of a token of the vocabulary in llama.cpp's tokenizer and in the tree that grammars search.
const VOCABULARY_ENTRY: u64 = 64;
/// The width of activations and logits.
const F32: u64 = 4;
/// The width of masks for flash attention.
const F16: u64 = 2;
/// The masks of attention: models with a sliding window have two.
const MASKS: u64 = 2;
/// The architecture that llama.cpp computes without flash attention, whatever is asked for.
const WITHOUT_FLASH_ATTENTION: &str = "grok";
/// The widths of heads that the flash attention of accelerators knows.
const FLASH_HEADS: [u64; 6] = [64, 80, 96, 112, 128, 256];
/// Memory of a model whose dimensions are not known, as a fraction of its weights.
const UNKNOWN_SHAPE: f64 = 0.3;

/// Estimates the memory of a model: what the spec says, or else what follows from its file.
/// See [`Engine::estimate`](crate::Engine::estimate).
pub(super) async fn estimate(reading: &FileReading, spec: &ModelSpec) -> Result<Bytes, LoadError> {
    let (path, spec) = (source_path(spec)?, spec.clone());
    let path = path.to_owned();
    let files_path = path.clone();
    let estimate = move || {
        let files = ModelFiles::find(&files_path)?;
        let inspection = Inspection::of(&files)?;
        let plan = LoadPlan::new(
            &spec,
            &files,
            &inspection,
            threads(),
            seems_to_have_accelerator(),
        )?;
        Ok(match (spec.memory, &inspection) {
            (Some(memory), _) => memory,
            (None, Inspection::Gguf(headers)) => expected(&plan, headers),
            // The plan has refused other files.
            (None, Inspection::Folder { .. }) => Bytes(0),
        })
    };
    reading.run(&path, estimate).await
}

/// The memory that a model of this plan takes, from the headers of its file.
pub(super) fn expected(plan: &LoadPlan, headers: &[GgufHeader]) -> Bytes {
    let tensors = headers.iter().flat_map(|header| &header.tensors);
    let weights: u64 = tensors.filter_map(GgufTensor::bytes).sum();
    let known = headers
        .first()
        .and_then(|header| Some((header, ModelShape::of_header(header)?)));
    let peak = known.map_or_else(
        || PROCESS + (weights as f64 * (1.0 + UNKNOWN_SHAPE)) as u64,
        |(header, shape)| {
            let has_matrix = has_attention_matrix(header.architecture(), shape, plan);
            peak(shape, weights, plan, has_matrix)
        },
    );
    let context = if plan.is_on_cpu() { 0 } else { GPU_CONTEXT };
    Bytes(context + peak)
}

/// Whether attention may be computed with a whole matrix for each head. Where llama.cpp decides, it uses flash attention
/// if the layer's device can: processors always can, accelerators for some shapes.
fn has_attention_matrix(architecture: Option<&str>, shape: ModelShape, plan: &LoadPlan) -> bool {
    if architecture == Some(WITHOUT_FLASH_ATTENTION) {
        return true;
    }
    let is_cpu = plan.is_on_cpu();
    match (plan.flash_attention, plan.kv_cache_type) {
        (Some(is_flash), _) => !is_flash,
        // Without it these caches are refused.
        (None, KvCacheType::Q8 | KvCacheType::Q4) => false,
        (None, KvCacheType::F16 | KvCacheType::F32) => {
            !is_cpu && !FLASH_HEADS.contains(&shape.head)
        }
    }
}

/// The largest memory that a process is charged, in bytes, with a model of this shape.
fn peak(shape: ModelShape, weights: u64, plan: &LoadPlan, has_attention_matrix: bool) -> u64 {
    let batch = u64::from(plan.batch);
    let context = u64::from(plan.context);
    let cached = match plan.attention {
        Attention::Causal | Attention::Full => u64::from(plan.cached_tokens()),
        Attention::Encoder => 0,
    };
    let numbers = 2 * shape.layers * shape.keys * cached;
    let cache = (numbers as f64 * bits(plan.kv_cache_type) / 8.0) as u64;
    let layer = 2 * shape.hidden + shape.queries + 2 * shape.keys + 2 * shape.feed_forward;
    // Encoders compute no logits.
    let logits = match plan.attention {
        Attention::Causal | Attention::Full => shape.vocabulary,
        Attention::Encoder => 0,
    };
    let activations = batch * (layer + logits) * F32;
    // What a step returns. The buffer has place for logits also where none are computed.
    let outputs = match plan.pipeline {
        Pipeline::Text => {
            (u64::from(plan.sequences) + SCORED_TOKENS as u64) * shape.vocabulary * F32
        }
        Pipeline::Embedding => batch * (shape.vocabulary + shape.hidden) * F32,
    };
    let heads = shape.queries.checked_div(shape.head).unwrap_or(0);
    let (matrix, mask) = match has_attention_matrix {
        true => (heads * F32, F32),
        false => (0, F16),
    };
    // What a token of the step may look at.
    let visible = match plan.has_unified_cache() {
        true => context.max(cached),
        false => context,
    };
    let attention = batch * visible * (matrix + MASKS * mask);
    PROCESS
        + weights
        + cache
        + activations
        + outputs
        + attention
        + VOCABULARY_ENTRY * shape.vocabulary
}

/// The bits of a number in a cache.
fn bits(kind: KvCacheType) -> f64 {
    match kind {
        KvCacheType::F32 => 32.0,
        KvCacheType::F16 => 16.0,
        KvCacheType::Q8 => 8.5,
        KvCacheType::Q4 => 4.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn shape() -> ModelShape {
        ModelShape {
            layers: 10,
            hidden: 1_024,
            queries: 1_024,
            keys: 512,
            head: 64,
            feed_forward: 4_096,
            vocabulary: 128 * 1_024,
            context: 8_192,
            positions: 8_192,
        }
    }

    fn plan(pipeline: Pipeline, attention: Attention, batch: u32) -> LoadPlan {
        LoadPlan {
            path: "model.gguf".into(),
            pipeline,
            attention,
            pooling: None,
            context: 8_192,
            sequences: 1,
            batch,
            kv_cache_type: KvCacheType::F16,
            flash_attention: None,
            gpu_layers: Some(0),
            threads: 2,
        }
    }

    /// The memory that a vocabulary of 128 Ki tokens takes.
    fn of_vocabulary(plan: &LoadPlan) -> u64 {
        let none = ModelShape {
            vocabulary: 0,
            ..shape()
        };
        peak(shape(), 0, plan, false) - peak(none, 0, plan, false)
    }

    #[test]
    fn logits_that_llama_cpp_keeps_are_counted() {
        let tokenizer = 8 * MIB;
        let embedding = |attention, batch| plan(Pipeline::Embedding, attention, batch);
        // Half a MiB for each token of a batch, computed and returned.
        let causal = embedding(Attention::Causal, 128);
        assert_eq!(of_vocabulary(&causal), tokenizer + 128 * MIB);
        let full = embedding(Attention::Full, 8_192);
        assert_eq!(of_vocabulary(&full), tokenizer + 8_192 * MIB);
        let encoder = embedding(Attention::Encoder, 8_192);
        assert_eq!(of_vocabulary(&encoder), tokenizer + 4_096 * MIB);
        // Those of the answers and of scored prompts are returned.
        let text = plan(Pipeline::Text, Attention::Causal, 256);
        assert_eq!(of_vocabulary(&text), tokenizer + 128 * MIB + 33 * MIB / 2);
    }

    #[test]
    fn encoder_keeps_no_keys_and_values() {
        let no_vocabulary = ModelShape {
            vocabulary: 0,
            ..shape()
        };
        let of = |attention| {
            let plan = plan(Pipeline::Embedding, attention, 8_192);
            peak(no_vocabulary, 0, &plan, false)
        };
        let cache = 2 * 10 * 512 * 8_192 * 2;
        assert_eq!(of(Attention::Full) - of(Attention::Encoder), cache);
    }

    #[test]
    fn attention_matrix_is_counted_where_flash_attention_is_not_certain() {
        let mut plan = plan(Pipeline::Text, Attention::Causal, 256);
        let has_matrix = |plan: &LoadPlan, head| {
            let shape = ModelShape { head, ..shape() };
            has_attention_matrix(Some("llama"), shape, plan)
        };
        assert!(!has_matrix(&plan, 48));
        assert!(has_attention_matrix(Some("grok"), shape(), &plan));
        plan.gpu_layers = None;
        assert!(has_matrix(&plan, 48) && !has_matrix(&plan, 64));
        plan.kv_cache_type = KvCacheType::Q8;
        assert!(!has_matrix(&plan, 48));
        plan.flash_attention = Some(false);
        assert!(has_matrix(&plan, 64));
        let with_matrix = peak(shape(), 0, &plan, true);
        // 16 heads, and masks of twice the width.
        let matrix = 256 * 8_192 * (16 * 4 + 2 * 2);
        assert_eq!(with_matrix - peak(shape(), 0, &plan, false), matrix);
    }
}
