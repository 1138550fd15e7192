//! Checks a spec and builds the model that it describes.

use std::path::Path;
use std::sync::Arc;

use flotilla_core::spec::{self, DEFAULT_CONTEXT_LENGTH, ModelSource, ModelSpec};
use mistralrs::model_builder_trait::{
    build_embedding_pipeline, build_gguf_pipeline, build_model_from_pipeline, build_text_pipeline,
};
use mistralrs::{
    EmbeddingModelBuilder, GgufModelBuilder, ModelDType, TextModelBuilder, TokenSource,
    parse_isq_value,
};
use mistralrs_core::IsqType;

use super::built_model::BuiltModel;
use super::device::ComputeDevice;
use super::pipeline_text::PipelineText;
use crate::LoadError;
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
#[cfg(any(feature = "cuda", feature = "metal"))]
use crate::files::model_shape::ModelShape;

/// A spec whose options and files were checked.
#[derive(Clone)]
pub(super) struct LoadPlan {
    pub(super) files: ModelFiles,
    pub(super) pipeline: spec::Pipeline,
    pub(super) dtype: ModelDType,
    /// The format to quantise the weights to. `None` leaves them as they are.
    pub(super) isq: Option<IsqType>,
    pub(super) device: ComputeDevice,
    /// The number of sequences that are computed at once.
    pub(super) sequences: usize,
    /// The longest context that the spec allows, in tokens. `None`: as the spec does not say.
    context_limit: Option<u32>,
    /// The chat template that replaces the model's own.
    template: Option<String>,
}

impl LoadPlan {
    /// Checks a spec and the files that it names, which blocks. `has_accelerator` says whether the node has one
    /// that mistral.rs can use.
    pub(super) fn new(spec: &ModelSpec, has_accelerator: bool) -> Result<Self, LoadError> {
        let path = source_path(spec)?;
        let files = ModelFiles::find(path)?;
        let format = files.format();
        if let Some(expected) = spec.format.filter(|expected| *expected != format) {
            return Err(LoadError::Spec(format!(
                "spec.format is {expected:?}, but {} is {format:?}",
                path.display()
            )));
        }
        let device = ComputeDevice::choose(spec.accelerator, has_accelerator);
        let pipeline = spec.options.pipeline.unwrap_or_else(|| files.pipeline());
        let dtype = device.dtype(spec.options.dtype);
        let isq = spec
            .options
            .quantization
            .as_deref()
            .map(|name| parse_isq_value(name, None))
            .transpose()
            .map_err(|e| LoadError::Spec(format!("spec.options.quantization: {e}")))?;
        if isq.is_some() && matches!(files, ModelFiles::Gguf { .. }) {
            let problem = "spec.options.quantization: a GGUF file is already quantised";
            return Err(LoadError::Spec(problem.into()));
        }
        Ok(Self {
            files,
            pipeline,
            dtype,
            isq,
            device,
            sequences: device.sequences(spec.concurrency),
            context_limit: spec.options.context_length,
            template: spec.options.chat_template.clone(),
        })
    }

    /// The context of a request, in tokens, where the model's files state `stated`: as the spec says, else at most
    /// [`DEFAULT_CONTEXT_LENGTH`].
    ///
    /// # Errors
    /// [`LoadError::Spec`] if the spec asks for more than the files state.
    pub(super) fn context(&self, stated: u64) -> Result<u64, LoadError> {
        match self.context_limit.map(u64::from) {
            None => Ok(stated.min(u64::from(DEFAULT_CONTEXT_LENGTH))),
            Some(limit) if limit <= stated => Ok(limit),
            Some(limit) => Err(LoadError::Spec(format!(
                "spec.options.contextLength is {limit}, but the model has a context of {stated} tokens"
            ))),
        }
    }

    /// The tokens of all sequences that are computed at once, for which an accelerator's memory is reserved.
    #[cfg(any(feature = "cuda", feature = "metal"))]
    fn cached_tokens(&self, inspection: &Inspection) -> usize {
        let stated = ModelShape::of(inspection).map_or(u64::MAX, |shape| shape.context);
        // A context that the files cannot have was refused before.
        let context = self.context(stated).unwrap_or(stated);
        usize::try_from(context)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.sequences)
    }

    /// Loads the model, whose files have been inspected, and starts its engine thread.
    pub(super) async fn build(self, inspection: &Inspection) -> anyhow::Result<BuiltModel> {
        let header = match inspection {
            Inspection::Folder { .. } => None,
            Inspection::Gguf(headers) => headers.first(),
        };
        #[cfg(any(feature = "cuda", feature = "metal"))]
        let cached_tokens = self.cached_tokens(inspection);
        let (pipeline, scheduler, engine) = match self.files {
            ModelFiles::Folder(dir) if self.pipeline == spec::Pipeline::Embedding => {
                let mut builder = EmbeddingModelBuilder::new(dir.display())
                    .with_dtype(self.dtype)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.sequences);
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.device.is_cpu() {
                    builder = builder.with_force_cpu();
                }
                build_embedding_pipeline(builder).await
            }
            ModelFiles::Folder(dir) => {
                let mut builder = TextModelBuilder::new(dir.display())
                    .with_dtype(self.dtype)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.sequences)
                    .with_prefix_cache_n(self.device.prefix_cache_size());
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.device.is_cpu() {
                    builder = builder.with_force_cpu();
                }
                #[cfg(any(feature = "cuda", feature = "metal"))]
                if self.device.has_paged_attention() {
                    let pages = mistralrs::PagedAttentionMetaBuilder::default()
                        .with_gpu_memory(mistralrs::MemoryGpuConfig::ContextSize(cached_tokens))
                        .build()?;
                    builder = builder.with_paged_attn(pages);
                }
                build_text_pipeline(builder).await
            }
            ModelFiles::Gguf { dir, files } => {
                let mut builder = GgufModelBuilder::new(dir.display(), files)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.sequences)
                    .with_prefix_cache_n(self.device.prefix_cache_size());
                if self.device.is_cpu() {
                    builder = builder.with_force_cpu();
                }
                build_gguf_pipeline(builder).await
            }
        }?;
        let weights = Arc::downgrade(&pipeline);
        let text = {
            let pipeline = pipeline.lock().await;
            PipelineText::read(&*pipeline, header, self.template)
        };
        let model = build_model_from_pipeline(pipeline, scheduler, engine).await;
        Ok(BuiltModel {
            model,
            weights,
            text,
        })
    }
}

/// The path of a model's files.
///
/// # Errors
/// [`LoadError::Spec`] if the spec names none.
pub(super) fn source_path(spec: &ModelSpec) -> Result<&Path, LoadError> {
    match &spec.source {
        Some(ModelSource::Path(path)) => Ok(path),
        _ => Err(LoadError::Spec(
            "spec.source must be a path on this node".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_quantization_is_an_error_of_the_spec() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::write(dir.path().join(file), "{}").unwrap();
        }
        let mut spec = ModelSpec {
            source: Some(ModelSource::Path(dir.path().to_owned())),
            ..ModelSpec::default()
        };
        assert!(LoadPlan::new(&spec, false).is_ok());
        spec.options.quantization = Some("q99".into());
        assert!(matches!(
            LoadPlan::new(&spec, false),
            Err(LoadError::Spec(_))
        ));
    }

    #[test]
    fn context_is_what_the_spec_says_and_the_files_have() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::write(dir.path().join(file), "{}").unwrap();
        }
        let plan = |length| {
            let mut spec = ModelSpec {
                source: Some(ModelSource::Path(dir.path().to_owned())),
                ..ModelSpec::default()
            };
            spec.options.context_length = length;
            LoadPlan::new(&spec, false).unwrap()
        };
        assert_eq!(plan(None).context(2_048), Ok(2_048));
        assert_eq!(plan(None).context(131_072), Ok(8_192));
        assert_eq!(plan(Some(32_768)).context(131_072), Ok(32_768));
        assert_eq!(plan(Some(100)).context(131_072), Ok(100));
        let refused = plan(Some(4_096)).context(2_048).unwrap_err();
        assert!(refused.to_string().contains("a context of 2048 tokens"));
    }
}
