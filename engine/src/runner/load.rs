//! The gRPC service `Runner`, through which the agent loads the runner's model.

use std::pin::Pin;
use std::sync::Arc;

use flotilla_core::spec::Model;
use flotilla_proto::v1;
use flotilla_proto::v1::load_adapter_response::Result as AdapterResult;
use flotilla_proto::v1::load_event::Event;
use flotilla_proto::v1::runner_server::Runner;
use futures::Stream;
use futures::stream::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::models::RunnerModels;
use crate::{Engine, LoadControl, LoadError, LoadProgress, LoadedModel, LocalEngine};

/// Reports of progress that may wait to be sent. Further ones are dropped.
const MAX_PROGRESS: usize = 4;

/// The service.
#[derive(Clone)]
pub(super) struct RunnerService {
    engine: Arc<LocalEngine>,
    models: Arc<RunnerModels>,
    return_memory: fn(),
}

impl RunnerService {
    /// Creates a service that puts what it loads into `models`, and then calls `return_memory`.
    pub(super) fn new(models: Arc<RunnerModels>, return_memory: fn()) -> Self {
        Self {
            engine: Arc::default(),
            models,
            return_memory,
        }
    }

    async fn load_model(
        &self,
        model: &Model,
        progress: LoadProgress,
    ) -> Result<v1::LoadedModel, LoadError> {
        if !model.spec.engine.computes() {
            let problem = format!(
                "the engine {:?} does not run in a runner",
                model.spec.engine
            );
            return Err(LoadError::Spec(problem));
        }
        // The agent ends this process when it no longer wants the model.
        let never = LoadControl::default();
        let loaded = self.engine.load(model, progress, &never).await?;
        (self.return_memory)();
        forget_peak_memory();
        let description = describe(&*loaded);
        self.models.set_base(loaded)?;
        Ok(description)
    }

    async fn load_adapter(&self, id: u64, model: &Model) -> Result<v1::LoadedModel, LoadError> {
        let Some(base) = self.models.base() else {
            return Err(LoadError::Engine("the runner has no model yet".into()));
        };
        let loaded = base.load_adapter(model).await;
        (self.return_memory)();
        forget_peak_memory();
        let loaded = loaded?;
        let description = describe(&*loaded);
        self.models.insert_adapter(id, loaded);
        Ok(description)
    }
}

/// Makes the kernel count the peak of this process's memory anew, so that it becomes what the model needs
/// for its requests. Where the kernel does not, the peak stays that of the load.
fn forget_peak_memory() {
    const PEAK: &str = "5";
    let _ = std::fs::write("/proc/self/clear_refs", PEAK);
}

/// Describes a loaded model to the agent.
fn describe(model: &dyn LoadedModel) -> v1::LoadedModel {
    v1::LoadedModel {
        concurrency: model.concurrency().unwrap_or(0),
        embed_batch: u32::try_from(model.embed_batch()).unwrap_or(u32::MAX),
        prefix_cache: model.has_prefix_cache(),
        context_length: model.context_length().unwrap_or(0),
        file_defaults: model.file_defaults().as_ref().map(Into::into),
    }
}

fn failure(error: &LoadError) -> v1::LoadFailure {
    let error_json = serde_json::to_string(error).or_else(|_| {
        // A path that is no text: the message is enough.
        serde_json::to_string(&LoadError::Engine(error.to_string()))
    });
    v1::LoadFailure {
        error_json: error_json.unwrap_or_default(),
    }
}

fn read_model(json: &str) -> Result<Model, Status> {
    let model = serde_json::from_str(json);
    model.map_err(|error| Status::invalid_argument(format!("no Model resource: {error}")))
}

#[tonic::async_trait]
impl Runner for RunnerService {
    async fn check(
        &self,
        _: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        Ok(Response::new(v1::CheckResponse {}))
    }

    async fn load_adapter(
        &self,
        request: Request<v1::LoadAdapterRequest>,
    ) -> Result<Response<v1::LoadAdapterResponse>, Status> {
        let request = request.into_inner();
        let model = read_model(&request.resource_json)?;
        let (service, id) = (self.clone(), request.id);
        // It is not broken off half-way if the agent ends the call.
        let load = tokio::spawn(async move { service.load_adapter(id, &model).await });
        let result = match load.await {
            Ok(Ok(loaded)) => AdapterResult::Loaded(loaded),
            Ok(Err(error)) => AdapterResult::Failed(failure(&error)),
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        let result = Some(result);
        Ok(Response::new(v1::LoadAdapterResponse { result }))
    }

    async fn unload_adapter(
        &self,
        request: Request<v1::UnloadAdapterRequest>,
    ) -> Result<Response<v1::UnloadAdapterResponse>, Status> {
        if let Some(adapter) = self.models.remove_adapter(request.into_inner().id) {
            adapter.unload().await;
            (self.return_memory)();
            forget_peak_memory();
        }
        Ok(Response::new(v1::UnloadAdapterResponse {}))
    }

    type LoadStream = Pin<Box<dyn Stream<Item = Result<v1::LoadEvent, Status>> + Send>>;

    async fn load(
        &self,
        request: Request<v1::LoadRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let model = read_model(&request.into_inner().resource_json)?;
        let (sender, events) = mpsc::channel(MAX_PROGRESS);
        let reports = sender.clone();
        let progress: LoadProgress = Arc::new(move |stage, fraction| {
            let progress = v1::LoadProgress {
                stage: stage.to_owned(),
                fraction,
            };
            // If the agent is slow, a later report tells it the same and more.
            let _ = reports.try_send(Event::Progress(progress));
        });
        let service = self.clone();
        tokio::spawn(async move {
            let end = match service.load_model(&model, progress).await {
                Ok(loaded) => Event::Loaded(loaded),
                Err(error) => Event::Failed(failure(&error)),
            };
            // Without a receiver the agent is gone, and this process is about to end.
            let _ = sender.send(end).await;
        });
        let events =
            ReceiverStream::new(events).map(|event| Ok(v1::LoadEvent { event: Some(event) }));
        Ok(Response::new(events.boxed()))
    }
}
