//! Loads an adapter onto a model.

use std::path::PathBuf;
use std::time::Duration;

use flotilla_core::spec::{Model, ModelSpec};

use crate::LoadError;
use crate::chat::template::SpecialTokens;
use crate::files::adapter::{AdapterFiles, GgufAdapter};
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::text::load_template::load_template;
use crate::text::source_path::source_path;
use crate::text::template_args;
use crate::text::text_model::TextModel;

/// How long the first answers of an adapter may take, beside the answers of others.
pub(super) const TIMEOUT: Duration = Duration::from_secs(600);

/// The properties of a model on which its adapters depend.
pub(super) struct AdapterBase {
    /// The model's files.
    pub(super) source: PathBuf,
    pub(super) special_tokens: SpecialTokens,
}

impl AdapterBase {
    /// Finds the files of an adapter, and turns them into one that llama.cpp reads. Blocks.
    ///
    /// # Errors
    /// When they are not those of an adapter of this model.
    pub(super) fn find(&self, adapter: &Model) -> Result<GgufAdapter, LoadError> {
        let files = AdapterFiles::find(source_path(&adapter.spec)?)?;
        let base = ModelFiles::find(&self.source)?;
        match Inspection::of(&base)? {
            Inspection::Gguf(headers) => files.gguf(&headers),
            // The model was loaded by llama.cpp.
            Inspection::Folder { .. } => {
                Err(LoadError::Spec("the base is no GGUF file".to_owned()))
            }
        }
    }

    /// What requests to the adapter need: as for its base, but with the template and the limits of its own spec.
    ///
    /// # Errors
    /// [`LoadError::Template`] when its template cannot be used.
    pub(super) fn text_model(
        &self,
        base: &TextModel,
        spec: &ModelSpec,
    ) -> Result<TextModel, LoadError> {
        let template = match &spec.options.chat_template {
            Some(template) => {
                let templates = vec![("default".to_owned(), template.clone())];
                load_template(
                    spec,
                    templates,
                    self.special_tokens.clone(),
                    &base.vocabulary,
                )?
            }
            None => {
                let arguments = &spec.defaults.chat_template_args;
                template_args::check_defaults(arguments, base.template_text())?;
                base.template.clone()
            }
        };
        let reading_limit = spec.options.max_prompt_seconds;
        Ok(TextModel {
            vocabulary: base.vocabulary.clone(),
            template,
            context: base.context,
            reading_limit: reading_limit.map_or(base.reading_limit, |seconds| {
                Duration::from_secs(seconds.into())
            }),
        })
    }
}
