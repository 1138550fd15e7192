//! One attempt to have one replica answer.

use std::time::Duration;

use flotilla_core::generate::{EmbedRequest, Embeddings, RequestError, Usage};
use flotilla_proto::status;
use flotilla_proto::v1::{self, GenerateRequest};
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;

use crate::answer_stream::{self, AnswerSource, AnswerStream};
use crate::usage_guard::UsageGuard;
use crate::{ReplicaView, TransportError};

/// One attempt on a replica, accounted for by a usage guard.
pub(crate) struct Attempt<'a> {
    pub(crate) replica: &'a ReplicaView,
    pub(crate) usage: UsageGuard,
}

impl Attempt<'_> {
    /// Sends a generation request, and resolves when the first events of the answer have arrived.
    ///
    /// # Errors
    /// Why the attempt failed.
    pub(crate) async fn generate(
        mut self,
        request: GenerateRequest,
        timeout: AttemptTimeout,
    ) -> Result<AnswerStream, RequestError> {
        let replica = self.replica;
        let model = request.model.clone();
        let span = forward_span(replica, "Generate");
        let begin = async {
            let mut call = tonic::Request::new(request);
            span.inject_headers(call.metadata_mut().as_mut());
            let responses = replica.transport.generate(call).await;
            let mut responses = responses.map_err(|error| request_error(error, replica, &model))?;
            let first = answer_stream::read_first_events(&mut responses, &model).await?;
            Ok((responses, first))
        };
        let error = match tokio::time::timeout(timeout.remaining, begin).await {
            Ok(Ok((responses, first))) => {
                let source = AnswerSource { model, span };
                return Ok(AnswerStream::new(responses, first, self.usage, source));
            }
            Ok(Err(error)) => self.record_refusal(error),
            Err(_) => self.record_failure(timeout.error()),
        };
        span.record_error(error.kind());
        Err(error)
    }

    /// Sends an embedding request, and resolves with the vectors.
    ///
    /// # Errors
    /// Why the attempt failed.
    pub(crate) async fn embed(
        mut self,
        request: &EmbedRequest,
        timeout: AttemptTimeout,
    ) -> Result<Embeddings, RequestError> {
        let replica = self.replica;
        let span = forward_span(replica, "Embed");
        let mut call = tonic::Request::new(v1::EmbedRequest::from(request));
        span.inject_headers(call.metadata_mut().as_mut());
        let answer = tokio::time::timeout(timeout.remaining, replica.transport.embed(call)).await;
        let error = match answer {
            Ok(Ok(response)) => {
                let embeddings: Embeddings = response.into();
                self.usage.record_answer(Usage {
                    prompt_tokens: embeddings.prompt_tokens,
                    energy: embeddings.energy,
                    ..Usage::default()
                });
                return Ok(embeddings);
            }
            Ok(Err(error)) => {
                self.record_refusal(request_error(error, replica, request.model.as_str()))
            }
            Err(_) => self.record_failure(timeout.error()),
        };
        span.record_error(error.kind());
        Err(error)
    }

    /// Accounts for an error of the replica or of the connection to it.
    fn record_refusal(&mut self, error: RequestError) -> RequestError {
        if error.is_replica_fault() {
            return self.record_failure(error);
        }
        self.usage.record_refusal(&error);
        error
    }

    fn record_failure(&mut self, error: RequestError) -> RequestError {
        self.usage.record_failure(&error);
        error
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
/// that is lost during an answer: the request can be retried without a limit.
fn request_error(error: TransportError, replica: &ReplicaView, model: &str) -> RequestError {
    match error {
        TransportError::NotConnected => {
            RequestError::unavailable(format!("The node '{}' is not connected.", replica.node))
        }
        TransportError::Status(status) => status::to_error(&status, model),
    }
}

/// How long an attempt may take until its first events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptTimeout {
    pub(crate) remaining: Duration,
    /// Whether the request's own deadline sets the limit: then missing it is not the replica's fault.
    pub(crate) own_deadline: bool,
}

impl AttemptTimeout {
    /// The error of an attempt that took longer.
    fn error(self) -> RequestError {
        let waited = self.remaining.as_secs_f32();
        let message = format!("The answer did not begin within {waited:.3} s.");
        if self.own_deadline {
            RequestError::DeadlineUnmet(message)
        } else {
            RequestError::Timeout(message)
        }
    }
}
