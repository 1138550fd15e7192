//! How a request reaches a replica.

use std::fmt;
use std::pin::Pin;

use async_trait::async_trait;
use flotilla_proto::v1::{EmbedRequest, EmbedResponse, GenerateRequest, GenerateResponse};
use futures::Stream;
use tonic::{Request, Status};

/// The messages of one answer. Dropping the stream stops its computation.
pub type MessageStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The messages of a generated answer.
pub type ResponseStream = MessageStream<GenerateResponse>;

/// The error of a request to a node before the first message of its answer.
#[derive(Debug)]
pub enum TransportError {
    /// Nothing was sent, because the node is not connected.
    NotConnected,
    /// The node, or the connection to it, answered with a status.
    Status(Status),
}

/// Sends requests to the node of one replica.
#[async_trait]
pub trait ReplicaTransport: fmt::Debug + Send + Sync {
    /// Sends a generation request, and resolves when the node has accepted it.
    ///
    /// # Errors
    /// The status of the node, or that the request could not be sent.
    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<ResponseStream, TransportError>;

    /// Sends an embedding request, and resolves when the node has accepted it.
    ///
    /// # Errors
    /// The status of the node, or that the request could not be sent.
    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<MessageStream<EmbedResponse>, TransportError>;
}
