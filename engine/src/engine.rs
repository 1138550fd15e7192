//! The traits that every engine implements.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    EmbedRequest, Embeddings, FileDefaults, GenerateEvent, GenerateRequest, RequestError,
};
use flotilla_core::spec::Model;
use futures::Stream;

use crate::LoadError;

/// The events of one generation. Dropping the stream stops the generation within one token.
pub type GenerateEvents = Pin<Box<dyn Stream<Item = Result<GenerateEvent, RequestError>> + Send>>;

/// A callback that receives the progress of a load: the name of the current step, and the
/// completed fraction from 0 to 1.
pub type LoadProgress = Arc<dyn Fn(&'static str, f32) + Send + Sync>;

/// Loads models.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Estimates the memory that a loaded model will take.
    ///
    /// # Errors
    /// When the model's files do not exist or cannot be read.
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError>;

    /// Loads a model. The work runs off the async threads.
    ///
    /// # Errors
    /// [`LoadError`] with the problem; [`LoadError::remedy`] says what to do.
    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
    ) -> Result<Arc<dyn LoadedModel>, LoadError>;
}

/// A loaded model that answers requests.
#[async_trait]
pub trait LoadedModel: Send + Sync {
    /// Starts an answer and returns its events. The request asks for one choice.
    ///
    /// # Errors
    /// When the request is invalid for this model, or the engine fails before the first event.
    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError>;

    /// Turns inputs into vectors, one per input, in the order of the inputs. There are at most
    /// [`Self::embed_batch`] of them.
    ///
    /// # Errors
    /// When the request is invalid for this model, or the engine fails.
    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError>;

    /// The number of inputs that the model embeds at once, at least 1. A request with more is divided.
    fn embed_batch(&self) -> usize {
        1
    }

    /// The most requests that the model computes at once, where that is fewer than its spec allows.
    fn concurrency(&self) -> Option<u32> {
        None
    }

    /// Returns whether the model reads the beginning of a conversation faster when it has read
    /// that beginning before.
    fn has_prefix_cache(&self) -> bool {
        false
    }

    /// What the model's files say about sampling. `None` if the model does not generate text. The
    /// caller fills the values into the requests.
    fn file_defaults(&self) -> Option<FileDefaults> {
        Some(FileDefaults::default())
    }

    /// The model's context length in tokens. `None` if it is not known.
    fn context_length(&self) -> Option<u32> {
        None
    }

    /// Where the model's requests are computed.
    fn compute_location(&self) -> ComputeLocation {
        ComputeLocation::InProcess
    }

    /// Why the model will never answer again, once that has happened.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Frees what the model holds. Called once, after the last request.
    async fn unload(&self) {}
}

/// Where a model's requests are computed. Energy accounting attributes joules by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ComputeLocation {
    /// In this process.
    #[default]
    InProcess,
    /// In another process of the node.
    OtherProcess,
    /// On another machine: the node only waits.
    OtherMachine,
    /// Nowhere: the engine only waits. Joules are estimated from the time that it waits.
    Simulated,
}
