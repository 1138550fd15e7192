//! One attempt to have one replica answer.

use std::future::Future;
use std::time::Instant;

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{EmbedRequest, Embeddings, RequestError, Usage};
use flotilla_proto::v1::{self, GenerateRequest};
use flotilla_proto::{answer_messages, status};
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;
use futures::StreamExt;
use tokio::time::timeout_at;

use crate::answer_stream::{AnswerSource, AnswerStream};
use crate::time_limit::AttemptLimits;
use crate::transport::MessageStream;
use crate::usage_guard::UsageGuard;
use crate::{ReplicaView, TransportError};

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct AttemptError {
    pub(crate) error: RequestError,
    pub(crate) reached: NodeReached,
    /// What the node has computed for it nevertheless. `None`: nothing, or the node cannot say.
    pub(crate) energy: Option<EnergyUsage>,
}

/// How far a request that failed came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeReached {
    /// Nothing of it was sent.
    No,
    /// The connection was lost while the request was under way, with all others on it: a line that breaks, a
    /// machine that stops. The request is not the reason.
    ConnectionLost,
    /// The node has answered with the error, or not in time.
    Answered,
}

impl From<RequestError> for AttemptError {
    fn from(error: RequestError) -> Self {
        Self {
            error,
            reached: NodeReached::Answered,
            energy: None,
        }
    }
}

/// One attempt on a replica, accounted for by a usage guard.
pub(crate) struct Attempt<'a> {
    pub(crate) replica: &'a ReplicaView,
    pub(crate) usage: UsageGuard,
}

impl Attempt<'_> {
    /// Sends a generation request, and resolves when the first events of the answer have arrived. An answer
    /// that is not streamed arrives as a whole.
    ///
    /// # Errors
    /// Why the attempt failed.
    pub(crate) async fn generate(
        mut self,
        request: GenerateRequest,
        limits: AttemptLimits,
    ) -> Result<AnswerStream, AttemptError> {
        let model = request.model.clone();
        let span = forward_span(self.replica, "Generate");
        let mut call = tonic::Request::new(request);
        span.inject_headers(call.metadata_mut().as_mut());
        let call = self.replica.transport.generate(call);
        let is_empty = |response: &v1::GenerateResponse| response.events.is_empty();
        let begun = self.first_message(call, is_empty, &model, limits).await;
        let begun = begun.and_then(|(responses, first)| {
            let first = answer_messages::events(first);
            let first = first.inspect_err(|error| self.usage.record_failure(error));
            Ok((responses, first?))
        });
        match begun {
            Ok((responses, first)) => {
                let source = AnswerSource { model, span };
                Ok(AnswerStream::new(responses, first, self.usage, source))
            }
            Err(failed) => {
                span.record_error(failed.error.kind());
                Err(failed)
            }
        }
    }

    /// Sends an embedding request, and resolves with the vectors.
    ///
    /// # Errors
    /// Why the attempt failed.
    pub(crate) async fn embed(
        mut self,
        request: &EmbedRequest,
        limits: AttemptLimits,
    ) -> Result<Embeddings, AttemptError> {
        let model = request.model.as_str();
        let span = forward_span(self.replica, "Embed");
        let mut call = tonic::Request::new(v1::EmbedRequest::from(request));
        span.inject_headers(call.metadata_mut().as_mut());
        let call = self.replica.transport.embed(call);
        let is_empty = |response: &v1::EmbedResponse| response.vectors.is_empty();
        match self.first_message(call, is_empty, model, limits).await {
            Ok((_, response)) => {
                let embeddings: Embeddings = response.into();
                self.usage.record_answer(Usage {
                    prompt_tokens: embeddings.prompt_tokens,
                    energy: embeddings.energy,
                    ..Usage::default()
                });
                Ok(embeddings)
            }
            Err(failed) => {
                span.record_error(failed.error.kind());
                Err(failed)
            }
        }
    }

    /// Makes a call to the replica, and returns its first message that is not empty, and those after it. An
    /// empty message before it says that the replica has begun to compute the answer. An error is accounted
    /// for.
    async fn first_message<M>(
        &mut self,
        call: impl Future<Output = Result<MessageStream<M>, TransportError>>,
        is_empty: impl Fn(&M) -> bool,
        model: &str,
        limits: AttemptLimits,
    ) -> Result<(MessageStream<M>, M), AttemptError> {
        let replica = self.replica;
        let began = Instant::now();
        let begin = async {
            let messages = call.await;
            let mut messages = messages.map_err(|error| attempt_error(error, replica, model))?;
            let first = read_message(&mut messages, model).await?;
            Ok::<_, AttemptError>((messages, first))
        };
        let (mut messages, first) = match timeout_at(limits.begin_at.into(), begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(failed)) => return Err(self.record_refusal(failed)),
            Err(_) => return Err(self.record_failure(limits.begin_error(began)).into()),
        };
        if !is_empty(&first) {
            return Ok((messages, first));
        }
        self.usage.record_computing();
        let next = read_message(&mut messages, model);
        match timeout_at(limits.answer.at.into(), next).await {
            Ok(Ok(next)) => Ok((messages, next)),
            Ok(Err(failed)) => Err(self.record_refusal(failed)),
            Err(_) => Err(self.record_failure(limits.answer.error()).into()),
        }
    }

    /// Accounts for an error of the replica or of the connection to it.
    fn record_refusal(&mut self, failed: AttemptError) -> AttemptError {
        if let Some(energy) = failed.energy {
            self.usage.count_reported_energy(energy);
        }
        if failed.error.is_replica_fault() {
            self.usage.record_failure(&failed.error);
        } else {
            self.usage.record_refusal(&failed.error);
        }
        failed
    }

    fn record_failure(&mut self, error: RequestError) -> RequestError {
        self.usage.record_failure(&error);
        error
    }
}

/// Reads the next message of an answer that is not complete.
async fn read_message<M>(messages: &mut MessageStream<M>, model: &str) -> Result<M, AttemptError> {
    match messages.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(status)) => Err(status_error(&status, model)),
        None => {
            Err(RequestError::NodeLost("the node ended the answer before it began".into()).into())
        }
    }
}

fn status_error(status: &tonic::Status, model: &str) -> AttemptError {
    AttemptError {
        error: status::to_error(status, model),
        reached: if status::is_connection_error(status) {
            NodeReached::ConnectionLost
        } else {
            NodeReached::Answered
        },
        energy: status::energy(status),
    }
}

/// The span of a call to a replica.
fn forward_span(replica: &ReplicaView, method: &'static str) -> RequestSpan {
    let span = RequestSpan::client_call(|| span::FORWARD.to_owned());
    if span.is_recording() {
        span.set_attribute("rpc.system.name", "grpc");
        span.set_attribute("rpc.method", format!("flotilla.v1.Inference/{method}"));
        span.set_attribute(attr::NODE, replica.node.to_string());
    }
    span
}

/// Converts a transport error. A node that was not connected never received the request, unlike a node
/// that is lost during an answer.
fn attempt_error(error: TransportError, replica: &ReplicaView, model: &str) -> AttemptError {
    match error {
        TransportError::NotConnected => AttemptError {
            error: RequestError::unavailable(format!(
                "The node '{}' is not connected.",
                replica.node
            )),
            reached: NodeReached::No,
            energy: None,
        },
        TransportError::Status(status) => status_error(&status, model),
    }
}
