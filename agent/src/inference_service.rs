//! The gRPC service `Inference`: what controllers ask of this node's models.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::admission::QueueKey;
use flotilla_core::generate::{
    ChoiceDelta, EmbedRequest, GenerateEvent, GenerateRequest, RequestError,
};
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::status;
use flotilla_proto::v1;
use flotilla_proto::v1::inference_server::Inference;
use flotilla_telemetry::Telemetry;
use flotilla_telemetry::names::{PROVIDER, attr, span};
use flotilla_telemetry::prometheus::PrometheusRegistry;
use flotilla_telemetry::trace::{RequestSpan, Tracer};
use futures::{Stream, StreamExt, stream};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::models::{AdmittedRequest, ServedModel, ServingTable};

/// Events that go into one message when they are ready together.
const BATCH: usize = 64;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InferenceService {
    table: ServingTable,
    tracer: Tracer,
    exposition: PrometheusRegistry,
    node: NodeName,
}

impl InferenceService {
    pub(crate) fn new(table: ServingTable, telemetry: &Telemetry, node: NodeName) -> Self {
        Self {
            table,
            tracer: telemetry.tracer(),
            exposition: telemetry.prometheus(),
            node,
        }
    }

    /// What a call is traced as, if its caller's trace is sampled.
    fn traced(&self, metadata: &MetadataMap, operation: &'static str, model: &str) -> RequestSpan {
        let call = self
            .tracer
            .continue_remote(metadata.as_ref(), || format!("{operation} {model}"));
        if call.is_recording() {
            call.set_attribute(attr::OPERATION, operation);
            call.set_attribute(attr::PROVIDER, PROVIDER);
            call.set_attribute(attr::REQUEST_MODEL, model.to_owned());
            call.set_attribute(attr::RESPONSE_MODEL, model.to_owned());
            call.set_attribute(attr::NODE, self.node.to_string());
        }
        call
    }

    fn find(&self, name: &ModelName) -> Result<Arc<ServedModel>, RequestError> {
        self.table.get(name).ok_or_else(|| {
            RequestError::Unavailable(format!("the model '{name}' is not ready on this node"))
        })
    }

    async fn begin(
        &self,
        request: GenerateRequest,
        call: RequestSpan,
    ) -> Result<impl Stream<Item = Result<GenerateEvent, RequestError>> + Send + use<>, RequestError>
    {
        let begin = async {
            let hosted = self.find(&request.model)?;
            let ticket = enter(&hosted, request.queue_key, request.deadline).await?;
            match hosted.model.generate(request).await {
                Ok(events) => Ok((ticket, events)),
                Err(error) => Err(fail(ticket, error)),
            }
        };
        match call.instrument(begin).await {
            Ok((ticket, events)) => Ok(ticket.track(events, call)),
            Err(error) => {
                call.record_error(error.kind());
                Err(error)
            }
        }
    }
}

/// Waits for a request's turn.
async fn enter(
    hosted: &Arc<ServedModel>,
    queue_key: QueueKey,
    deadline: Option<Duration>,
) -> Result<AdmittedRequest, RequestError> {
    let _queue = RequestSpan::child_of_current(span::QUEUE);
    hosted.clone().admit(queue_key, deadline).await
}

fn fail(ticket: AdmittedRequest, error: RequestError) -> RequestError {
    ticket.fail();
    error
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<v1::GenerateResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        let request = GenerateRequest::try_from(message)?;
        let live = request.stream;
        let call = self.traced(
            &metadata,
            request.input.operation_name(),
            request.model.as_str(),
        );
        let events = self.begin(request, call).await;
        let events = events.map_err(status::from_error)?;
        let replies = if live {
            let mut batches = Box::pin(events.ready_chunks(BATCH).map(reply));
            // Waiting for the first events here lets them go out with the headers, and a
            // failure before them be a plain status.
            let first = batches
                .next()
                .await
                .unwrap_or_else(|| Ok(v1::GenerateResponse::default()))?;
            stream::iter([Ok(first)]).chain(batches).boxed()
        } else {
            let whole = gather(events).await.map_err(status::from_error)?;
            stream::iter([Ok(whole)]).boxed()
        };
        Ok(Response::new(replies))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let request = EmbedRequest::try_from(message)?;
        let call = self.traced(&metadata, "embeddings", request.model.as_str());
        let embed = async {
            let hosted = self.find(&request.model)?;
            let ticket = enter(&hosted, request.queue_key, request.deadline).await?;
            match hosted.model.embed(request).await {
                Ok(mut embeddings) => {
                    embeddings.energy = Some(ticket.complete(embeddings.prompt_tokens));
                    Ok(embeddings)
                }
                Err(error) => Err(fail(ticket, error)),
            }
        };
        match call.instrument(embed).await {
            Ok(embeddings) => {
                call.set_attribute(attr::INPUT_TOKENS, i64::from(embeddings.prompt_tokens));
                Ok(Response::new(embeddings.into()))
            }
            Err(error) => {
                call.record_error(error.kind());
                Err(status::from_error(error))
            }
        }
    }

    async fn metrics(
        &self,
        _request: Request<v1::MetricsRequest>,
    ) -> Result<Response<v1::MetricsResponse>, Status> {
        let families = self.exposition.encode_protobuf();
        Ok(Response::new(v1::MetricsResponse {
            metric_families: families,
        }))
    }
}

/// Events that were ready together, as one message. An error ends the answer: pieces that
/// were ready together with it are given up with it.
fn reply(batch: Vec<Result<GenerateEvent, RequestError>>) -> Result<v1::GenerateResponse, Status> {
    let mut events = Vec::with_capacity(batch.len());
    for event in batch {
        events.push(event.map_err(status::from_error)?.into());
    }
    Ok(v1::GenerateResponse { events })
}

/// A whole answer as one message, each choice's pieces joined.
async fn gather(
    events: impl Stream<Item = Result<GenerateEvent, RequestError>>,
) -> Result<v1::GenerateResponse, RequestError> {
    let mut events = std::pin::pin!(events);
    let mut deltas: Vec<ChoiceDelta> = Vec::new();
    let mut ends = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Delta(delta) => {
                match deltas.iter_mut().find(|d| d.choice == delta.choice) {
                    Some(joined) => join(joined, delta),
                    None => deltas.push(delta),
                }
            }
            end => ends.push(end),
        }
    }
    let deltas = deltas.into_iter().map(GenerateEvent::Delta);
    Ok(v1::GenerateResponse {
        events: deltas.chain(ends).map(Into::into).collect(),
    })
}

fn join(joined: &mut ChoiceDelta, delta: ChoiceDelta) {
    joined.content.push_str(&delta.content);
    joined.reasoning.push_str(&delta.reasoning);
    joined.tool_calls.extend(delta.tool_calls);
    joined.logprobs.extend(delta.logprobs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::Usage;

    fn delta(choice: u32, content: &str) -> Result<GenerateEvent, RequestError> {
        Ok(GenerateEvent::Delta(ChoiceDelta {
            choice,
            content: content.into(),
            ..ChoiceDelta::default()
        }))
    }

    #[tokio::test]
    async fn pieces_are_joined_per_choice() {
        let usage = GenerateEvent::Usage(Usage::default());
        let events = [delta(0, "a"), delta(1, "x"), delta(0, "b"), Ok(usage)];
        let reply = gather(stream::iter(events)).await.unwrap();
        assert_eq!(reply.events.len(), 3);
        let Some(v1::generate_event::Event::Delta(first)) = &reply.events[0].event else {
            panic!("no delta");
        };
        assert_eq!(first.content, "ab");
    }

    #[tokio::test]
    async fn an_error_is_the_answer_wherever_it_comes() {
        let events = [delta(0, "a"), Err(RequestError::Engine("broken".into()))];
        assert!(gather(stream::iter(events)).await.is_err());
    }
}
