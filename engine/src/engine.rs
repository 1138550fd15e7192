//! The traits that every engine implements.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    EmbedRequest, Embeddings, FileDefaults, GenerateEvent, GenerateRequest, RequestError,
};
use flotilla_core::spec::Model;
use futures::Stream;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use crate::{LoadError, StuckProcess};

/// The events of one generation. Dropping the stream stops the generation within one token.
pub type GenerateEvents = Pin<Box<dyn Stream<Item = Result<GenerateEvent, RequestError>> + Send>>;

/// A callback that receives the progress of a load: the name of the current step, and the
/// completed fraction from 0 to 1.
pub type LoadProgress = Arc<dyn Fn(&str, f32) + Send + Sync>;

/// How a load is cancelled, and where it reports a process that cannot be ended.
#[derive(Debug, Clone, Default)]
pub struct LoadControl {
    /// Cancelled once the model is not wanted any more.
    pub cancelled: CancellationToken,
    /// What computes the model, for an engine that has several to choose from.
    pub device: ComputeDevice,
    stuck: Arc<SetOnce<StuckProcess>>,
}

impl LoadControl {
    /// Creates the control of a load that ends once `cancelled` is cancelled.
    #[must_use]
    pub fn new(cancelled: CancellationToken) -> Self {
        Self {
            cancelled,
            device: ComputeDevice::default(),
            stuck: Arc::default(),
        }
    }

    /// Has this device compute the model.
    #[must_use]
    pub fn on(self, device: ComputeDevice) -> Self {
        Self { device, ..self }
    }

    /// Reports that the process of the load cannot be ended. The first report counts.
    pub fn report_stuck(&self, process: StuckProcess) {
        let _ = self.stuck.set(process);
    }

    /// Waits until the process of the load cannot be ended. Never returns otherwise.
    pub async fn stuck(&self) -> StuckProcess {
        *self.stuck.wait().await
    }
}

/// Loads models.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Estimates the memory that a loaded model will take.
    ///
    /// # Errors
    /// When the model's files do not exist or cannot be read.
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError>;

    /// Loads a model. The work runs off the async threads. Once `control` is cancelled, a load that can
    /// be interrupted ends; its memory is free when this returns an error, and `control` learns what that waits
    /// for.
    ///
    /// # Errors
    /// [`LoadError`] with the problem; [`LoadError::remedy`] says what to do.
    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
        control: &LoadControl,
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

    /// Checks all inputs of a request before any of them is computed. The request may have more than
    /// [`Self::embed_batch`] of them.
    ///
    /// # Errors
    /// When an input is invalid for this model. The error names it.
    async fn check_embed(&self, _: &EmbedRequest) -> Result<(), RequestError> {
        Ok(())
    }

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

    /// What the model's files say about sampling and about the context. `None` if the model does not generate text. The
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
        ComputeLocation::Own
    }

    /// What computes the model's requests on this machine.
    fn compute_device(&self) -> ComputeDevice {
        ComputeDevice::Processors
    }

    /// Why the model will never answer again, once that has happened: its engine has ended, or it is
    /// stuck. Requests fail from then on. Whoever runs the model asks each second, and ends the process where
    /// the engine is stuck: nothing else can stop it.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Waits for the first sign that the model can never answer again, after which [`failed`](Self::failed) soon
    /// returns.
    async fn failing(&self) {
        first_fault(|| self.fault()).await;
    }

    /// Waits until the model can never answer again and its process, if it has one, has ended. Returns why.
    async fn failed(&self) -> LoadError {
        LoadError::Engine(first_fault(|| self.fault()).await)
    }

    /// The memory that the model's own process has taken at most. `None` if it has no process of its own.
    fn peak_memory(&self) -> Option<Bytes> {
        None
    }

    /// The process that computes the model's requests, if the agent has started one for it.
    fn process_id(&self) -> Option<u32> {
        None
    }

    /// Loads an adapter of this model, which this model's process computes. It must be unloaded before this model.
    ///
    /// # Errors
    /// When the engine has no adapters, or the files are not those of an adapter of this model.
    async fn load_adapter(&self, _: &Model) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let problem = "spec.base: the engine of the base runs no adapters: the base must be a GGUF file, for the engine llama";
        Err(LoadError::Spec(problem.into()))
    }

    /// Frees what the model holds, and returns once that is free. Called once, after the last request.
    async fn unload(&self) {}

    /// Waits until the model's process cannot be ended, so that [`failed`](Self::failed) and
    /// [`unload`](Self::unload) may not return for long. Never returns otherwise.
    async fn stuck(&self) -> StuckProcess {
        std::future::pending().await
    }
}

/// How often a model is asked whether it can still answer.
const FAULT_INTERVAL: Duration = Duration::from_secs(1);

/// Asks for a fault until there is one.
pub(crate) async fn first_fault(fault: impl Fn() -> Option<String>) -> String {
    loop {
        if let Some(fault) = fault() {
            return fault;
        }
        tokio::time::sleep(FAULT_INTERVAL).await;
    }
}

/// What computes a model's requests. The energy of a GPU is attributed to those that it computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ComputeDevice {
    /// The processors.
    #[default]
    Processors,
    /// The GPU with this UUID. `None`: it is not known which, or whether several.
    Gpu(Option<String>),
}

/// Where a model's requests are computed. Energy accounting attributes joules by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ComputeLocation {
    /// In this process, or in one that it has started for the model.
    #[default]
    Own,
    /// In a process of the node that somebody else has started.
    OtherProcess,
    /// On another machine: the node only waits.
    OtherMachine,
    /// Nowhere: the engine only waits. Joules are estimated from the time that it waits.
    Simulated,
}
