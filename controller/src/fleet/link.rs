//! The session of a node and its reverse connections, on which the controller is the client.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use flotilla_core::spec::Sha256Digest;
use flotilla_core::{ModelName, NodeName};
use flotilla_dispatch::{MessageStream, ReplicaTransport, ResponseStream, TransportError};
use flotilla_proto::status;
use flotilla_proto::transport::{self, LinkChannel};
use flotilla_proto::v1::inference_client::InferenceClient;
use flotilla_proto::v1::{EmbedRequest, EmbedResponse, FetchBlobRequest, GenerateRequest};
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::LinkRecord;

/// The largest message on a link, in bytes: more than the largest request body, and enough for
/// the vectors of many embeddings.
const MAX_MESSAGE: usize = 256 << 20;

/// Identifies a session of a node. A node that joins again gets a new session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub Arc<str>);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A session of a node, and the reverse connections that belong to it.
pub struct NodeLink {
    /// The id of the session.
    pub session: SessionId,
    /// The node.
    pub node: NodeName,
    /// The process on the node, and where it dialled from.
    pub peer: LinkRecord,
    /// Cancelled when the session ends; ends everything that belongs to it.
    pub closed: CancellationToken,
    /// Cancelled once the sync stream is open.
    pub synced: CancellationToken,
    /// The models that are left out of the node's desired state, which would be too large with them.
    left_out: ArcSwap<Vec<String>>,
    channels: ArcSwap<Vec<LinkChannel>>,
    next: AtomicUsize,
}

impl NodeLink {
    /// Creates a session without connections.
    #[must_use]
    pub fn new(
        node: NodeName,
        session: SessionId,
        peer: LinkRecord,
        closed: CancellationToken,
    ) -> Self {
        Self {
            session,
            node,
            peer,
            closed,
            synced: CancellationToken::new(),
            left_out: ArcSwap::default(),
            channels: ArcSwap::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// Notes which models are left out of the node's desired state. Returns whether they are others than
    /// before.
    pub fn set_left_out(&self, models: Vec<String>) -> bool {
        let before = self.left_out.swap(Arc::new(models.clone()));
        *before != models
    }

    /// Returns whether a model is left out of the node's desired state.
    #[must_use]
    pub fn leaves_out(&self, model: &ModelName) -> bool {
        self.left_out
            .load()
            .iter()
            .any(|name| name == model.as_str())
    }

    /// Adds a connection, and removes the closed ones.
    pub fn add(&self, channel: &LinkChannel) {
        self.channels.rcu(|channels| {
            let open = channels.iter().filter(|channel| !channel.is_closed());
            open.chain([channel]).cloned().collect::<Vec<_>>()
        });
    }

    /// Removes the closed connections.
    pub fn sweep(&self) {
        self.channels.rcu(|channels| {
            let open = channels.iter().filter(|channel| !channel.is_closed());
            open.cloned().collect::<Vec<_>>()
        });
    }

    /// Returns whether a request can be sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.closed.is_cancelled() && self.channels.load().iter().any(|c| !c.is_closed())
    }

    /// Returns a client on the next open connection, round robin. `None` if none is open.
    #[must_use]
    pub fn client(&self) -> Option<InferenceClient<LinkChannel>> {
        let channels = self.channels.load();
        let channel = match channels.len() {
            0 => return None,
            1 => &channels[0],
            n => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                (0..n)
                    .map(|i| &channels[(turn + i) % n])
                    .find(|channel| !channel.is_closed())?
            }
        };
        let client = InferenceClient::with_origin(channel.clone(), transport::origin());
        Some(client.max_decoding_message_size(MAX_MESSAGE))
    }
}

/// The longest wait until a node begins to send a file.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

impl NodeLink {
    /// Reads a model file that the node has.
    ///
    /// # Errors
    /// `NOT_FOUND` when the node does not have it; `UNAVAILABLE` without a connection.
    pub async fn fetch_blob(
        &self,
        sha256: Sha256Digest,
    ) -> Result<impl Stream<Item = Result<Bytes, String>> + Send + use<>, tonic::Status> {
        let client = self.client();
        let mut client = client.ok_or_else(|| tonic::Status::unavailable("not connected"))?;
        let request = FetchBlobRequest {
            sha256: sha256.to_string(),
            offset: 0,
        };
        let response = tokio::time::timeout(FETCH_TIMEOUT, client.fetch_blob(request)).await;
        let response = response.map_err(|_| tonic::Status::unavailable("it does not answer"))?;
        let chunks = response?.into_inner();
        Ok(chunks.map(|chunk| match chunk {
            Ok(chunk) => Ok(chunk.data),
            Err(status) => Err(status.message().to_owned()),
        }))
    }
}

#[async_trait]
impl ReplicaTransport for NodeLink {
    async fn generate(
        &self,
        request: tonic::Request<GenerateRequest>,
    ) -> Result<ResponseStream, TransportError> {
        let mut client = self.client().ok_or(TransportError::NotConnected)?;
        let response = client.generate(request).await.map_err(transport_error)?;
        Ok(Box::pin(response.into_inner()))
    }

    async fn embed(
        &self,
        request: tonic::Request<EmbedRequest>,
    ) -> Result<MessageStream<EmbedResponse>, TransportError> {
        let mut client = self.client().ok_or(TransportError::NotConnected)?;
        let response = client.embed(request).await.map_err(transport_error)?;
        Ok(Box::pin(response.into_inner()))
    }
}

/// Distinguishes a request that was never sent from one that the node or the connection failed.
fn transport_error(status: tonic::Status) -> TransportError {
    if status::was_not_sent(&status) {
        TransportError::NotConnected
    } else {
        TransportError::Status(status)
    }
}

impl fmt::Debug for NodeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLink")
            .field("node", &self.node)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
