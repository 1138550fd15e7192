//! A model that mistral.rs has loaded.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::generate::{
    EmbedInput, EmbedRequest, Embeddings, FileDefaults, GenerateInput, GenerateRequest,
    RequestError,
};
use flotilla_core::spec::Pipeline;
use futures::StreamExt;
use mistralrs::Model;
use parking_lot::Mutex;

use super::built_model::WeightsWatch;
use super::choice::ChoiceTask;
use super::embedding::embed_tokens;
use super::engine_thread::EngineThread;
use super::load::LoadedEngine;
use crate::progress::ProgressWatch;
use crate::text::text_model::{TextModel, check_reading_time};
use crate::text::token_ids::{self, KnowsToken};
use crate::{GenerateEvents, LoadedModel};

/// How long an engine thread may take to stop.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of the checks whether the engine thread has freed the weights. It has to be polled: only
/// mistral.rs' own thread knows when it drops them, and it notifies nobody.
const UNLOAD_INTERVAL: Duration = Duration::from_millis(5);

/// A model with its own engine thread.
pub(super) struct MistralModel {
    engine: Arc<EngineThread>,
    /// Dropping it stops the engine thread. `None` once unloaded.
    model: Mutex<Option<Model>>,
    weights: WeightsWatch,
    pipeline: Pipeline,
    knows_token: KnowsToken,
    /// The number of sequences that are computed at once.
    sequences: usize,
    progress: Arc<ProgressWatch>,
    /// What the model's files say about sampling.
    file_defaults: FileDefaults,
}

impl MistralModel {
    /// Wraps a loaded engine.
    pub(super) fn new(loaded: LoadedEngine, knows_token: KnowsToken) -> Self {
        let progress = ProgressWatch::new();
        Self {
            engine: Arc::new(EngineThread::new(
                loaded.sender,
                loaded.sequences,
                loaded.text_model,
                progress.clone(),
            )),
            model: Mutex::new(Some(loaded.model)),
            weights: loaded.weights,
            pipeline: loaded.pipeline,
            knows_token,
            sequences: loaded.sequences,
            progress,
            file_defaults: loaded.file_defaults,
        }
    }

    /// Turns the inputs of a request into tokens. All are checked before one is computed.
    async fn embed_inputs(&self, request: &EmbedRequest) -> Result<Vec<Vec<u32>>, RequestError> {
        if self.pipeline != Pipeline::Embedding {
            return Err(RequestError::invalid(
                "model",
                format!("The model '{}' does not make embeddings.", request.model),
            ));
        }
        let param = |index: usize| match request.inputs.len() {
            1 => "input".to_owned(),
            _ => format!("input[{index}]"),
        };
        let mut all = Vec::with_capacity(request.inputs.len());
        for (index, input) in request.inputs.iter().enumerate() {
            let param = param(index);
            if let EmbedInput::Tokens(tokens) = input {
                token_ids::check(tokens, &param, &self.knows_token)?;
            }
            let (input, speed) = (input.clone(), self.progress.reading_speed());
            let check = move |model: &TextModel| {
                let tokens = model.embed_tokens(&input, &param)?;
                check_reading_time(tokens.len(), speed, model.reading_limit)?;
                Ok(tokens)
            };
            all.push(self.engine.check(check).await?);
        }
        Ok(all)
    }
}

#[async_trait]
impl LoadedModel for MistralModel {
    fn concurrency(&self) -> Option<u32> {
        u32::try_from(self.sequences).ok()
    }

    fn file_defaults(&self) -> Option<FileDefaults> {
        (self.pipeline == Pipeline::Text).then(|| self.file_defaults.clone())
    }

    fn context_length(&self) -> Option<u32> {
        u32::try_from(self.engine.model.context).ok()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        if self.pipeline == Pipeline::Embedding {
            return Err(RequestError::invalid(
                "model",
                format!(
                    "The model '{}' makes embeddings and cannot generate text.",
                    request.model
                ),
            ));
        }
        if let GenerateInput::Tokens(tokens) = &request.input {
            token_ids::check(tokens, "prompt", &self.knows_token)?;
        }
        let prepared = self.engine.prepare(request).await?;
        let engine = self.engine.clone();
        let choice = ChoiceTask { prepared, engine };
        Ok(choice.events().boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        let mut embeddings = Embeddings::default();
        for tokens in self.embed_inputs(&request).await? {
            let (vector, tokens) = embed_tokens(&self.engine, tokens).await?;
            embeddings.vectors.push(vector);
            embeddings.prompt_tokens += tokens;
        }
        Ok(embeddings)
    }

    async fn check_embed(&self, request: &EmbedRequest) -> Result<(), RequestError> {
        self.embed_inputs(request).await.map(drop)
    }

    fn fault(&self) -> Option<String> {
        self.engine.fault()
    }

    async fn unload(&self) {
        drop(self.model.lock().take());
        let freed = async {
            let mut interval = tokio::time::interval(UNLOAD_INTERVAL);
            while self.weights.strong_count() > 0 {
                interval.tick().await;
            }
        };
        if tokio::time::timeout(UNLOAD_TIMEOUT, freed).await.is_err() {
            tracing::warn!("an engine thread has not stopped: its memory is not freed");
        }
    }
}
