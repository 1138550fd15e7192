//! Checks a spec and says how its model is loaded.

use std::path::PathBuf;

use flotilla_core::spec::{self, Accelerator, EngineKind, KvCacheType, ModelSpec};

use super::attention::Attention;
use super::backend::backend;
use super::embedder::MAX_INPUTS;
use super::pooling::Pooling;
use crate::LoadError;
use crate::files::gguf_header::GgufHeader;
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::gpu_context::has_cuda_gpu;
use crate::text::context_length::context_length;

/// The context length that is assumed when the file does not state its own, in tokens.
const DEFAULT_CONTEXT: u64 = 4_096;
/// The architectures that do not write one token after the other: with an encoder for the prompt, or by diffusion.
const NO_WRITERS: [&str; 5] = ["t5", "dream", "llada", "llada-moe", "rnd1"];
/// The key of how the embeddings of tokens become one.
const POOLING: &str = "pooling_type";
/// GGUF's number for a model that does not make embeddings but ranks documents.
const RANKS: u64 = 4;
/// llama.cpp's limit of sequences in a context.
const MAX_SEQUENCES: u32 = 256;
/// The most tokens that a step computes on a processor. More are read no faster there, and take more memory.
const CPU_BATCH: u32 = 256;
/// The most tokens that a step computes on an accelerator.
const ACCELERATOR_BATCH: u32 = 512;
/// The most tokens of an input to embed that a causal model computes at once on a processor: llama.cpp computes and keeps
/// the logits of each.
const CPU_EMBEDDING_BATCH: u32 = 128;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub(super) struct LoadPlan {
    /// The file, or the first part of one that was split.
    pub(super) path: PathBuf,
    pub(super) pipeline: spec::Pipeline,
    pub(super) attention: Attention,
    /// How the embeddings of tokens become one. `None` if the file does not say so, which only text may.
    pub(super) pooling: Option<Pooling>,
    /// The context of one request, in tokens.
    pub(super) context: u32,
    /// The number of requests that are computed at once.
    pub(super) sequences: u32,
    /// The most tokens that a step computes.
    pub(super) batch: u32,
    pub(super) kv_cache_type: KvCacheType,
    /// `None` leaves it to llama.cpp.
    pub(super) flash_attention: Option<bool>,
    /// The layers that the accelerator computes. `None`: all.
    pub(super) gpu_layers: Option<u32>,
    pub(super) threads: u32,
}

impl LoadPlan {
    /// Makes a plan from a spec and the headers of the file that it names. `threads` is the number of threads that
    /// this process may compute with, and `has_accelerator` says whether llama.cpp can use one.
    ///
    /// # Errors
    /// [`LoadError::Spec`] when the spec asks for what the engine or the model does not have.
    pub(super) fn new(
        spec: &ModelSpec,
        files: &ModelFiles,
        inspection: &Inspection,
        threads: u32,
        has_accelerator: bool,
    ) -> Result<Self, LoadError> {
        let (ModelFiles::Gguf { dir, files }, Inspection::Gguf(headers)) = (files, inspection)
        else {
            let problem =
                "the engine llama computes GGUF files: leave spec.engine out, or set it to mistral";
            return Err(LoadError::Spec(problem.into()));
        };
        let (Some(file), Some(header)) = (files.first(), headers.first()) else {
            return Err(LoadError::Spec("the file has no parts".into()));
        };
        let options = &spec.options;
        if let Some(option) = options.not_read_by(EngineKind::Llama) {
            return Err(LoadError::Spec(format!(
                "spec.options.{option} is not one of the engine llama, which computes this GGUF file: remove it, or \
                 set spec.engine to mistral"
            )));
        }
        let stated = header.architecture_number("context_length");
        let context = context_length(options, stated.unwrap_or(DEFAULT_CONTEXT))?;
        let is_cpu = spec.accelerator == Some(Accelerator::Cpu) || !has_accelerator;
        let pipeline = options.pipeline.unwrap_or_else(|| pipeline(header));
        let attention = Attention::of(header);
        check_use(header, attention, pipeline)?;
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let batch = match is_cpu {
            true => CPU_BATCH,
            false => ACCELERATOR_BATCH,
        };
        Ok(Self {
            path: dir.join(file),
            pipeline,
            attention,
            pooling: pooling(header),
            context,
            sequences: match pipeline {
                spec::Pipeline::Text => spec.concurrency.min(MAX_SEQUENCES),
                spec::Pipeline::Embedding => 1,
            },
            batch: match (pipeline, attention) {
                // Every answer needs a token in each step.
                (spec::Pipeline::Text, _) => {
                    batch.min(context).max(spec.concurrency.min(MAX_SEQUENCES))
                }
                (spec::Pipeline::Embedding, Attention::Causal) => {
                    let batch = if is_cpu { CPU_EMBEDDING_BATCH } else { batch };
                    embedding_batch(batch.min(context))
                }
                // The first token looks at the last one.
                (spec::Pipeline::Embedding, Attention::Full | Attention::Encoder) => {
                    embedding_batch(context)
                }
            },
            kv_cache_type: options.kv_cache_type.unwrap_or(KvCacheType::F16),
            flash_attention: options.flash_attention,
            gpu_layers: if is_cpu { Some(0) } else { options.gpu_layers },
            threads: options.threads.unwrap_or(threads).max(1),
        })
    }

    /// Whether processors compute all of it.
    pub(super) fn is_on_cpu(&self) -> bool {
        self.gpu_layers == Some(0)
    }

    /// Whether all sequences have one buffer for their keys and values.
    ///
    /// In one buffer each sequence looks at the tokens of all others, to ignore them, which takes a processor long. An
    /// accelerator does that beside other work, and computes in one go whatever is in a step; with a buffer for each it
    /// computes together only sequences whose numbers follow each other and that have the same number of tokens.
    pub(super) fn has_unified_cache(&self) -> bool {
        self.pipeline == spec::Pipeline::Embedding || !self.is_on_cpu()
    }

    /// The tokens of all requests that are computed at once, for which memory is reserved.
    pub(super) fn cached_tokens(&self) -> u32 {
        let tokens = self.context.saturating_mul(self.sequences);
        tokens.max(self.batch)
    }
}

/// The size of a batch for embeddings with place for `tokens`: llama.cpp aborts the process where it is no multiple of the
/// number of sequences.
fn embedding_batch(tokens: u32) -> u32 {
    let inputs = MAX_INPUTS as u32;
    tokens.checked_next_multiple_of(inputs).unwrap_or(tokens)
}

/// Refuses what llama.cpp would load, but compute something else than is asked for.
fn check_use(
    header: &GgufHeader,
    attention: Attention,
    pipeline: spec::Pipeline,
) -> Result<(), LoadError> {
    let architecture = header.architecture().unwrap_or_default();
    let is_unknown = NO_WRITERS.contains(&architecture);
    match pipeline {
        spec::Pipeline::Text if is_unknown || attention != Attention::Causal => {
            Err(LoadError::Architecture {
                engine: EngineKind::Llama,
                name: architecture.to_owned(),
            })
        }
        spec::Pipeline::Embedding if header.architecture_number(POOLING) == Some(RANKS) => Err(LoadError::Spec(
            "the model ranks documents and makes no embeddings".into(),
        )),
        spec::Pipeline::Embedding if pooling(header).is_none() => {
            Err(LoadError::Spec(
                "spec.options.pipeline is embedding, but the file does not state how the embeddings of tokens \
                 become one"
                    .into(),
            ))
        }
        spec::Pipeline::Text | spec::Pipeline::Embedding => Ok(()),
    }
}

/// How the embeddings of tokens become one, as a file states it.
fn pooling(header: &GgufHeader) -> Option<Pooling> {
    match header.architecture_number(POOLING)? {
        1 => Some(Pooling::Mean),
        2 => Some(Pooling::First),
        3 => Some(Pooling::Last),
        _ => None,
    }
}

/// What a model computes: embeddings if its file states how those of the tokens become one, else text.
fn pipeline(header: &GgufHeader) -> spec::Pipeline {
    match header.architecture_number(POOLING) {
        Some(1..) => spec::Pipeline::Embedding,
        Some(0) | None => spec::Pipeline::Text,
    }
}

/// Whether this build of llama.cpp seems to have an accelerator. Unlike [`has_accelerator`] this does not open one that
/// would keep memory for this process, and draw power for it, from then on.
pub(super) fn seems_to_have_accelerator() -> bool {
    match cfg!(feature = "cuda") {
        true => has_cuda_gpu(),
        false => has_accelerator(),
    }
}

/// Whether this build of llama.cpp can compute on an accelerator of this machine.
pub(super) fn has_accelerator() -> bool {
    use llama_cpp_2::LlamaBackendDeviceType::{Gpu, IntegratedGpu};
    // Devices may be in libraries that it loads.
    backend().is_ok()
        && llama_cpp_2::list_llama_ggml_backend_devices()
            .iter()
            .any(|device| matches!(device.device_type, Gpu | IntegratedGpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::Dtype;

    fn plan(spec: &ModelSpec, pooling: Option<u64>) -> Result<LoadPlan, LoadError> {
        plan_of("llama", spec, pooling)
    }

    fn plan_of(
        architecture: &str,
        spec: &ModelSpec,
        pooling: Option<u64>,
    ) -> Result<LoadPlan, LoadError> {
        plan_on(architecture, spec, pooling, false)
    }

    fn plan_on(
        architecture: &str,
        spec: &ModelSpec,
        pooling: Option<u64>,
        has_accelerator: bool,
    ) -> Result<LoadPlan, LoadError> {
        let files = ModelFiles::Gguf {
            dir: "/models".into(),
            files: vec![
                "a-00001-of-00002.gguf".into(),
                "a-00002-of-00002.gguf".into(),
            ],
        };
        let mut header = GgufHeader::default();
        let values = &mut header.values;
        values.insert("general.architecture".into(), architecture.into());
        values.insert(format!("{architecture}.context_length"), 16_384.into());
        if let Some(pooling) = pooling {
            values.insert(format!("{architecture}.pooling_type"), pooling.into());
        }
        LoadPlan::new(
            spec,
            &files,
            &Inspection::Gguf(vec![header]),
            2,
            has_accelerator,
        )
    }

    #[test]
    fn context_is_that_of_each_request() {
        let mut spec = ModelSpec {
            concurrency: 8,
            ..ModelSpec::default()
        };
        let planned = plan(&spec, None).unwrap();
        assert_eq!(planned.path, PathBuf::from("/models/a-00001-of-00002.gguf"));
        assert_eq!((planned.context, planned.cached_tokens()), (8_192, 65_536));
        assert_eq!((planned.threads, planned.batch), (2, 256));
        spec.options.context_length = Some(100);
        spec.options.threads = Some(1);
        let planned = plan(&spec, None).unwrap();
        assert_eq!((planned.cached_tokens(), planned.batch), (800, 100));
        assert_eq!(planned.threads, 1);
        spec.options.context_length = Some(20_000);
        assert!(plan(&spec, None).is_err());
    }

    #[test]
    fn file_that_pools_makes_embeddings() {
        let spec = ModelSpec::default();
        let pipeline = |pooling| plan(&spec, pooling).unwrap().pipeline;
        assert_eq!(pipeline(None), spec::Pipeline::Text);
        assert_eq!(pipeline(Some(0)), spec::Pipeline::Text);
        assert_eq!(pipeline(Some(1)), spec::Pipeline::Embedding);
        assert!(plan(&spec, Some(RANKS)).is_err());
        let mut forced = ModelSpec::default();
        forced.options.pipeline = Some(spec::Pipeline::Embedding);
        assert!(plan(&forced, None).is_err());
    }

    #[test]
    fn encoder_computes_a_whole_input_at_once_and_a_causal_model_pieces() {
        let spec = ModelSpec::default();
        let planned = plan_of("bert", &spec, Some(1)).unwrap();
        assert_eq!((planned.context, planned.batch), (8_192, 8_192));
        assert_eq!(planned.pooling, Some(Pooling::Mean));
        let planned = plan_of("qwen3", &spec, Some(3)).unwrap();
        assert_eq!((planned.context, planned.batch), (8_192, 128));
        assert_eq!(planned.pooling, Some(Pooling::Last));
        let mut short = ModelSpec::default();
        short.options.context_length = Some(100);
        for (architecture, pooling) in [("bert", 1), ("qwen3", 3)] {
            let planned = plan_of(architecture, &short, Some(pooling)).unwrap();
            assert_eq!((planned.context, planned.batch), (100, 128));
            assert_eq!(planned.cached_tokens(), 128);
        }
        let refused = plan_of("bert", &spec, None).unwrap_err();
        assert!(matches!(refused, LoadError::Architecture { .. }));
    }

    #[test]
    fn option_of_the_other_engine_is_refused_by_name() {
        let mut spec = ModelSpec::default();
        spec.options.dtype = Some(Dtype::F32);
        let refused = plan(&spec, None).unwrap_err().to_string();
        assert!(refused.contains("spec.options.dtype"), "{refused}");
    }

    #[test]
    fn accelerator_computes_whatever_is_in_a_step_at_once() {
        for (accelerator, has_accelerator, on_cpu) in [
            (None, false, true),
            (None, true, false),
            (Some(Accelerator::Cpu), true, true),
            (Some(Accelerator::Cuda), true, false),
        ] {
            let spec = ModelSpec {
                accelerator,
                ..ModelSpec::default()
            };
            let plan = plan_on("llama", &spec, None, has_accelerator).unwrap();
            assert_eq!(
                (plan.is_on_cpu(), plan.has_unified_cache()),
                (on_cpu, !on_cpu)
            );
            let batch = if on_cpu { CPU_BATCH } else { ACCELERATOR_BATCH };
            assert_eq!(plan.batch, batch);
        }
    }
}
