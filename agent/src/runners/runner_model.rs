//! A model that is loaded in a runner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    ChoiceDelta, EmbedRequest, Embeddings, FileDefaults, GenerateEvent, GenerateRequest,
    RequestError,
};
use flotilla_core::spec::Model;
use flotilla_engine::runner::{ADAPTER_KEY, MAX_MESSAGE};
use flotilla_engine::{ComputeDevice, GenerateEvents, LoadError, LoadedModel, StuckProcess};
use flotilla_proto::transport::{self, LinkChannel};
use flotilla_proto::v1::inference_client::InferenceClient;
use flotilla_proto::v1::load_adapter_response::Result as AdapterResult;
use flotilla_proto::v1::runner_client::RunnerClient;
use flotilla_proto::{answer_messages, status, v1};
use futures::stream::{self, StreamExt};
use tokio::sync::oneshot;
use tonic::Request;
use tracing::Instrument;

use super::runner_process::RunnerProcess;

/// How much more memory than the loaded adapter its load may take: the matrices in 32 bits, and the converted file.
const LOAD_FACTOR: u64 = 5;

/// A model that is loaded in a runner, or an adapter of it.
#[derive(Clone)]
pub(super) struct RunnerModel {
    process: Arc<RunnerProcess>,
    client: InferenceClient<LinkChannel>,
    runner: RunnerClient<LinkChannel>,
    description: v1::LoadedModel,
    /// What computes the model.
    device: ComputeDevice,
    /// The number of the adapter that this is. `None`: it is the runner's model, with which the process ends.
    adapter: Option<u64>,
    /// What the adapter takes of the process's memory.
    memory: Bytes,
    /// The number of the last adapter that was loaded in the runner.
    last_adapter: Arc<AtomicU64>,
}

impl RunnerModel {
    pub(super) fn new(
        process: RunnerProcess,
        channel: LinkChannel,
        description: v1::LoadedModel,
        device: ComputeDevice,
    ) -> Self {
        Self {
            process: Arc::new(process),
            client: InferenceClient::with_origin(channel.clone(), transport::origin())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            runner: RunnerClient::with_origin(channel, transport::origin()),
            description,
            device,
            adapter: None,
            memory: Bytes(0),
            last_adapter: Arc::default(),
        }
    }

    /// Loads an adapter that takes this much memory, by which the limit of the process is raised until the adapter is
    /// unloaded. While it is loaded it takes more: it may be converted.
    async fn load_within_limit(
        &self,
        resource_json: String,
        memory: Bytes,
    ) -> Result<Self, LoadError> {
        let limit = self.process.memory_limit();
        let for_load = Bytes(memory.0.saturating_mul(LOAD_FACTOR));
        limit.raise(for_load).await;
        let loaded = self.load_adapter_in_runner(resource_json).await;
        match loaded {
            Ok(loaded) => {
                limit.lower(for_load.saturating_sub(memory)).await;
                Ok(Self { memory, ..loaded })
            }
            Err(error) => {
                limit.lower(for_load).await;
                Err(error)
            }
        }
    }

    /// Loads an adapter, which the runner keeps until it is unloaded.
    async fn load_adapter_in_runner(&self, resource_json: String) -> Result<Self, LoadError> {
        let id = self.last_adapter.fetch_add(1, Ordering::Relaxed) + 1;
        let request = v1::LoadAdapterRequest { id, resource_json };
        let result = match self.runner.clone().load_adapter(request).await {
            Ok(response) => response.into_inner().result,
            Err(status) => return Err(self.process.failure(&status).await),
        };
        match result {
            Some(AdapterResult::Loaded(description)) => Ok(Self {
                description,
                adapter: Some(id),
                ..self.clone()
            }),
            Some(AdapterResult::Failed(failure)) => Err(load_error(failure)),
            None => Err(LoadError::Engine("the load ended without a result".into())),
        }
    }

    /// A request for this model, rather than for another one of its runner.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(id) = self.adapter {
            request.metadata_mut().insert(ADAPTER_KEY, id.into());
        }
        request
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
        let responses = self.client.clone().generate(self.request(message)).await;
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
        let checked = self.client.clone().embed(self.request(message)).await;
        let lost = |status| request_error(&status, request.model.as_str());
        checked.map(drop).map_err(lost)
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        let model = request.model.to_string();
        let message = v1::EmbedRequest::from(&request);
        let lost = |status| request_error(&status, &model);
        let responses = self.client.clone().embed(self.request(message)).await;
        let mut responses = responses.map_err(lost)?;
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
        // Nobody knows what an adapter takes of its process.
        match self.adapter {
            Some(_) => None,
            None => self.process.peak_memory(),
        }
    }

    fn process_id(&self) -> Option<u32> {
        Some(self.process.id())
    }

    fn compute_device(&self) -> ComputeDevice {
        self.device.clone()
    }

    async fn failing(&self) {
        self.process.ending().await;
    }

    async fn failed(&self) -> LoadError {
        self.process.ended().await.into()
    }

    async fn load_adapter(&self, adapter: &Model) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let resource_json =
            serde_json::to_string(adapter).map_err(|error| LoadError::Spec(error.to_string()))?;
        let memory = adapter.spec.memory.unwrap_or_default();
        let (sender, loaded) = oneshot::channel();
        let base = self.clone();
        let load = async move {
            let loaded = base.load_within_limit(resource_json, memory).await;
            // Nobody waits for it any more, and nobody else would free it.
            if let Err(Ok(unwanted)) = sender.send(loaded) {
                unwanted.unload().await;
            }
        };
        tokio::spawn(load.in_current_span());
        let ended = |_| LoadError::Engine("the load ended without a result".into());
        Ok(Arc::new(loaded.await.map_err(ended)??))
    }

    async fn unload(&self) {
        let Some(id) = self.adapter else {
            return self.process.end().await;
        };
        let request = v1::UnloadAdapterRequest { id };
        let unload = async {
            if let Err(status) = self.runner.clone().unload_adapter(request).await {
                tracing::debug!(%status, "the adapter has ended with its process");
            }
        };
        // A process that ends frees its adapters.
        tokio::select! {
            () = unload => {}
            () = self.process.ending() => return,
        }
        self.process.memory_limit().lower(self.memory).await;
    }

    async fn stuck(&self) -> StuckProcess {
        self.process.stuck().await
    }
}

/// Reads why a load failed.
pub(super) fn load_error(failure: v1::LoadFailure) -> LoadError {
    let error = serde_json::from_str(&failure.error_json);
    error.unwrap_or(LoadError::Engine(failure.error_json))
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
