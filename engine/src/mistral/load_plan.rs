//! Checks a spec and builds the model that it describes.

use std::collections::HashMap;
use std::sync::Arc;

use either::Either;
use flotilla_core::spec::{self, Accelerator, Dtype, ModelSource, ModelSpec};
use mistralrs::model_builder_trait::{
    build_embedding_pipeline, build_gguf_pipeline, build_model_from_pipeline, build_text_pipeline,
};
use mistralrs::{
    Device, EmbeddingModelBuilder, GgufModelBuilder, ModelDType, TextModelBuilder, TokenSource,
    best_device, parse_isq_value,
};
use mistralrs_core::IsqType;

use super::built_model::BuiltModel;
use super::model_files::ModelFiles;
use super::vocabulary::Vocabulary;
use crate::LoadError;

/// Number of conversations whose beginning an accelerator keeps: the default of mistral.rs.
const PREFIX_CACHE_SIZE: usize = 16;

/// A spec whose options and files were checked.
#[derive(Clone)]
pub(super) struct LoadPlan {
    pub(super) files: ModelFiles,
    pub(super) pipeline: spec::Pipeline,
    pub(super) dtype: ModelDType,
    /// The format to quantise the weights to. `None` leaves them as they are.
    isq: Option<IsqType>,
    concurrency: usize,
    /// Whether to use the CPU even if there is an accelerator.
    force_cpu: bool,
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
        let force_cpu = spec.accelerator == Some(Accelerator::Cpu);
        let pipeline = spec.options.pipeline.unwrap_or_else(|| files.pipeline());
        let dtype = match spec.options.dtype {
            Some(Dtype::F32) => ModelDType::F32,
            Some(Dtype::F16) => ModelDType::F16,
            Some(Dtype::Bf16) => ModelDType::BF16,
            // On a CPU f32 is faster than the format that mistral.rs would choose.
            None if is_on_cpu() => ModelDType::F32,
            None => ModelDType::Auto,
        };
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
            concurrency: spec.concurrency as usize,
            force_cpu,
        })
    }

    /// Loads the model and starts its engine thread.
    pub(super) async fn build(self) -> anyhow::Result<BuiltModel> {
        let (pipeline, scheduler, engine) = match self.files {
            ModelFiles::Folder(dir) if self.pipeline == spec::Pipeline::Embedding => {
                let mut builder = EmbeddingModelBuilder::new(dir.display())
                    .with_dtype(self.dtype)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.concurrency);
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.force_cpu {
                    builder = builder.with_force_cpu();
                }
                build_embedding_pipeline(builder).await
            }
            ModelFiles::Folder(dir) => {
                let mut builder = TextModelBuilder::new(dir.display())
                    .with_dtype(self.dtype)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.concurrency)
                    .with_prefix_cache_n(prefix_cache_size());
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.force_cpu {
                    builder = builder.with_force_cpu();
                }
                #[cfg(any(feature = "cuda", feature = "metal"))]
                let builder = builder
                    .with_paged_attn(mistralrs::PagedAttentionMetaBuilder::default().build()?);
                build_text_pipeline(builder).await
            }
            ModelFiles::Gguf { dir, file } => {
                let mut builder = GgufModelBuilder::new(dir.display(), vec![file])
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.concurrency)
                    .with_prefix_cache_n(prefix_cache_size());
                if self.force_cpu {
                    builder = builder.with_force_cpu();
                }
                build_gguf_pipeline(builder).await
            }
        }?;
        let weights = Arc::downgrade(&pipeline);
        let (vocabulary, template) = {
            let pipeline = pipeline.lock().await;
            let (decoder, encoder) = (pipeline.tokenizer(), pipeline.tokenizer());
            let metadata = pipeline.get_metadata();
            let vocabulary = Vocabulary {
                token_text: Box::new(move |token| {
                    let text = decoder.as_ref().map(|t| t.decode(&[token], false));
                    text.and_then(Result::ok).unwrap_or_default()
                }),
                token_ids: Box::new(move |text, special| {
                    let tokens = encoder.as_ref()?.encode_fast(text, special).ok()?;
                    Some(tokens.get_ids().to_vec())
                }),
                grammars: metadata.llg_factory.clone(),
                end_tokens: metadata.eos_tok.as_slice().into(),
            };
            let template = pipeline.get_chat_template();
            let template = template
                .as_ref()
                .and_then(|template| template.chat_template.as_ref());
            (
                vocabulary,
                template.map_or_else(String::new, |template| template_text(&template.0)),
            )
        };
        let model = build_model_from_pipeline(pipeline, scheduler, engine).await;
        Ok(BuiltModel {
            model,
            weights,
            vocabulary,
            template,
        })
    }
}

/// Joins the chat templates of a model: one, or several with a name each.
fn template_text(templates: &Either<String, Vec<HashMap<String, String>>>) -> String {
    match templates {
        Either::Left(template) => template.clone(),
        Either::Right(templates) => {
            let texts = templates.iter().flat_map(HashMap::values);
            texts.map(String::as_str).collect::<Vec<_>>().join("\n")
        }
    }
}

/// The number of conversations whose beginning mistral.rs keeps. `None` on a CPU: version 0.8.1 evicts
/// only what is in an accelerator's memory, so that every conversation would stay in memory for ever.
fn prefix_cache_size() -> Option<usize> {
    (!is_on_cpu()).then_some(PREFIX_CACHE_SIZE)
}

/// Whether models are computed on the CPU.
pub(super) fn is_on_cpu() -> bool {
    best_device(false).is_ok_and(|device| matches!(device, Device::Cpu))
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
