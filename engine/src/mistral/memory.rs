//! Estimates the memory of a model from its files.
//!
//! A model has a process of its own: the estimate is the largest memory that the process is charged, with the
//! contexts of all sequences that are computed at once full.

use flotilla_core::Bytes;
use flotilla_core::spec::ModelSpec;
use mistralrs::ModelDType;
use mistralrs_core::IsqType;

use super::device;
use super::load_plan::LoadPlan;
use crate::LoadError;
use crate::file_reading::FileReading;
use crate::files::gguf_header::GgufTensor;
use crate::files::inspection::Inspection;
use crate::files::model_shape::ModelShape;
use crate::files::safetensors_header::Tensor;
use crate::gpu_context::GPU_CONTEXT;
use crate::text::source_path::source_path;

/// Memory of a process without a model, as it is charged: threads, what their first answer takes, and a part of
/// the program's code, which the agent and all runners share.
const PROCESS: u64 = 40 << 20;
/// Memory of a token of the vocabulary in the tokenizer and in the tree that grammars search.
const VOCABULARY_ENTRY: u64 = 1_170;
/// The width of activations and masks, and of the embeddings of a GGUF file, which are not quantised in memory.
const F32: u64 = 4;
/// The width of numbers in the caches of a GGUF model.
const GGUF_WIDTH: u64 = 2;
/// How many masks of a prompt there are at once, each with a number for every two of its tokens.
const MASKS: u64 = 2;
/// Memory of a model whose dimensions are not known, as a fraction of its weights: caches and activations.
const UNKNOWN_SHAPE: f64 = 0.2;

/// Estimates the memory of a model: what the spec says, or else what follows from its files.
/// See [`Engine::estimate`](crate::Engine::estimate).
pub(super) async fn estimate(reading: &FileReading, spec: &ModelSpec) -> Result<Bytes, LoadError> {
    let (path, spec) = (source_path(spec)?, spec.clone());
    let path = path.to_owned();
    let estimate = move || {
        let plan = LoadPlan::new(&spec, device::seems_to_have_accelerator())?;
        let inspection = Inspection::of(&plan.files)?;
        plan.check_device(&inspection)?;
        match spec.memory {
            Some(memory) => Ok(memory),
            None => expected(&plan, &inspection),
        }
    };
    reading.run(&path, estimate).await
}

/// The memory that a model of this plan takes, from what its files say.
///
/// # Errors
/// [`LoadError::Spec`] if the plan's context is longer than the model's.
pub(super) fn expected(plan: &LoadPlan, inspection: &Inspection) -> Result<Bytes, LoadError> {
    let mut shape = ModelShape::of(inspection);
    if let Some(shape) = &mut shape {
        shape.context = plan.context(shape.context)?;
    }
    let weights = weights(inspection, plan.dtype, plan.isq);
    let caches = match inspection {
        Inspection::Gguf(_) => GGUF_WIDTH,
        Inspection::Folder { .. } => width(plan.dtype),
    };
    let context = if plan.device.is_cpu() { 0 } else { GPU_CONTEXT };
    let peak = peak(shape, weights, caches, plan.sequences as u64);
    Ok(Bytes(context + peak))
}

/// The largest memory that a process is charged, in bytes, with a model of this shape and `sequences` full contexts,
/// whose `weights` are in bytes, and the numbers of its caches `cache_width` bytes wide.
fn peak(shape: Option<ModelShape>, weights: u64, cache_width: u64, sequences: u64) -> u64 {
    let Some(shape) = shape else {
        return PROCESS + (weights as f64 * (1.0 + UNKNOWN_SHAPE)) as u64;
    };
    let context = shape.context;
    let caches = 2 * shape.layers * shape.keys * context * cache_width * sequences;
    // Prompts are read one after another, each in one go: mistral.rs 0.8.1 makes its mask as a whole, from a second
    // one of the same size, and does not divide a prompt.
    let masks = MASKS * context * context * F32;
    let layer = shape.hidden + shape.queries + 2 * shape.keys + 2 * shape.feed_forward;
    let activations = layer * context * F32;
    let vocabulary = VOCABULARY_ENTRY * shape.vocabulary;
    // A sine and a cosine for every two numbers of a head, at all positions that the model has.
    let rotations = shape.positions * shape.head * F32;
    PROCESS + weights + caches + masks + activations + vocabulary + rotations
}

/// The size of the weights once they are loaded, in bytes, with what their conversion leaves behind.
fn weights(inspection: &Inspection, dtype: ModelDType, isq: Option<IsqType>) -> u64 {
    match inspection {
        Inspection::Gguf(headers) => {
            let tensors = || headers.iter().flat_map(|header| &header.tensors);
            let named = |name: &str| tensors().find(|tensor| tensor.name == name);
            let files: u64 = tensors().filter_map(GgufTensor::bytes).sum();
            let embeddings = named("token_embd.weight");
            let whole = embeddings.map_or(0, |tensor| F32 * tensor.elements);
            // Without an output layer the embeddings are loaded again in its place.
            let output = match named("output.weight") {
                Some(_) => 0,
                None => embeddings.and_then(GgufTensor::bytes).unwrap_or(0),
            };
            files + whole + output
        }
        Inspection::Folder { tensors, .. } => {
            let bytes = tensors.iter().map(|tensor| {
                // On-the-fly quantisation takes the matrices of layers and of the output.
                let is_of_layer = ["layers.", "lm_head."]
                    .iter()
                    .any(|part| tensor.name.contains(part));
                let bits = match isq.filter(|_| tensor.dimensions == 2 && is_of_layer) {
                    Some(isq) => quantised_bits(isq),
                    None => 8.0 * width(dtype) as f64,
                };
                tensor.elements as f64 * bits / 8.0
            });
            // The allocator keeps about as much as the largest tensor has in its file.
            let is_converted = |tensor: &&Tensor| {
                isq.is_some() || tensor.dtype.bitsize() as u64 != 8 * width(dtype)
            };
            let converted = tensors.iter().filter(is_converted);
            let left = converted.map(|tensor| tensor.elements * tensor.dtype.bitsize() as u64 / 8);
            bytes.sum::<f64>() as u64 + left.max().unwrap_or(0)
        }
    }
}

/// The width of a number, in bytes.
fn width(dtype: ModelDType) -> u64 {
    match dtype {
        ModelDType::F32 => 4,
        ModelDType::F16 | ModelDType::BF16 | ModelDType::Auto => 2,
    }
}

/// The bits of a weight in a format, with the scales of its blocks.
fn quantised_bits(format: IsqType) -> f64 {
    match format {
        IsqType::Q4_0 | IsqType::Q4K | IsqType::HQQ4 | IsqType::AFQ4 => 4.5,
        IsqType::Q4_1 => 5.0,
        IsqType::Q5_0 | IsqType::Q5K => 5.5,
        IsqType::Q5_1 => 6.0,
        IsqType::Q6K | IsqType::AFQ6 => 6.5625,
        IsqType::Q8_0 | IsqType::HQQ8 | IsqType::AFQ8 => 8.5,
        IsqType::Q8_1 | IsqType::Q8K => 9.125,
        IsqType::Q2K | IsqType::AFQ2 => 2.625,
        IsqType::Q3K | IsqType::AFQ3 => 3.4375,
        IsqType::F8E4M3 => 8.0,
        IsqType::F8Q8 => 8.5,
        IsqType::MXFP4 => 4.25,
    }
}

#[cfg(test)]
mod tests;
