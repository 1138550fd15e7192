//! mistral.rs in this process.
//!
//! Some of its work is done here instead, for these reasons:
//! - [`logits_processor`]: mistral.rs has no seed per request and applies no logit bias; its penalties count the
//!   prompt. Its log-probabilities have base 10, come from the raw logits at temperature 0, and are missing
//!   for tokens that end inside a character.
//! - [`answer_matcher`](crate::text::answer_matcher): mistral.rs would compile the grammar of an answer in
//!   its own thread, while no other request is computed.
//! - [`stop_texts`](crate::text::stop_texts): when streaming, mistral.rs sends the stop text and one token more.
//! - [`prompt_tokenizer`]: mistral.rs reads control tokens in the texts of clients, and has begin tokens twice
//!   or not at all. So prompts are rendered and split here (see [`chat`](crate::chat)), and it gets tokens.
//! - [`answer_text`](crate::text::answer_text): with tools mistral.rs sends nothing until a call is whole, and
//!   does not notice meanwhile that the client has left. So calls and thoughts are read from the text here.
//! - One sequence is computed at a time: on a CPU the sequences of a batch overwrite each other's attention, and on
//!   a GPU a batch is slower than one after the other.
//!
//! Start reading at [`MistralEngine`], then [`choice`], which computes one answer.

mod architectures;
mod built_model;
mod choice;
mod chunk;
mod device;
mod embedding;
mod engine_permit;
mod engine_thread;
mod journal;
mod known_tokens;
mod load;
mod load_plan;
mod logits_processor;
mod memory;
mod model;
mod pipeline_text;
mod prompt_scores;
mod prompt_tokenizer;
mod request;

use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::spec::Model;

use self::model::MistralModel;
use crate::file_reading::FileReading;
use crate::{Engine, LoadControl, LoadError, LoadProgress, LoadedModel, warm_up};

/// Loads models with mistral.rs.
#[derive(Default)]
pub struct MistralEngine {
    /// Held during a load: two loads at once would need the memory of both and be no faster.
    loading: tokio::sync::Mutex<()>,
    /// Reads files for estimates, which no process of their own is ended for.
    reading: FileReading,
}

#[async_trait]
impl Engine for MistralEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        memory::estimate(&self.reading, &model.spec).await
    }

    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
        // A load of mistral.rs cannot be interrupted: the process that it runs in is ended instead.
        _: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let guard = self.loading.lock().await;
        let loaded = load::load(&model.spec, progress).await?;
        drop(guard);
        let pipeline = loaded.pipeline;
        let timeout = warm_up::timeout(loaded.expected_memory, loaded.remaining_time);
        let knows_token = known_tokens::known_tokens(&loaded.weights).await;
        let has_template = loaded.text_model.template.is_some();
        let loaded = MistralModel::new(loaded, knows_token);
        warm_up::warm_up(&loaded, model.name(), pipeline, has_template, timeout).await?;
        Ok(Arc::new(loaded))
    }
}

#[cfg(test)]
mod tests;
