//! llama.cpp in this process.
//!
//! One thread computes a model: each of its steps takes the next token of every answer and a piece of the prompts
//! that are still read, as [`step_plan`] decides. What a sequence has computed is kept after its end, and a prompt
//! that begins like it continues from there: [`prefix_cache`].
//!
//! llama.cpp only turns tokens into logits here. Templates, grammars, the choice of tokens and the reading of
//! answers are those of all engines: see [`text`](crate::text).
//!
//! Start reading at [`LlamaEngine`], then [`decoder`], the thread.

mod adapter;
mod adapter_load;
mod adapter_turns;
mod attention;
mod backend;
mod choice;
mod decoder;
mod embedder;
mod engine_thread;
#[cfg(feature = "portable")]
mod libraries;
mod load;
mod load_plan;
mod memory;
mod model;
mod pooling;
mod prefix_cache;
mod reading_pace;
mod sequence;
mod step_plan;
mod step_time;
mod thread_status;
mod tokenizer;
mod utf8_pieces;
mod vocabulary;

use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::spec::Model;

use crate::file_reading::FileReading;
use crate::{Engine, LoadControl, LoadError, LoadProgress, LoadedModel, warm_up};

/// Loads GGUF files with llama.cpp.
#[derive(Default)]
pub struct LlamaEngine {
    /// Held during a load: two loads at once would need the memory of both and be no faster.
    loading: tokio::sync::Mutex<()>,
    /// Reads files for estimates, which no process of their own is ended for.
    reading: FileReading,
}

#[async_trait]
impl Engine for LlamaEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        memory::estimate(&self.reading, &model.spec).await
    }

    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let guard = self.loading.lock().await;
        let loaded = load::load(&model.spec, progress, control).await?;
        drop(guard);
        let pipeline = loaded.pipeline;
        let has_template = loaded.text_model.template.is_some();
        let timeout = warm_up::timeout(loaded.expected_memory, load::TIMEOUT);
        let loaded = model::LlamaModel::start(loaded).await?;
        warm_up::warm_up(&loaded, model.name(), pipeline, has_template, timeout).await?;
        Ok(Arc::new(loaded))
    }
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "vulkan"))]
mod vulkan_tests;
