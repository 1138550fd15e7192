//! mistral.rs, in this process.
//!
//! What is taken over from it here, and why:
//! - [`sampler`]: it has no seed per request, does not apply a logit bias, and its
//!   log-probabilities are decimal, at temperature 0 of raw logits, and missing for tokens
//!   that end inside a character.
//! - [`stop`]: when streaming it sends the stop text and one token more.
//! - On a CPU one sequence computes at a time: those of a batch overwrite each other's
//!   attention there.
//! - Several choices are several requests, so that each has its own seed and its own stream.

mod answer;
mod load;
mod request;
mod sampler;
mod stop;
mod warm_up;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::spec::{self, Pipeline};
use futures::future::try_join_all;
use mistralrs::Model;
use mistralrs_core::{
    Constraint, NormalRequest, Request, RequestMessage, Response, SamplingParams,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::{Engine, GenerateEvents, LoadError, LoadProgress, LoadedModel};

/// How long an engine thread may take to end.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked at whether it has.
const UNLOAD_LOOK: Duration = Duration::from_millis(5);
/// Answers that may wait for a reader when the model's context is not known.
const DEFAULT_CONTEXT: usize = 4_096;

/// mistral.rs, in this process.
#[derive(Default)]
pub struct MistralEngine {
    /// One load at a time: two would need the memory of both and take no less time.
    loading: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Engine for MistralEngine {
    async fn estimate(&self, model: &spec::Model) -> Result<Bytes, LoadError> {
        load::estimate(&model.spec).await
    }

    async fn load(
        &self,
        model: &spec::Model,
        progress: LoadProgress,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let turn = self.loading.lock().await;
        let loaded = load::load(&model.spec, progress).await?;
        drop(turn);
        let context = loaded.context.unwrap_or(DEFAULT_CONTEXT);
        // On a CPU mistral.rs 0.8.1 lets the sequences of one decoding batch overwrite each
        // other's attention (flash_attn_cpu_single_q shares its scratch among them): answers
        // would mix. One at a time is right, and on a CPU hardly slower.
        let turns = if load::on_cpu() {
            1
        } else {
            model.spec.concurrency as usize
        };
        let engine = EngineThread {
            sender: loaded.sender,
            turns: Arc::new(Semaphore::new(turns)),
            context,
            token_text: loaded.token_text,
        };
        let pipeline = loaded.pipeline;
        let loaded = MistralModel {
            engine: Arc::new(engine),
            model: Mutex::new(Some(loaded.model)),
            weights: loaded.weights,
            pipeline,
            concurrency: turns,
        };
        warm_up::warm_up(&loaded, model.name(), pipeline, warm_up::LONGEST).await;
        match loaded.fault() {
            Some(fault) => Err(LoadError::Engine(fault)),
            None => Ok(Arc::new(loaded)),
        }
    }
}

/// One model with an engine thread of its own.
struct MistralModel {
    engine: Arc<EngineThread>,
    /// Dropping it ends the engine thread.
    model: Mutex<Option<Model>>,
    weights: load::WeightsWatch,
    pipeline: Pipeline,
    /// Answers that it computes at once.
    concurrency: usize,
}

/// The way to an engine thread.
struct EngineThread {
    /// Closed when the thread has ended.
    sender: mpsc::Sender<Request>,
    /// Sequences in the engine at once.
    turns: Arc<Semaphore>,
    /// Tokens of the model's context.
    context: usize,
    token_text: load::TokenText,
}

impl EngineThread {
    /// The text of a token.
    fn token_text(&self, token: u32) -> String {
        (self.token_text)(token)
    }

    /// Sends a request and gives the way its responses come.
    ///
    /// The engine waits for a full channel, and with it every other request: there is room
    /// for all that one answer can consist of.
    async fn send(
        &self,
        request: request::EngineRequest,
    ) -> Result<mpsc::Receiver<Response>, RequestError> {
        let room = request
            .sampling
            .max_len
            .unwrap_or(self.context)
            .min(self.context)
            + 8;
        let (response, responses) = mpsc::channel(room);
        let normal = NormalRequest {
            messages: request.messages,
            sampling_params: request.sampling,
            response,
            return_logprobs: request.return_logprobs,
            is_streaming: request.streaming,
            id: 0,
            constraint: request.constraint,
            suffix: None,
            tools: request.tools,
            tool_choice: request.tool_choice,
            logits_processors: request.processors,
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        };
        self.sender
            .send(Request::Normal(Box::new(normal)))
            .await
            .map_err(|_| ended())?;
        Ok(responses)
    }
}

#[async_trait]
impl LoadedModel for MistralModel {
    fn concurrency(&self) -> Option<u32> {
        u32::try_from(self.concurrency).ok()
    }

    fn has_prefix_cache(&self) -> bool {
        !load::on_cpu() && self.pipeline == Pipeline::Text
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        if self.pipeline == Pipeline::Embedding {
            return Err(RequestError::invalid(
                "model",
                format!(
                    "The model '{}' makes embeddings, it does not generate.",
                    request.model
                ),
            ));
        }
        let request = Arc::new(request);
        let mut choices = Vec::with_capacity(request.choices as usize);
        for choice in 0..request.choices {
            let draft = request::draft(&request, choice)?;
            choices.push(answer::ChoiceTask {
                index: choice,
                request: request.clone(),
                draft,
                engine: self.engine.clone(),
            });
        }
        Ok(answer::events(choices))
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        if self.pipeline != Pipeline::Embedding {
            return Err(RequestError::invalid(
                "model",
                format!("The model '{}' does not make embeddings.", request.model),
            ));
        }
        let vectors = request
            .inputs
            .into_iter()
            .map(|prompt| self.embed_one(prompt));
        let mut embeddings = Embeddings::default();
        for (vector, tokens) in try_join_all(vectors).await? {
            embeddings.vectors.push(vector);
            embeddings.prompt_tokens += tokens;
        }
        Ok(embeddings)
    }

    fn fault(&self) -> Option<String> {
        self.engine
            .sender
            .is_closed()
            .then(|| "the engine thread has ended".to_owned())
    }

    async fn unload(&self) {
        drop(self.model.lock().take());
        let freed = async {
            // mistral.rs does not tell when its thread has dropped them.
            let mut look = tokio::time::interval(UNLOAD_LOOK);
            while self.weights.strong_count() > 0 {
                look.tick().await;
            }
        };
        if tokio::time::timeout(UNLOAD_TIMEOUT, freed).await.is_err() {
            tracing::warn!("an engine thread has not ended: its memory stays taken");
        }
    }
}

impl MistralModel {
    async fn embed_one(&self, prompt: String) -> Result<(Vec<f32>, u32), RequestError> {
        let _turn = self.engine.turns.acquire().await.map_err(|_| ended())?;
        let mut responses = self
            .engine
            .send(request::EngineRequest {
                messages: RequestMessage::Embedding { prompt },
                sampling: SamplingParams::deterministic(),
                constraint: Constraint::None,
                tools: None,
                tool_choice: None,
                processors: None,
                return_logprobs: false,
                streaming: false,
                journal: Arc::default(),
            })
            .await?;
        match responses.recv().await {
            Some(Response::Embeddings {
                embeddings,
                prompt_tokens,
                ..
            }) => Ok((embeddings, prompt_tokens as u32)),
            Some(Response::ValidationError(error)) => Err(answer::refused(&error.to_string())),
            Some(Response::InternalError(error)) => Err(answer::failed(&error.to_string())),
            Some(_) => Err(RequestError::Engine(
                "the engine answered something else".into(),
            )),
            None => Err(ended()),
        }
    }
}

/// The engine thread is gone.
fn ended() -> RequestError {
    RequestError::NodeLost("the engine that ran the model has ended".into())
}
