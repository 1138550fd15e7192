//! The engines that compute on this node, of which the files of a model choose one.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::spec::{EngineKind, Model, ModelSource, ModelSpec};

#[cfg(feature = "llama")]
use crate::LlamaEngine;
use crate::file_reading::FileReading;
use crate::files::adapter::AdapterFiles;
use crate::text::source_path::source_path;
use crate::{Engine, LoadControl, LoadError, LoadProgress, LoadedModel, MistralEngine};

/// Loads models with the engine that their spec names, or that their files are for.
#[derive(Default)]
pub struct LocalEngine {
    mistral: MistralEngine,
    #[cfg(feature = "llama")]
    llama: LlamaEngine,
    /// Reads the files of adapters.
    reading: FileReading,
}

impl LocalEngine {
    /// The memory of an adapter: what the spec says, or else that of its weights.
    async fn estimate_adapter(&self, spec: &ModelSpec) -> Result<Bytes, LoadError> {
        let path = source_path(spec)?.to_owned();
        let (memory, files) = (spec.memory, path.clone());
        let estimate = move || {
            let files = AdapterFiles::find(&files)?;
            Ok(memory.unwrap_or_else(|| files.memory()))
        };
        self.reading.run(&path, estimate).await
    }

    fn choose(&self, model: &Model) -> Result<&dyn Engine, LoadError> {
        let path = match &model.spec.source {
            Some(ModelSource::Path(path)) => Some(path.as_path()),
            _ => None,
        };
        match engine_for(model.spec.engine, path) {
            #[cfg(feature = "llama")]
            EngineKind::Llama => Ok(&self.llama),
            EngineKind::Mistral => Ok(&self.mistral),
            other => Err(LoadError::Spec(format!(
                "this program was built without the engine {other}"
            ))),
        }
    }
}

/// The engine for the files at a path, where a spec names `engine`.
fn engine_for(engine: EngineKind, path: Option<&Path>) -> EngineKind {
    let is_gguf = path.is_some_and(|path| path.extension().is_some_and(|name| name == "gguf"));
    match engine {
        EngineKind::Auto if is_gguf && cfg!(feature = "llama") => EngineKind::Llama,
        EngineKind::Auto => EngineKind::Mistral,
        named => named,
    }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        if model.spec.base.is_some() {
            return self.estimate_adapter(&model.spec).await;
        }
        self.choose(model)?.estimate(model).await
    }

    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        self.choose(model)?.load(model, progress, control).await
    }
}

#[cfg(test)]
mod memory_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_choose_the_engine_unless_the_spec_does() {
        let engine = |engine, path| engine_for(engine, Some(Path::new(path)));
        let for_gguf = match cfg!(feature = "llama") {
            true => EngineKind::Llama,
            false => EngineKind::Mistral,
        };
        assert_eq!(engine(EngineKind::Auto, "/m/a.gguf"), for_gguf);
        assert_eq!(engine(EngineKind::Auto, "/m/folder"), EngineKind::Mistral);
        assert_eq!(
            engine(EngineKind::Mistral, "/m/a.gguf"),
            EngineKind::Mistral
        );
        assert_eq!(engine(EngineKind::Llama, "/m/folder"), EngineKind::Llama);
    }
}
