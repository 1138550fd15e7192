//! The gRPC service `Inference`, through which controllers send requests to this node's models.

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

/// Largest number of events in one message; events that are ready together are batched.
const MAX_BATCH: usize = 64;

/// The service, shared by all reverse connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InferenceService {
    table: ServingTable,
    tracer: Tracer,
    registry: PrometheusRegistry,
    node: NodeName,
}

impl InferenceService {
    pub(crate) fn new(table: ServingTable, telemetry: &Telemetry, node: NodeName) -> Self {
        Self {
            table,
            tracer: telemetry.tracer(),
            registry: telemetry.prometheus(),
            node,
        }
    }

    /// Starts the span of a call, as a child of the span in its metadata. It records only if the
    /// caller's trace is sampled.
    fn start_span(
        &self,
        metadata: &MetadataMap,
        operation: &'static str,
        model: &str,
    ) -> RequestSpan {
        let span = self
            .tracer
            .continue_remote(metadata.as_ref(), || format!("{operation} {model}"));
        if span.is_recording() {
            span.set_attribute(attr::OPERATION, operation);
            span.set_attribute(attr::PROVIDER, PROVIDER);
            span.set_attribute(attr::REQUEST_MODEL, model.to_owned());
            span.set_attribute(attr::RESPONSE_MODEL, model.to_owned());
            span.set_attribute(attr::NODE, self.node.to_string());
        }
        span
    }

    /// Finds a model that accepts requests.
    fn find_model(&self, name: &ModelName) -> Result<Arc<ServedModel>, RequestError> {
        self.table.get(name).ok_or_else(|| {
            RequestError::unavailable(format!("the model '{name}' is not ready on this node"))
        })
    }

    /// Admits a request and starts its computation. `span` ends with the events.
    async fn start(
        &self,
        request: GenerateRequest,
        span: RequestSpan,
    ) -> Result<impl Stream<Item = Result<GenerateEvent, RequestError>> + Send + use<>, RequestError>
    {
        let start = async {
            let served = self.find_model(&request.model)?;
            let admitted = admit(&served, request.queue_key, request.deadline).await?;
            match served.model.generate(request).await {
                Ok(events) => Ok((admitted, events)),
                Err(error) => Err(fail(admitted, error)),
            }
        };
        match span.instrument(start).await {
            Ok((admitted, events)) => Ok(admitted.track(events, span)),
            Err(error) => {
                span.record_error(error.kind());
                Err(error)
            }
        }
    }
}

/// Waits until the model admits a request, in a span of its own.
async fn admit(
    model: &Arc<ServedModel>,
    queue_key: QueueKey,
    deadline: Option<Duration>,
) -> Result<AdmittedRequest, RequestError> {
    let _queue_span = RequestSpan::child_of_current(span::QUEUE);
    model.clone().admit(queue_key, deadline).await
}

/// Counts the request as failed and passes the error on.
fn fail(admitted: AdmittedRequest, error: RequestError) -> RequestError {
    admitted.fail();
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
        let is_streaming = request.stream;
        let span = self.start_span(
            &metadata,
            request.input.operation_name(),
            request.model.as_str(),
        );
        let events = self.start(request, span).await;
        let events = events.map_err(status::from_error)?;
        let responses = if is_streaming {
            let mut batches = Box::pin(events.ready_chunks(MAX_BATCH).map(batch_response));
            // With the first events at hand they are sent together with the headers, and a failure
            // before them becomes a plain status.
            let first = batches
                .next()
                .await
                .unwrap_or_else(|| Ok(v1::GenerateResponse::default()))?;
            stream::iter([Ok(first)]).chain(batches).boxed()
        } else {
            let response = collect_response(events).await.map_err(status::from_error)?;
            stream::iter([Ok(response)]).boxed()
        };
        Ok(Response::new(responses))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let request = EmbedRequest::try_from(message)?;
        let span = self.start_span(&metadata, "embeddings", request.model.as_str());
        let embed = async {
            let served = self.find_model(&request.model)?;
            let admitted = admit(&served, request.queue_key, request.deadline).await?;
            match served.model.embed(request).await {
                Ok(mut embeddings) => {
                    embeddings.energy = Some(admitted.complete(embeddings.prompt_tokens));
                    Ok(embeddings)
                }
                Err(error) => Err(fail(admitted, error)),
            }
        };
        match span.instrument(embed).await {
            Ok(embeddings) => {
                span.set_attribute(attr::INPUT_TOKENS, i64::from(embeddings.prompt_tokens));
                Ok(Response::new(embeddings.into()))
            }
            Err(error) => {
                span.record_error(error.kind());
                Err(status::from_error(error))
            }
        }
    }

    async fn metrics(
        &self,
        _request: Request<v1::MetricsRequest>,
    ) -> Result<Response<v1::MetricsResponse>, Status> {
        let families = self.registry.encode_protobuf();
        Ok(Response::new(v1::MetricsResponse {
            metric_families: families,
        }))
    }
}

/// Converts events that were ready together to one message. An error ends the answer; events that were
/// ready together with it are dropped.
fn batch_response(
    batch: Vec<Result<GenerateEvent, RequestError>>,
) -> Result<v1::GenerateResponse, Status> {
    let mut events = Vec::with_capacity(batch.len());
    for event in batch {
        events.push(event.map_err(status::from_error)?.into());
    }
    Ok(v1::GenerateResponse { events })
}

/// Collects a whole answer in one message, with the deltas of each choice joined.
async fn collect_response(
    events: impl Stream<Item = Result<GenerateEvent, RequestError>>,
) -> Result<v1::GenerateResponse, RequestError> {
    let mut events = std::pin::pin!(events);
    let mut deltas: Vec<ChoiceDelta> = Vec::new();
    let mut others = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Delta(delta) => {
                match deltas.iter_mut().find(|d| d.choice == delta.choice) {
                    Some(joined) => append(joined, delta),
                    None => deltas.push(delta),
                }
            }
            other => others.push(other),
        }
    }
    let deltas = deltas.into_iter().map(GenerateEvent::Delta);
    Ok(v1::GenerateResponse {
        events: deltas.chain(others).map(Into::into).collect(),
    })
}

/// Appends a delta of the same choice.
fn append(joined: &mut ChoiceDelta, delta: ChoiceDelta) {
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
    async fn deltas_are_joined_per_choice() {
        let usage = GenerateEvent::Usage(Usage::default());
        let events = [delta(0, "a"), delta(1, "x"), delta(0, "b"), Ok(usage)];
        let response = collect_response(stream::iter(events)).await.unwrap();
        assert_eq!(response.events.len(), 3);
        let Some(v1::generate_event::Event::Delta(first)) = &response.events[0].event else {
            panic!("no delta");
        };
        assert_eq!(first.content, "ab");
    }

    #[tokio::test]
    async fn an_error_after_the_first_delta_fails_the_answer() {
        let events = [delta(0, "a"), Err(RequestError::Engine("broken".into()))];
        assert!(collect_response(stream::iter(events)).await.is_err());
    }
}
