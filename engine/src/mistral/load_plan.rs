//! Checks a spec and builds the model that it describes.

use std::sync::Arc;

use flotilla_core::spec::{self, EngineKind, EngineOptions, ModelSpec};
use mistralrs::model_builder_trait::{
    build_embedding_pipeline, build_gguf_pipeline, build_model_from_pipeline, build_text_pipeline,
};
use mistralrs::{
    EmbeddingModelBuilder, GgufModelBuilder, ModelDType, TextModelBuilder, TokenSource,
    parse_isq_value,
};
use mistralrs_core::IsqType;

use super::built_model::BuiltModel;
use super::device::{self, ComputeDevice, PREFIX_CACHE_SIZE, SEQUENCES};
use super::pipeline_text::PipelineText;
use crate::LoadError;
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::files::model_shape::ModelShape;
use crate::text::context_length::context_length;
use crate::text::source_path::source_path;

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
    /// The options of the spec.
    options: EngineOptions,
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
        if let Some(option) = spec.options.not_read_by(EngineKind::Mistral) {
            return Err(LoadError::Spec(format!(
                "spec.options.{option} is not one of the engine mistral, which computes these files: remove it"
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
            sequences: SEQUENCES,
            options: spec.options.clone(),
            template: spec.options.chat_template.clone(),
        })
    }

    /// Checks that the device can compute the model of these files.
    ///
    /// # Errors
    /// [`LoadError::Spec`] if it cannot.
    pub(super) fn check_device(&self, inspection: &Inspection) -> Result<(), LoadError> {
        if device::can_compute(
            self.device,
            ModelShape::of(inspection),
            cfg!(feature = "cuda"),
        ) {
            return Ok(());
        }
        let problem = "mistral.rs, built for CUDA, computes this model on GPUs only: leave spec.accelerator out on a \
                       node with a GPU, have a node without CUDA compute it, or convert it to GGUF, for the engine llama";
        Err(LoadError::Spec(problem.into()))
    }

    /// The context of a request, in tokens, where the model's files state `stated`.
    ///
    /// # Errors
    /// As [`context_length`].
    pub(super) fn context(&self, stated: u64) -> Result<u64, LoadError> {
        context_length(&self.options, stated)
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
                    .with_prefix_cache_n(PREFIX_CACHE_SIZE);
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.device.is_cpu() {
                    builder = builder.with_force_cpu();
                }
                #[cfg(any(feature = "cuda", feature = "metal"))]
                if self.device.has_paged_attention(ModelShape::of(inspection)) {
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
                    .with_prefix_cache_n(PREFIX_CACHE_SIZE);
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

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::ModelSource;

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
}
