//! One try on one replica.

use std::time::Duration;

use flotilla_core::generate::{EmbedRequest, Embeddings, RequestError, Usage};
use flotilla_proto::status;
use flotilla_proto::v1::GenerateRequest;
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;
use tonic::Status;

use super::charge::UsageGuard;
use super::relay::{self, AnswerSource, AnswerStream};
use crate::fleet::ReplicaView;

/// A replica that is asked, where the request is counted by a charge.
pub(super) struct Attempt<'a> {
    pub(super) replica: &'a ReplicaView,
    pub(super) charge: UsageGuard,
}

impl Attempt<'_> {
    /// Asks for an answer, and resolves with its first events or with what kept them away.
    pub(super) async fn generate(
        mut self,
        request: GenerateRequest,
        patience: AttemptTimeout,
    ) -> Result<AnswerStream, RequestError> {
        let replica = self.replica;
        let model = request.model.clone();
        let forward = forward(replica, "Generate");
        let Some(mut client) = replica.link.client() else {
            return Err(self.refused(lost(replica)));
        };
        let begin = async {
            let mut call = tonic::Request::new(request);
            forward.inject(call.metadata_mut().as_mut());
            let replies = client
                .generate(call)
                .await
                .map_err(|status| failed(&status, replica, &model))?;
            let mut replies = replies.into_inner();
            let first = relay::first(&mut replies, &model).await?;
            Ok((replies, first))
        };
        let error = match tokio::time::timeout(patience.left, begin).await {
            Ok(Ok((replies, first))) => {
                let source = AnswerSource { model, forward };
                return Ok(AnswerStream::new(replies, first, self.charge, source));
            }
            Ok(Err(error)) => self.refused(error),
            Err(_) => self.failed(patience.over()),
        };
        forward.failed(error.kind());
        Err(error)
    }

    /// Asks for vectors.
    pub(super) async fn embed(
        mut self,
        request: &EmbedRequest,
        patience: AttemptTimeout,
    ) -> Result<Embeddings, RequestError> {
        let replica = self.replica;
        let Some(mut client) = replica.link.client() else {
            return Err(self.refused(lost(replica)));
        };
        let forward = forward(replica, "Embed");
        let mut call = tonic::Request::new(flotilla_proto::v1::EmbedRequest::from(request));
        forward.inject(call.metadata_mut().as_mut());
        let error = match tokio::time::timeout(patience.left, client.embed(call)).await {
            Ok(Ok(reply)) => {
                let embeddings: Embeddings = reply.into_inner().into();
                self.charge.served(Usage {
                    prompt_tokens: embeddings.prompt_tokens,
                    energy: embeddings.energy,
                    ..Usage::default()
                });
                return Ok(embeddings);
            }
            Ok(Err(status)) => self.refused(failed(&status, replica, request.model.as_str())),
            Err(_) => self.failed(patience.over()),
        };
        forward.failed(error.kind());
        Err(error)
    }

    /// The replica said no, or it failed.
    fn refused(&mut self, error: RequestError) -> RequestError {
        if error.blames_the_replica() {
            return self.failed(error);
        }
        self.charge.refused(&error);
        error
    }

    fn failed(&mut self, error: RequestError) -> RequestError {
        self.charge.failed(&error);
        error
    }
}

/// What a call to a replica is traced as.
fn forward(replica: &ReplicaView, method: &'static str) -> RequestSpan {
    let forward = RequestSpan::call(|| span::FORWARD.to_owned());
    if forward.is_recorded() {
        forward.set("rpc.system.name", "grpc");
        forward.set("rpc.method", format!("flotilla.v1.Inference/{method}"));
        forward.set(attr::NODE, replica.node.to_string());
    }
    forward
}

/// Nothing was sent: unlike a node that is lost while it answers, this says nothing about the
/// request.
fn lost(replica: &ReplicaView) -> RequestError {
    RequestError::Unavailable(format!("The node '{}' is not connected.", replica.node))
}

/// What kept an answer away.
fn failed(status: &Status, replica: &ReplicaView, model: &str) -> RequestError {
    if status::was_not_sent(status) {
        return lost(replica);
    }
    status::to_error(status, model)
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptTimeout {
    pub(super) left: Duration,
    /// Whether the request itself sets that deadline: that it is missed speaks against nobody.
    pub(super) own: bool,
}

impl AttemptTimeout {
    fn over(self) -> RequestError {
        let waited = self.left.as_secs_f32();
        let told = format!("The answer did not begin within {waited:.3} s.");
        if self.own {
            RequestError::TooLate(told)
        } else {
            RequestError::Deadline(told)
        }
    }
}
