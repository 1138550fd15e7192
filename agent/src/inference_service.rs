//! The gRPC service `Inference`, through which controllers send requests to this node's models.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::QueueKey;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1;
use flotilla_proto::v1::inference_server::Inference;
use flotilla_proto::{answer_messages, status};
use flotilla_telemetry::Telemetry;
use flotilla_telemetry::names::{PROVIDER, attr, span};
use flotilla_telemetry::prometheus::PrometheusRegistry;
use flotilla_telemetry::trace::{RequestSpan, Tracer};
use futures::future::Either;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::artifacts::BlobReader;
use crate::models::{
    AdmittedRequest, AdmittedSplit, ServedModel, ServingTable, SpentEnergy, TrackedEvents,
};
use crate::turns::{SplitAnswer, embed_in_turns};
use crate::unstreamed_answer;

/// The service, shared by all reverse connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InferenceService {
    table: ServingTable,
    tracer: Tracer,
    registry: PrometheusRegistry,
    node: NodeName,
    blobs: BlobReader,
}

impl InferenceService {
    pub(crate) fn new(
        table: ServingTable,
        telemetry: &Telemetry,
        node: NodeName,
        blobs: BlobReader,
    ) -> Self {
        Self {
            table,
            tracer: telemetry.tracer(),
            registry: telemetry.prometheus(),
            node,
            blobs,
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
        spent: &SpentEnergy,
    ) -> Result<AnswerEvents, RequestError> {
        if request.choices > 1 {
            let turns = self.start_turns(request, span, spent).await;
            return turns.map(Either::Right);
        }
        let start = async {
            let served = self.find_model(&request.model)?;
            let request = served.apply_defaults(request);
            let admitted = admit(&served, request.queue_key, request.deadline, spent).await?;
            match served.model.generate(request).await {
                Ok(events) => Ok((admitted, events)),
                Err(error) => Err(fail(admitted, error)),
            }
        };
        match span.instrument(start).await {
            Ok((admitted, events)) => Ok(Either::Left(admitted.track(events, span))),
            Err(error) => {
                span.record_error(error.kind());
                Err(error)
            }
        }
    }

    /// Admits the first turn of a request for several choices.
    async fn start_turns(
        &self,
        request: GenerateRequest,
        span: RequestSpan,
        spent: &SpentEnergy,
    ) -> Result<SplitAnswer, RequestError> {
        let deadline = deadline_at(request.deadline);
        let start = async {
            let served = self.find_model(&request.model)?;
            let (key, deadline) = (request.queue_key, request.deadline);
            let admitted = admit_first_turn(&served, key, deadline, spent).await?;
            Ok((served, admitted))
        };
        match span.instrument(start).await {
            Ok((served, admitted)) => {
                let request = served.apply_defaults(request);
                Ok(SplitAnswer::new(served, admitted, request, deadline, span))
            }
            Err(error) => {
                let error: RequestError = error;
                span.record_error(error.kind());
                Err(error)
            }
        }
    }

    /// Admits an embedding request and computes it, in several turns if it has more inputs than the model
    /// embeds at once. Sends to `begun` when the computation begins.
    async fn embed_inputs(
        &self,
        request: EmbedRequest,
        begun: oneshot::Sender<()>,
        spent: &SpentEnergy,
    ) -> Result<Embeddings, RequestError> {
        let deadline = deadline_at(request.deadline);
        let (key, wait) = (request.queue_key, request.deadline);
        let served = self.find_model(&request.model)?;
        let batch = served.model.embed_batch();
        if request.inputs.len() > batch {
            // One input that cannot be embedded fails the request before the others are computed.
            served.model.check_embed(&request).await?;
            let admitted = admit_first_turn(&served, key, wait, spent).await?;
            // Nobody waits for it any more once the client has left.
            let _ = begun.send(());
            return embed_in_turns(admitted, batch, request, deadline).await;
        }
        let admitted = admit(&served, key, wait, spent).await?;
        let _ = begun.send(());
        admitted.embed(request).await
    }
}

/// The events of an answer: those of its only choice, or of several.
type AnswerEvents = Either<TrackedEvents, SplitAnswer>;

/// The time at which a deadline from now passes.
fn deadline_at(deadline: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(deadline?)
}

/// Waits until the model admits a request, in a span of its own.
async fn admit(
    model: &Arc<ServedModel>,
    queue_key: QueueKey,
    deadline: Option<Duration>,
    spent: &SpentEnergy,
) -> Result<AdmittedRequest, RequestError> {
    let _queue_span = RequestSpan::child_of_current(span::QUEUE);
    let (model, spent) = (model.clone(), spent.clone());
    model.admit_charging(queue_key, deadline, spent).await
}

/// Waits until the model admits the first turn of a request, in a span of its own.
async fn admit_first_turn(
    model: &Arc<ServedModel>,
    queue_key: QueueKey,
    deadline: Option<Duration>,
    spent: &SpentEnergy,
) -> Result<(AdmittedRequest, AdmittedSplit), RequestError> {
    let _queue_span = RequestSpan::child_of_current(span::QUEUE);
    let (model, spent) = (model.clone(), spent.clone());
    model.admit_first_turn(queue_key, deadline, spent).await
}

/// Counts the request as failed and passes the error on.
fn fail(admitted: AdmittedRequest, error: RequestError) -> RequestError {
    admitted.fail(&error);
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
        let spent = SpentEnergy::default();
        let events = self.start(request, span, &spent).await;
        let failed = |error| spent.report_in(status::from_error(error));
        let events = events.map_err(failed)?;
        let responses = if is_streaming {
            let messages = answer_messages::messages(events).await;
            messages.map_err(|status| spent.report_in(status))?.boxed()
        } else {
            unstreamed_answer::messages(events).await.map_err(failed)?
        };
        let responses = responses.map_err(move |status| spent.report_in(status));
        Ok(Response::new(responses.boxed()))
    }

    type EmbedStream = Pin<Box<dyn Stream<Item = Result<v1::EmbedResponse, Status>> + Send>>;

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<Self::EmbedStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        let request = EmbedRequest::try_from(message)?;
        let span = self.start_span(&metadata, "embeddings", request.model.as_str());
        let (begins, begun) = oneshot::channel();
        let service = self.clone();
        let answer = async move {
            let spent = SpentEnergy::default();
            let embed = service.embed_inputs(request, begins, &spent);
            match span.instrument(embed).await {
                Ok(embeddings) => {
                    span.set_attribute(attr::INPUT_TOKENS, i64::from(embeddings.prompt_tokens));
                    Ok(embeddings.into())
                }
                Err(error) => {
                    span.record_error(error.kind());
                    Err(spent.report_in(status::from_error(error)))
                }
            }
        };
        let messages = unstreamed_answer::embedding_messages(answer, begun).await?;
        Ok(Response::new(messages))
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

    type FetchBlobStream = Pin<Box<dyn Stream<Item = Result<v1::BlobChunk, Status>> + Send>>;

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        let sha256 = request
            .sha256
            .parse()
            .map_err(|e| Status::invalid_argument(format!("{e}")))?;
        let failed = |error: std::io::Error| Status::unavailable(error.to_string());
        let chunks = self.blobs.read(sha256, request.offset).await;
        let chunks = chunks
            .map_err(failed)?
            .ok_or_else(|| Status::not_found("this node does not have the file"))?;
        Ok(Response::new(chunks.map_err(failed).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use flotilla_core::generate::{ChoiceDelta, EmbedInput, GenerateEvent, GenerateInput};
    use flotilla_engine::{GenerateEvents, LoadedModel};
    use futures::{FutureExt, stream};

    use crate::models::{serve, serving_table};

    /// A model whose embeddings never come.
    struct Endless;

    #[async_trait]
    impl LoadedModel for Endless {
        async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
            Ok(stream::pending().boxed())
        }

        async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
            std::future::pending().await
        }
    }

    /// A model whose answers break off.
    struct Breaking;

    #[async_trait]
    impl LoadedModel for Breaking {
        async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
            let delta = ChoiceDelta {
                content: "a".into(),
                ..ChoiceDelta::default()
            };
            let computed = stream::iter([
                Ok(GenerateEvent::Computed(Duration::from_millis(1))),
                Ok(GenerateEvent::Delta(delta)),
            ]);
            let broken = async {
                // Time is energy, as there is no meter.
                tokio::time::sleep(Duration::from_millis(2)).await;
                Err(RequestError::Engine("broken".into()))
            };
            Ok(computed.chain(stream::once(broken)).boxed())
        }

        async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
            Err(RequestError::Engine("broken".into()))
        }
    }

    #[tokio::test]
    async fn error_says_what_the_request_has_taken() {
        let model = ModelName::new("m").unwrap();
        let served = serve(Arc::new(Breaking), 2, 2);
        let service = InferenceService::new(
            serving_table(&model, &served),
            &Telemetry::disabled(),
            NodeName::new("n").unwrap(),
            BlobReader::new(std::path::Path::new("/nowhere")),
        );
        for (stream, choices) in [(true, 1), (true, 2), (false, 1)] {
            let request = GenerateRequest {
                stream,
                choices,
                ..GenerateRequest::new(model.clone(), GenerateInput::Text("hi".into()))
            };
            let message = v1::GenerateRequest::from(&request);
            let answered = service.generate(Request::new(message)).await;
            let status = match answered {
                Ok(response) => {
                    let messages: Vec<_> = response.into_inner().collect().await;
                    messages.into_iter().find_map(Result::err).unwrap()
                }
                Err(status) => status,
            };
            let energy = status::energy(&status).expect("energy");
            assert!(energy.joules.0 > 0.0, "{stream} {choices}");
        }
        let unknown = GenerateRequest::new(
            ModelName::new("other").unwrap(),
            GenerateInput::Text("hi".into()),
        );
        let message = v1::GenerateRequest::from(&unknown);
        let refused = service.generate(Request::new(message)).await.err().unwrap();
        assert_eq!(status::energy(&refused), None);
    }

    #[tokio::test]
    async fn embeddings_begin_when_they_are_admitted() {
        let model = ModelName::new("m").unwrap();
        let served = serve(Arc::new(Endless), 1, 1);
        let table = serving_table(&model, &served);
        let node = NodeName::new("n").unwrap();
        let service = InferenceService::new(
            table,
            &Telemetry::disabled(),
            node,
            BlobReader::new(std::path::Path::new("/nowhere")),
        );
        for inputs in [1, 3] {
            let request = EmbedRequest {
                model: model.clone(),
                inputs: vec![EmbedInput::Text("a".into()); inputs],
                queue_key: QueueKey::default(),
                deadline: None,
            };
            let (begins, mut begun) = oneshot::channel();
            let computing = served.clone().admit(QueueKey::default(), None).await;
            let spent = SpentEnergy::default();
            let mut embeddings = Box::pin(service.embed_inputs(request, begins, &spent));
            assert!((&mut embeddings).now_or_never().is_none());
            assert!(begun.try_recv().is_err(), "it waits for its turn");
            drop(computing);
            tokio::select! {
                _ = embeddings => panic!("there are no embeddings"),
                begun = begun => begun.unwrap(),
            }
        }
    }
}
