//! The gRPC service `Runner`, through which the agent loads the runner's model.

use std::pin::Pin;
use std::sync::Arc;

use flotilla_core::spec::Model;
use flotilla_proto::v1;
use flotilla_proto::v1::load_event::Event;
use flotilla_proto::v1::runner_server::Runner;
use futures::Stream;
use futures::stream::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::RunnerModel;
use crate::{Engine, LoadControl, LoadError, LoadProgress, LoadedModel, LocalEngine};

/// Reports of progress that may wait to be sent. Further ones are dropped.
const MAX_PROGRESS: usize = 4;

/// The service.
#[derive(Clone)]
pub(super) struct RunnerService {
    engine: Arc<LocalEngine>,
    model: RunnerModel,
    return_memory: fn(),
}

impl RunnerService {
    /// Creates a service that puts the loaded model into `model`, and then calls `return_memory`.
    pub(super) fn new(model: RunnerModel, return_memory: fn()) -> Self {
        Self {
            engine: Arc::default(),
            model,
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
        if self.model.set(loaded).is_err() {
            return Err(LoadError::Engine("the runner has a model already".into()));
        }
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

fn failure(error: &LoadError) -> Event {
    let error_json = serde_json::to_string(error).or_else(|_| {
        // A path that is no text: the message is enough.
        serde_json::to_string(&LoadError::Engine(error.to_string()))
    });
    Event::Failed(v1::LoadFailure {
        error_json: error_json.unwrap_or_default(),
    })
}

#[tonic::async_trait]
impl Runner for RunnerService {
    async fn check(
        &self,
        _: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        Ok(Response::new(v1::CheckResponse {}))
    }

    type LoadStream = Pin<Box<dyn Stream<Item = Result<v1::LoadEvent, Status>> + Send>>;

    async fn load(
        &self,
        request: Request<v1::LoadRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let json = request.into_inner().resource_json;
        let model: Model = serde_json::from_str(&json)
            .map_err(|error| Status::invalid_argument(format!("no Model resource: {error}")))?;
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
                Err(error) => failure(&error),
            };
            // Without a receiver the agent is gone, and this process is about to end.
            let _ = sender.send(end).await;
        });
        let events =
            ReceiverStream::new(events).map(|event| Ok(v1::LoadEvent { event: Some(event) }));
        Ok(Response::new(events.boxed()))
    }
}
