//! One try on one replica.

use std::time::Duration;

use flotilla_core::generate::{EmbedRequest, Embeddings, RequestError};
use flotilla_proto::status;
use flotilla_proto::v1::GenerateRequest;
use tonic::Status;

use super::relay::Relay;
use crate::fleet::{LoadGuard, Replica};

/// Asks `replica`, and resolves with its first events or with what kept them away.
pub(super) async fn generate(
    replica: &Replica,
    guard: LoadGuard,
    request: GenerateRequest,
    timeout: Duration,
) -> Result<Relay, RequestError> {
    let model = request.model.clone();
    let mut client = replica.link.client().ok_or_else(|| lost(replica))?;
    let begin = async {
        let replies = client
            .generate(request)
            .await
            .map_err(|status| failed(&status, replica, &model))?;
        Relay::begin(replies.into_inner(), guard, model.clone()).await
    };
    tokio::time::timeout(timeout, begin)
        .await
        .unwrap_or_else(|_| Err(late(timeout)))
}

/// Asks `replica` for vectors.
pub(super) async fn embed(
    replica: &Replica,
    guard: LoadGuard,
    request: &EmbedRequest,
    timeout: Duration,
) -> Result<Embeddings, RequestError> {
    let _guard = guard;
    let mut client = replica.link.client().ok_or_else(|| lost(replica))?;
    let wire = flotilla_proto::v1::EmbedRequest::from(request);
    match tokio::time::timeout(timeout, client.embed(wire)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner().into()),
        Ok(Err(status)) => Err(failed(&status, replica, request.model.as_str())),
        Err(_) => Err(late(timeout)),
    }
}

/// Nothing was sent: unlike a node that is lost while it answers, this says nothing about the
/// request.
fn lost(replica: &Replica) -> RequestError {
    RequestError::Unavailable(format!("The node '{}' is not connected.", replica.node))
}

/// What kept an answer away.
fn failed(status: &Status, replica: &Replica, model: &str) -> RequestError {
    if status::was_not_sent(status) {
        return lost(replica);
    }
    status::to_error(status, model)
}

fn late(timeout: Duration) -> RequestError {
    RequestError::Deadline(format!(
        "The answer did not begin within {} s.",
        timeout.as_secs()
    ))
}
