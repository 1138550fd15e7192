//! Checks a spec and says how its model is loaded.

use std::path::PathBuf;

use flotilla_core::spec::{self, Accelerator, EngineKind, KvCacheType, ModelSpec};

use crate::LoadError;
use crate::files::gguf_header::GgufHeader;
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::text::context_length::context_length;

/// The context length that is assumed when the file does not state its own, in tokens.
const DEFAULT_CONTEXT: u64 = 4_096;
/// The architectures that do not write one token after the other: with an encoder for the prompt, or by diffusion.
const NO_WRITERS: [&str; 5] = ["t5", "dream", "llada", "llada-moe", "rnd1"];
/// GGUF's number for a model that does not make embeddings but ranks documents.
const RANKS: u64 = 4;
/// llama.cpp's limit of sequences in a context.
const MAX_SEQUENCES: u32 = 256;
/// The most tokens that a step computes on a processor. More are read no faster there, and take more memory.
const CPU_BATCH: u32 = 256;
/// The most tokens that a step computes on an accelerator.
const ACCELERATOR_BATCH: u32 = 512;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub(super) struct LoadPlan {
    /// The file, or the first part of one that was split.
    pub(super) path: PathBuf,
    pub(super) pipeline: spec::Pipeline,
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
    /// this process may compute with.
    ///
    /// # Errors
    /// [`LoadError::Spec`] when the spec asks for what the engine or the model does not have.
    pub(super) fn new(
        spec: &ModelSpec,
        files: &ModelFiles,
        inspection: &Inspection,
        threads: u32,
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
        let is_cpu = spec.accelerator == Some(Accelerator::Cpu) || !has_accelerator();
        let pipeline = options.pipeline.unwrap_or_else(|| pipeline(header));
        check_use(header, pipeline)?;
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let batch = match is_cpu {
            true => CPU_BATCH,
            false => ACCELERATOR_BATCH,
        };
        Ok(Self {
            path: dir.join(file),
            pipeline,
            context,
            sequences: match pipeline {
                spec::Pipeline::Text => spec.concurrency.min(MAX_SEQUENCES),
                spec::Pipeline::Embedding => 1,
            },
            batch: match pipeline {
                // Every answer needs a token in each step.
                spec::Pipeline::Text => batch.min(context).max(spec.concurrency.min(MAX_SEQUENCES)),
                // An encoder sees an input as a whole.
                spec::Pipeline::Embedding => context,
            },
            kv_cache_type: options.kv_cache_type.unwrap_or(KvCacheType::F16),
            flash_attention: options.flash_attention,
            gpu_layers: if is_cpu { Some(0) } else { options.gpu_layers },
            threads: options.threads.unwrap_or(threads).max(1),
        })
    }

    /// The tokens of all requests that are computed at once, for which memory is reserved.
    pub(super) fn cached_tokens(&self) -> u32 {
        self.context.saturating_mul(self.sequences)
    }
}

/// Refuses what llama.cpp would load, but compute something else than is asked for.
fn check_use(header: &GgufHeader, pipeline: spec::Pipeline) -> Result<(), LoadError> {
    let architecture = header.architecture().unwrap_or_default();
    let causal = format!("{architecture}.attention.causal");
    let pooling = header.architecture_number("pooling_type");
    let is_unknown = NO_WRITERS.contains(&architecture);
    match pipeline {
        spec::Pipeline::Text if is_unknown || header.flag(&causal) == Some(false) => {
            Err(LoadError::Architecture {
                engine: EngineKind::Llama,
                name: architecture.to_owned(),
            })
        }
        spec::Pipeline::Embedding if pooling == Some(RANKS) => Err(LoadError::Spec(
            "the model ranks documents and makes no embeddings".into(),
        )),
        spec::Pipeline::Embedding if pooling.is_none_or(|pooling| pooling == 0) => {
            Err(LoadError::Spec(
                "spec.options.pipeline is embedding, but the file does not state how the embeddings of tokens \
                 become one"
                    .into(),
            ))
        }
        spec::Pipeline::Text | spec::Pipeline::Embedding => Ok(()),
    }
}

/// What a model computes: embeddings if its file states how those of the tokens become one, else text.
fn pipeline(header: &GgufHeader) -> spec::Pipeline {
    match header.architecture_number("pooling_type") {
        Some(1..) => spec::Pipeline::Embedding,
        Some(0) | None => spec::Pipeline::Text,
    }
}

/// Whether this build of llama.cpp can compute on an accelerator of this machine.
pub(super) fn has_accelerator() -> bool {
    use llama_cpp_2::LlamaBackendDeviceType::{Gpu, IntegratedGpu};
    llama_cpp_2::list_llama_ggml_backend_devices()
        .iter()
        .any(|device| matches!(device.device_type, Gpu | IntegratedGpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::Dtype;

    fn plan(spec: &ModelSpec, pooling: Option<u64>) -> Result<LoadPlan, LoadError> {
        let files = ModelFiles::Gguf {
            dir: "/models".into(),
            files: vec![
                "a-00001-of-00002.gguf".into(),
                "a-00002-of-00002.gguf".into(),
            ],
        };
        let mut header = GgufHeader::default();
        let values = &mut header.values;
        values.insert("general.architecture".into(), "llama".into());
        values.insert("llama.context_length".into(), 16_384.into());
        if let Some(pooling) = pooling {
            values.insert("llama.pooling_type".into(), pooling.into());
        }
        LoadPlan::new(spec, &files, &Inspection::Gguf(vec![header]), 2)
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
    fn option_of_the_other_engine_is_refused_by_name() {
        let mut spec = ModelSpec::default();
        spec.options.dtype = Some(Dtype::F32);
        let refused = plan(&spec, None).unwrap_err().to_string();
        assert!(refused.contains("spec.options.dtype"), "{refused}");
    }
}
