//! The gRPC service `Inference` of a runner: requests go straight to its model.

use std::pin::Pin;
use std::sync::Arc;

use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest};
use flotilla_proto::v1::inference_server::Inference;
use flotilla_proto::{answer_messages, status, v1};
use futures::stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::ADAPTER_KEY;
use super::models::RunnerModels;
use crate::LoadedModel;

/// The service.
#[derive(Clone)]
pub(super) struct InferenceService(pub(super) Arc<RunnerModels>);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl InferenceService {
    /// The model that computes a request: the adapter that its metadata names, or the model of the runner.
    fn model<T>(&self, request: &Request<T>) -> Result<Arc<dyn LoadedModel>, Status> {
        let Some(id) = request.metadata().get(ADAPTER_KEY) else {
            let model = self.0.base().cloned();
            return model.ok_or_else(|| Status::unavailable("the runner has no model yet"));
        };
        let id = id.to_str().ok().and_then(|id| id.parse().ok());
        let model = id.and_then(|id| self.0.adapter(id));
        model.ok_or_else(|| Status::unavailable("the runner does not have this adapter"))
    }
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Messages<v1::GenerateResponse>;
    type EmbedStream = Messages<v1::EmbedResponse>;
    type FetchBlobStream = Messages<v1::BlobChunk>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let model = self.model(&request)?;
        let request = GenerateRequest::try_from(request.into_inner())?;
        let events = model.generate(request).await;
        let events = events.map_err(status::from_error)?;
        Ok(Response::new(
            answer_messages::messages(events).await?.boxed(),
        ))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<Self::EmbedStream>, Status> {
        let model = self.model(&request)?;
        let request = request.into_inner();
        let check_only = request.check_only;
        let request = EmbedRequest::try_from(request)?;
        let embeddings = if check_only {
            let checked = model.check_embed(&request).await;
            checked.map(|()| Embeddings::default())
        } else {
            model.embed(request).await
        };
        let message = embeddings.map_err(status::from_error)?.into();
        Ok(Response::new(stream::iter([Ok(message)]).boxed()))
    }

    async fn metrics(
        &self,
        _: Request<v1::MetricsRequest>,
    ) -> Result<Response<v1::MetricsResponse>, Status> {
        Err(Status::unimplemented("a runner has no metrics"))
    }

    async fn fetch_blob(
        &self,
        _: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        Err(Status::unimplemented("a runner has no files of its own"))
    }
}
