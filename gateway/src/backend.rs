//! The interface between the API and whatever answers its requests.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use flotilla_core::access::AccessScope;
use flotilla_core::generate::{
    EmbedRequest, Embeddings, GenerateEvent, GenerateRequest, RequestError, Route, RouteTarget,
};
use flotilla_core::{ModelName, NodeName, TaskName};
use futures::Stream;

use crate::ApiError;

/// The events of a generation, in batches of events that arrived together. Dropping the stream
/// stops the generation.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Vec<GenerateEvent>, RequestError>> + Send>>;

/// An answer, and the replica it comes from.
pub struct BackendAnswer<T> {
    /// The replica that answers.
    pub served_by: ServedBy,
    /// The answer itself.
    pub content: T,
}

/// The replica that answers a request, and how it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedBy {
    /// The model that answers.
    pub model: ModelName,
    /// The task that the model was chosen for. `None` for a request that names its model.
    pub task: Option<TaskName>,
    /// The node that answers.
    pub node: NodeName,
    /// Number of replicas the request was sent to, including the one that answers.
    pub attempts: u32,
    /// Id of the recorded routing decision.
    pub decision_id: String,
}

impl ServedBy {
    /// The response for an answer that broke off with `error`. `prompt_param` is the endpoint's
    /// name for its prompt.
    pub(crate) fn error_response(&self, error: RequestError, prompt_param: &str) -> ApiError {
        let decision_id = Some(self.decision_id.clone());
        ApiError::with_prompt_param(prompt_param)(BackendError { error, decision_id })
    }
}

/// The error of a request that was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendError {
    /// What went wrong.
    pub error: RequestError,
    /// Id of the recorded routing decision. `None` when the request failed before a decision.
    pub decision_id: Option<String>,
}

impl From<RequestError> for BackendError {
    fn from(error: RequestError) -> Self {
        Self {
            error,
            decision_id: None,
        }
    }
}

/// What requests can name as their `model`: a model, a task, or `auto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// What requests name.
    pub target: RouteTarget,
    /// When the model or task was added, in seconds since the Unix epoch; that of the last task for `auto`.
    pub created: u64,
}

/// Whether the backend can answer requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// True when requests can be answered.
    pub ready: bool,
    /// What is missing or degraded, as sentences for the operator.
    pub notes: Vec<String>,
}

/// Answers requests: the controller's dispatch, or a test double.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Starts a generation. Resolves when the first events have arrived, so that an earlier
    /// failure can still be reported with an HTTP status.
    fn generate(
        &self,
        request: GenerateRequest<Route>,
    ) -> impl Future<Output = Result<BackendAnswer<EventStream>, BackendError>> + Send;

    /// Computes the embedding vectors of the request's texts.
    fn embed(
        &self,
        request: EmbedRequest<Route>,
    ) -> impl Future<Output = Result<BackendAnswer<Embeddings>, BackendError>> + Send;

    /// Returns all models that `access` allows, then `auto` if there are tasks, and all tasks; both ordered by name.
    fn models(&self, access: &AccessScope) -> Vec<ModelCard>;

    /// Returns the model, task or `auto` that `target` is. `None` if there is none, or `access` does not allow it.
    fn model(&self, target: &RouteTarget, access: &AccessScope) -> Option<ModelCard>;

    /// The most time that an answer may take, from the arrival of its request.
    fn answer_timeout(&self) -> Duration;

    /// Returns whether requests can be answered.
    fn readiness(&self) -> Readiness;
}
