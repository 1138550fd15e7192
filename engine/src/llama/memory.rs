//! Estimates the memory of a model from its file.
//!
//! A model has a process of its own: the estimate is the largest memory that the process is charged, with the
//! contexts of all requests that are computed at once full.

use flotilla_core::Bytes;
use flotilla_core::spec::{KvCacheType, ModelSpec};

use super::load::threads;
use super::load_plan::LoadPlan;
use crate::LoadError;
use crate::file_reading::FileReading;
use crate::files::gguf_header::{GgufHeader, GgufTensor};
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::files::model_shape::ModelShape;
use crate::text::source_path::source_path;

/// Memory of a process without a model, as it is charged: threads, what their first answer takes, and a part of
/// the program's code, which the agent and all runners share.
const PROCESS: u64 = 40 << 20;
/// Memory of a token of the vocabulary in llama.cpp's tokenizer and in the tree that grammars search.
const VOCABULARY_ENTRY: u64 = 64;
/// The width of activations and logits.
const F32: u64 = 4;
/// The width of the mask of attention, of which llama.cpp has one of 32 bits and one of 16.
const MASK: u64 = 6;
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
        let plan = LoadPlan::new(&spec, &files, &inspection, threads())?;
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
    let shape = headers.first().and_then(ModelShape::of_header);
    Bytes(shape.map_or_else(
        || PROCESS + (weights as f64 * (1.0 + UNKNOWN_SHAPE)) as u64,
        |shape| peak(shape, weights, plan),
    ))
}

/// The largest memory that a process is charged, in bytes, with a model of this shape.
fn peak(shape: ModelShape, weights: u64, plan: &LoadPlan) -> u64 {
    let cached = u64::from(plan.cached_tokens());
    let batch = u64::from(plan.batch);
    let numbers = 2 * shape.layers * shape.keys * cached;
    let cache = (numbers as f64 * bits(plan.kv_cache_type) / 8.0) as u64;
    let layer = 2 * shape.hidden + shape.queries + 2 * shape.keys + 2 * shape.feed_forward;
    let activations = batch * (layer + shape.vocabulary) * F32;
    // Without flash attention there is a matrix of each head, too.
    let heads = match plan.flash_attention {
        Some(false) => shape.queries.checked_div(shape.head).unwrap_or(0),
        Some(true) | None => 0,
    };
    let attention = heads * batch * u64::from(plan.context) * F32;
    let masks = batch * u64::from(plan.context) * MASK;
    PROCESS
        + weights
        + cache
        + activations
        + attention
        + masks
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
