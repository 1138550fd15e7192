//! Checks a spec and builds the model that it describes.

use std::sync::Arc;

use flotilla_core::spec::{self, ModelSource, ModelSpec};
use mistralrs::model_builder_trait::{
    build_embedding_pipeline, build_gguf_pipeline, build_model_from_pipeline, build_text_pipeline,
};
use mistralrs::{
    EmbeddingModelBuilder, GgufModelBuilder, ModelDType, TextModelBuilder, TokenSource,
    parse_isq_value,
};
use mistralrs_core::IsqType;

use super::built_model::BuiltModel;
use super::device::{self, ComputeDevice};
use super::gguf_header::GgufHeader;
use super::model_files::ModelFiles;
use super::pipeline_text::PipelineText;
use crate::LoadError;

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
    /// The chat template that replaces the model's own.
    template: Option<String>,
}

impl LoadPlan {
    /// Checks a spec and the files that it names.
    pub(super) fn new(spec: &ModelSpec) -> Result<Self, LoadError> {
        let Some(ModelSource::Path(path)) = &spec.source else {
            return Err(LoadError::Spec(
                "spec.source must be a path on this node".into(),
            ));
        };
        let files = ModelFiles::find(path)?;
        let format = files.format();
        if let Some(expected) = spec.format.filter(|expected| *expected != format) {
            return Err(LoadError::Spec(format!(
                "spec.format is {expected:?}, but {} is {format:?}",
                path.display()
            )));
        }
        let device = ComputeDevice::choose(spec.accelerator, device::has_accelerator());
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
            template: spec.options.chat_template.clone(),
        })
    }

    /// Loads the model and starts its engine thread.
    pub(super) async fn build(self) -> anyhow::Result<BuiltModel> {
        let header = match &self.files {
            ModelFiles::Folder(_) => None,
            ModelFiles::Gguf { dir, files } => Some(GgufHeader::read(&dir.join(&files[0]))?),
        };
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
                    let pages = mistralrs::PagedAttentionMetaBuilder::default().build()?;
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
            PipelineText::read(&*pipeline, header.as_ref(), self.template)
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
        assert!(LoadPlan::new(&spec).is_ok());
        spec.options.quantization = Some("q99".into());
        assert!(matches!(LoadPlan::new(&spec), Err(LoadError::Spec(_))));
    }
}
