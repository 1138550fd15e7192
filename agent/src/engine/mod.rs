//! What runs models: a small trait, and one module per engine.

mod mistral;
mod null;
mod upstream;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{EmbedRequest, Embeddings, Event, GenerateRequest, RequestError};
use flotilla_core::spec::{EngineKind, Model};
use futures::Stream;

use crate::accounts::Computes;
use crate::artifacts::FetchError;

pub use mistral::Mistral;
pub use null::Null;
pub use upstream::Upstream;

/// The events of a generation. Dropping it stops the generation within a token.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event, RequestError>> + Send>>;

/// Told how far a load is: what is being done, and from 0 to 1 how much of it.
pub type Progress = Arc<dyn Fn(&'static str, f32) + Send + Sync>;

/// Loads models.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What a loaded model will take, as far as it can be told beforehand.
    ///
    /// # Errors
    /// When the model's files are not there.
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError>;

    /// Loads a model. Takes as long as it takes, off the async threads.
    ///
    /// # Errors
    /// [`LoadError`] with what is wrong and what to do.
    async fn load(
        &self,
        model: &Model,
        progress: Progress,
    ) -> Result<Arc<dyn LoadedModel>, LoadError>;
}

/// A model that answers.
#[async_trait]
pub trait LoadedModel: Send + Sync {
    /// Begins an answer.
    async fn generate(&self, request: GenerateRequest) -> Result<Events, RequestError>;

    /// Turns texts into vectors.
    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError>;

    /// Most requests that it computes at once, if that is fewer than its spec may say.
    fn concurrency(&self) -> Option<u32> {
        None
    }

    /// Whether it reads the beginning of a conversation faster that it has read before.
    fn keeps_prefixes(&self) -> bool {
        false
    }

    /// Where its requests are computed.
    fn computes(&self) -> Computes {
        Computes::Here
    }

    /// Why it will never answer again, if that is so.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Frees what it holds. Called once, after the last request.
    async fn unload(&self) {}
}

/// Why a model was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0} does not exist on this node")]
    NoSuchPath(PathBuf),
    #[error("{path} cannot be served: {problem}")]
    Unusable { path: PathBuf, problem: String },
    #[error("it needs about {needed} of memory, {free} are free")]
    Memory { needed: Bytes, free: Bytes },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("its spec cannot be carried out: {0}")]
    Spec(String),
    #[error("the engine failed to load it: {0}")]
    Engine(String),
    #[error("it was not loaded within {0} s")]
    Timeout(u64),
}

impl LoadError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchPath(_) => "put the files there, or correct spec.source.path",
            Self::Unusable { .. } => {
                "give a Hugging Face folder (config.json, tokenizer.json, *.safetensors) or a GGUF file"
            }
            Self::Memory { .. } => {
                "remove a model from the node, add memory, raise --memory, or quantise the model"
            }
            Self::Fetch(error) => error.remedy(),
            Self::Spec(_) => "correct the model's spec",
            Self::Engine(_) => {
                "see the agent's log; check that mistral.rs supports the architecture"
            }
            Self::Timeout(_) => "use faster storage or a smaller model",
        }
    }
}

/// One engine of each kind.
pub struct Engines {
    mistral: Mistral,
    upstream: Upstream,
    null: Null,
}

impl Engines {
    /// All engines, nothing loaded. The null engine is `null_slowdown` times slower than a
    /// model's spec says.
    ///
    /// # Errors
    /// When the HTTP client of [`Upstream`] cannot be set up.
    pub fn new(null_slowdown: f64) -> Result<Self, LoadError> {
        Ok(Self {
            mistral: Mistral::default(),
            upstream: Upstream::new()?,
            null: Null {
                slowdown: null_slowdown,
            },
        })
    }

    /// The engine of this kind.
    #[must_use]
    pub fn get(&self, kind: EngineKind) -> &dyn Engine {
        match kind {
            EngineKind::Mistral => &self.mistral,
            EngineKind::Upstream => &self.upstream,
            EngineKind::Null => &self.null,
        }
    }
}
