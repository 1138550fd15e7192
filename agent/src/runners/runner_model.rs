//! A model that is loaded in a runner.

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    ChoiceDelta, EmbedRequest, Embeddings, FileDefaults, GenerateEvent, GenerateRequest,
    RequestError,
};
use flotilla_engine::{GenerateEvents, LoadError, LoadedModel, StuckProcess};
use flotilla_proto::transport::LinkChannel;
use flotilla_proto::v1::inference_client::InferenceClient;
use flotilla_proto::{answer_messages, status, v1};
use futures::stream::{self, StreamExt};

use super::runner_process::RunnerProcess;

/// A model that is loaded in a runner.
pub(super) struct RunnerModel {
    process: RunnerProcess,
    client: InferenceClient<LinkChannel>,
    description: v1::LoadedModel,
}

impl RunnerModel {
    pub(super) fn new(
        process: RunnerProcess,
        client: InferenceClient<LinkChannel>,
        description: v1::LoadedModel,
    ) -> Self {
        Self {
            process,
            client,
            description,
        }
    }
}

#[async_trait]
impl LoadedModel for RunnerModel {
    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        let model = request.model.to_string();
        // Only a stream can be stopped.
        let message = v1::GenerateRequest {
            stream: true,
            ..(&request).into()
        };
        let responses = self.client.clone().generate(message).await;
        let responses = responses.map_err(|status| request_error(&status, &model))?;
        let events = responses.into_inner().flat_map(move |response| {
            let events = match response {
                Ok(response) => answer_messages::events(response),
                Err(status) => Err(request_error(&status, &model)),
            };
            let events = match events {
                // The answer has begun, and nothing of it can be sent yet.
                Ok(events) if events.is_empty() => {
                    vec![Ok(GenerateEvent::Delta(ChoiceDelta::default()))]
                }
                Ok(events) => events.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(events)
        });
        Ok(events.boxed())
    }

    async fn check_embed(&self, request: &EmbedRequest) -> Result<(), RequestError> {
        let message = v1::EmbedRequest {
            check_only: true,
            ..request.into()
        };
        let checked = self.client.clone().embed(message).await;
        let lost = |status| request_error(&status, request.model.as_str());
        checked.map(drop).map_err(lost)
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        let model = request.model.to_string();
        let message = v1::EmbedRequest::from(&request);
        let lost = |status| request_error(&status, &model);
        let mut responses = self.client.clone().embed(message).await.map_err(lost)?;
        let response = responses.get_mut().message().await.map_err(lost)?;
        response.map(Into::into).ok_or_else(|| {
            RequestError::Engine("the process of the model sent no embeddings".into())
        })
    }

    fn embed_batch(&self) -> usize {
        self.description.embed_batch.max(1) as usize
    }

    fn concurrency(&self) -> Option<u32> {
        Some(self.description.concurrency).filter(|concurrency| *concurrency > 0)
    }

    fn has_prefix_cache(&self) -> bool {
        self.description.prefix_cache
    }

    fn file_defaults(&self) -> Option<FileDefaults> {
        self.description.file_defaults.clone().map(Into::into)
    }

    fn context_length(&self) -> Option<u32> {
        Some(self.description.context_length).filter(|tokens| *tokens > 0)
    }

    fn peak_memory(&self) -> Option<Bytes> {
        self.process.peak_memory()
    }

    fn process_id(&self) -> Option<u32> {
        Some(self.process.id())
    }

    async fn failing(&self) {
        self.process.ending().await;
    }

    async fn failed(&self) -> LoadError {
        self.process.ended().await.into()
    }

    async fn unload(&self) {
        self.process.end().await;
    }

    async fn stuck(&self) -> StuckProcess {
        self.process.stuck().await
    }
}

/// Converts a status. One of the transport says that the process is gone, so that another node may answer.
fn request_error(status: &tonic::Status, model: &str) -> RequestError {
    match status::to_error(status, model) {
        RequestError::NodeLost(_) => {
            RequestError::NodeLost("the process of the model has ended".into())
        }
        error => error,
    }
}
