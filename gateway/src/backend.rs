//! What answers requests: the controller's dispatch or a node by itself.

use std::future::Future;
use std::pin::Pin;

use flotilla_core::generate::{EmbedRequest, Embeddings, Event, GenerateRequest, RequestError};
use flotilla_core::{ModelName, NodeName};
use futures::Stream;

/// Events of a generation, in the groups in which they arrived. Dropping it stops the
/// generation.
pub type Batches = Pin<Box<dyn Stream<Item = Result<Vec<Event>, RequestError>> + Send>>;

/// An answer and who gives it.
pub struct Answer<T> {
    pub by: Server,
    pub content: T,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub node: NodeName,
    /// Replicas that were asked, the one that answers included.
    pub attempts: u32,
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
        request: GenerateRequest,
    ) -> impl Future<Output = Result<Answer<Batches>, RequestError>> + Send;

    /// Turns texts into vectors.
    fn embed(
        &self,
        request: EmbedRequest,
    ) -> impl Future<Output = Result<Answer<Embeddings>, RequestError>> + Send;

    /// All models, in order of their names.
    fn models(&self) -> Vec<ModelCard>;

    /// The model of this name.
    fn model(&self, name: &str) -> Option<ModelCard>;

    /// Whether requests can be answered.
    fn readiness(&self) -> Readiness;
}
