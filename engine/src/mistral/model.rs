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
use mistralrs_core::Response;
use parking_lot::Mutex;

use super::built_model::WeightsWatch;
use super::choice::ChoiceTask;
use super::chunk;
use super::engine_thread::{EngineThread, engine_stopped};
use super::load::LoadedEngine;
use super::load_plan::is_on_cpu;
use super::request;
use super::token_ids::{self, KnowsToken};
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
    concurrency: usize,
    /// What the model's files say about sampling.
    file_defaults: FileDefaults,
}

impl MistralModel {
    /// Wraps a loaded engine. `concurrency` is the number of sequences that the spec allows at once.
    pub(super) fn new(loaded: LoadedEngine, concurrency: u32, knows_token: KnowsToken) -> Self {
        // On a CPU mistral.rs 0.8.1 lets the sequences of a decoding batch overwrite each other's
        // attention (flash_attn_cpu_single_q shares its scratch memory among them), which would mix
        // the answers. One at a time is correct, and hardly slower on a CPU.
        let concurrency = if is_on_cpu() { 1 } else { concurrency as usize };
        Self {
            engine: Arc::new(EngineThread::new(
                loaded.sender,
                concurrency,
                loaded.context,
                loaded.vocabulary,
                loaded.template,
            )),
            model: Mutex::new(Some(loaded.model)),
            weights: loaded.weights,
            pipeline: loaded.pipeline,
            knows_token,
            concurrency,
            file_defaults: loaded.file_defaults,
        }
    }

    /// Returns the vector of one input and its number of tokens.
    async fn embed_input(&self, input: EmbedInput) -> Result<(Vec<f32>, u32), RequestError> {
        if let EmbedInput::Tokens(tokens) = &input {
            token_ids::check(tokens, "input", &self.knows_token)?;
            // mistral.rs 0.8.1 panics at a sequence of one token, and its thread ends. A text has more, as
            // the tokenizer adds an end to it.
            if tokens.len() < 2 {
                return Err(RequestError::invalid(
                    "input",
                    "An input of token ids must have at least 2 of them for this model.",
                ));
            }
        }
        self.engine.check_embed_input(&input).await?;
        let permit = self.engine.acquire().await?;
        let mut responses = self.engine.send(request::embedding(input)).await?;
        // The engine thread ends if nobody receives its answer. A task of its own keeps receiving when the
        // caller is dropped, and keeps other sequences away until then.
        let received = tokio::spawn(async move {
            let _permit = permit;
            responses.recv().await
        });
        match received.await.map_err(|_| engine_stopped())? {
            Some(Response::Embeddings {
                embeddings,
                prompt_tokens,
                ..
            }) => Ok((embeddings, prompt_tokens as u32)),
            Some(Response::ValidationError(error)) => Err(chunk::invalid(&error.to_string())),
            Some(Response::InternalError(error)) => Err(chunk::failed(&error.to_string())),
            Some(_) => Err(RequestError::Engine(
                "the engine sent an unexpected response".into(),
            )),
            None => Err(engine_stopped()),
        }
    }
}

#[async_trait]
impl LoadedModel for MistralModel {
    fn concurrency(&self) -> Option<u32> {
        u32::try_from(self.concurrency).ok()
    }

    fn has_prefix_cache(&self) -> bool {
        !is_on_cpu() && self.pipeline == Pipeline::Text
    }

    fn file_defaults(&self) -> Option<FileDefaults> {
        (self.pipeline == Pipeline::Text).then(|| self.file_defaults.clone())
    }

    fn context_length(&self) -> Option<u32> {
        u32::try_from(self.engine.context).ok()
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
        let choice = ChoiceTask::new(prepared, self.engine.clone());
        Ok(choice.events().boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        if self.pipeline != Pipeline::Embedding {
            return Err(RequestError::invalid(
                "model",
                format!("The model '{}' does not make embeddings.", request.model),
            ));
        }
        let mut embeddings = Embeddings::default();
        for input in request.inputs {
            let (vector, tokens) = self.embed_input(input).await?;
            embeddings.vectors.push(vector);
            embeddings.prompt_tokens += tokens;
        }
        Ok(embeddings)
    }

    fn fault(&self) -> Option<String> {
        self.engine
            .has_stopped()
            .then(|| "the engine thread has stopped".to_owned())
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
