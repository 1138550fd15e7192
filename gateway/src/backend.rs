//! What answers requests: the controller's dispatch or a node by itself.

use std::future::Future;
use std::pin::Pin;

use flotilla_core::generate::{
    EmbedRequest, Embeddings, GenerateEvent, GenerateRequest, RequestError, Route,
};
use flotilla_core::{ModelName, NodeName, TaskName};
use futures::Stream;

use crate::ApiError;

/// Events of a generation, in the groups in which they arrived. Dropping it stops the
/// generation.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Vec<GenerateEvent>, RequestError>> + Send>>;

/// An answer and who gives it.
pub struct BackendAnswer<T> {
    pub served_by: ServedBy,
    pub content: T,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedBy {
    pub model: ModelName,
    /// The task that the model was chosen for, if it was.
    pub task: Option<TaskName>,
    pub node: NodeName,
    /// Replicas that were asked, the one that answers included.
    pub attempts: u32,
    /// Under which name the decision is on record.
    pub decision_id: String,
}

impl ServedBy {
    /// What the client is told where the answer broke off, with the prompt in `field`.
    pub(crate) fn failed(&self, error: RequestError, field: &str) -> ApiError {
        let decision = Some(self.decision_id.clone());
        ApiError::prompt_in(field)(BackendError {
            error,
            decision_id: decision,
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendError {
    pub error: RequestError,
    /// Under which name the decision is on record, if one was made.
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

/// A model as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    pub name: ModelName,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
}

/// Whether requests can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// What is missing, or what works only in part.
    pub notes: Vec<String>,
}

/// What answers requests.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Begins an answer. Resolves once its first events are there, so that whatever fails
    /// before can still be told with a status.
    fn generate(
        &self,
        request: GenerateRequest<Route>,
    ) -> impl Future<Output = Result<BackendAnswer<EventStream>, BackendError>> + Send;

    /// Turns texts into vectors.
    fn embed(
        &self,
        request: EmbedRequest<Route>,
    ) -> impl Future<Output = Result<BackendAnswer<Embeddings>, BackendError>> + Send;

    /// All models, in order of their names.
    fn models(&self) -> Vec<ModelCard>;

    /// The model of this name.
    fn model(&self, name: &str) -> Option<ModelCard>;

    /// Whether requests can be answered.
    fn readiness(&self) -> Readiness;
}
