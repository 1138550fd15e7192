//! One try on one replica.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::energy::Spent;
use flotilla_core::generate::{EmbedRequest, Embeddings, RequestError, Usage};
use flotilla_proto::status;
use flotilla_proto::v1::GenerateRequest;
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::Stage;
use tonic::Status;

use super::relay::{self, Relay, Source};
use crate::arrival::Arrival;
use crate::fleet::{LoadGuard, Replica};

/// A replica that is asked and has not answered yet. When it is given up, what it took until then is
/// counted as the request's.
pub(super) struct Attempt<'a> {
    replica: &'a Replica,
    /// `None`: what it takes is counted by others, or it took nothing.
    guard: Option<LoadGuard>,
    arrival: Arc<Arrival>,
}

impl<'a> Attempt<'a> {
    /// Is about to ask `replica`, where the request is counted by `guard`.
    pub(super) fn new(replica: &'a Replica, guard: LoadGuard, arrival: Arc<Arrival>) -> Self {
        Self {
            replica,
            guard: Some(guard),
            arrival,
        }
    }

    /// Asks for an answer, and resolves with its first events or with what kept them away.
    pub(super) async fn generate(
        self,
        request: GenerateRequest,
        patience: Patience,
    ) -> Result<Relay, RequestError> {
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
                let guard = self.answered();
                let (node, zone) = (replica.node.clone(), replica.zone.clone());
                let source = Source {
                    model,
                    node,
                    zone,
                    forward,
                };
                return Ok(Relay::new(replies, first, guard, source));
            }
            Ok(Err(error)) => self.refused(error),
            Err(_) => self.given_up(patience.over()),
        };
        forward.failed(error.kind());
        Err(error)
    }

    /// Asks for vectors. Returns with them the energy that they took.
    pub(super) async fn embed(
        self,
        request: &EmbedRequest,
        patience: Patience,
    ) -> Result<(Embeddings, Spent), RequestError> {
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
                let mut guard = self.answered();
                let spent = guard.served(Usage {
                    prompt_tokens: embeddings.prompt_tokens,
                    energy: embeddings.energy,
                    ..Usage::default()
                });
                return Ok((embeddings, spent));
            }
            Ok(Err(status)) => self.refused(failed(&status, replica, request.model.as_str())),
            Err(_) => self.given_up(patience.over()),
        };
        forward.failed(error.kind());
        Err(error)
    }

    /// The replica answers: what that takes is counted with its end.
    fn answered(mut self) -> LoadGuard {
        // It is taken where the attempt ends, which each of these ways does by value.
        self.guard.take().expect("an attempt ends once")
    }

    /// The replica said no, which took nothing, or it failed.
    fn refused(mut self, error: RequestError) -> RequestError {
        if error.blames_the_replica() {
            return self.given_up(error);
        }
        if let Some(mut guard) = self.guard.take() {
            guard.failed(&error);
        }
        error
    }

    /// It did not answer.
    fn given_up(mut self, error: RequestError) -> RequestError {
        if let Some(guard) = &mut self.guard {
            guard.failed(&error);
        }
        error
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            let (node, zone) = (&self.replica.node, self.replica.zone.as_ref());
            self.arrival.spends(node, zone, guard.spent());
        }
    }
}

/// What a call to a replica is traced as.
fn forward(replica: &Replica, method: &'static str) -> Stage {
    let forward = Stage::call(|| span::FORWARD.to_owned());
    if forward.is_recorded() {
        forward.set("rpc.system.name", "grpc");
        forward.set("rpc.method", format!("flotilla.v1.Inference/{method}"));
        forward.set(attr::NODE, replica.node.to_string());
    }
    forward
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

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) left: Duration,
    /// Whether the request itself sets that deadline: that it is missed speaks against nobody.
    pub(super) own: bool,
}

impl Patience {
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
