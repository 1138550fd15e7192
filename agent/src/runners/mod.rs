//! Runners: a process for each model instance that is computed on this node.
//!
//! The agent starts one, talks to it over a Unix socket with the protocol that controllers use towards
//! agents, and watches it. A model that crashes, hangs or takes too much memory ends its own process and
//! nothing else. Queue, permits, energy accounts, tracing and files stay in the agent.
//!
//! Start reading at [`RunnerEngine`].

mod end_cause;
mod health_check;
mod memory_limit;
mod process_files;
mod process_watch;
mod runner_cgroup;
mod runner_command;
mod runner_log;
mod runner_model;
mod runner_process;
mod runner_start;
mod spawner;

use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::spec::{Model, ModelSpec};
use flotilla_engine::{
    ComputeDevice, EndCause, Engine, LoadControl, LoadError, LoadProgress, LoadedModel,
    LocalEngine, ProcessEnd,
};
use flotilla_proto::transport::{self, LinkChannel};
use flotilla_proto::v1;
use flotilla_proto::v1::load_event::Event;
use flotilla_proto::v1::runner_client::RunnerClient;
use tokio::sync::Semaphore;

pub use self::runner_command::RunnerCommand;
use self::runner_command::RunnerSettings;
pub(crate) use self::runner_command::VISIBLE_DEVICES;
use self::runner_model::{RunnerModel, load_error};
use self::runner_process::RunnerProcess;

/// The number of models that are loaded at once. A load may take more memory than the loaded model, and more
/// loads at once are no faster; one that hangs must not hold up all others.
const LOADS_AT_ONCE: usize = 2;

/// Loads each model in a process of its own.
pub struct RunnerEngine {
    command: RunnerCommand,
    /// The number of threads that a runner computes with.
    threads: usize,
    /// One permit for each load that may run at once.
    loads: Semaphore,
    /// Estimates what a model will take; it loads nothing here.
    estimator: LocalEngine,
}

impl RunnerEngine {
    /// Creates an engine whose runners are started with `command` and compute with `threads` threads.
    #[must_use]
    pub fn new(command: RunnerCommand, threads: usize) -> Self {
        Self {
            command,
            threads,
            loads: Semaphore::new(LOADS_AT_ONCE),
            estimator: LocalEngine::default(),
        }
    }

    async fn start_runner(
        &self,
        model: &Model,
        device: ComputeDevice,
    ) -> Result<StartedRunner, ProcessEnd> {
        let settings = RunnerSettings {
            model: model.name().to_string(),
            memory_limit: memory_limit(&model.spec, &device),
            threads: self.threads,
            device,
        };
        let not_started = |error: &dyn std::fmt::Display| ProcessEnd {
            cause: EndCause::NotStarted(error.to_string()),
            log: Vec::new(),
        };
        let started = RunnerProcess::start(&self.command, &settings).await;
        let (process, stream) = started.map_err(|error| not_started(&error))?;
        // A pause of the agent ends no runner: the kernel closes the socket when one of them ends.
        let connected = transport::connect(stream, None).await;
        let (channel, connection) = connected.map_err(|error| not_started(&error))?;
        process.watch_connection(channel.clone(), async {
            // Its end says enough, whatever the error.
            let _ = connection.await;
        });
        Ok(StartedRunner { process, channel })
    }
}

/// Returns the limit of the node's memory for the runner of a model. `spec.memory` says nothing about it where the
/// model takes the memory of an accelerator.
fn memory_limit(spec: &ModelSpec, device: &ComputeDevice) -> Option<Bytes> {
    let is_on_device = matches!(device, ComputeDevice::Gpu(Some(_)));
    spec.runner_memory_limit().filter(|_| !is_on_device)
}

/// A runner without a model.
struct StartedRunner {
    process: RunnerProcess,
    channel: LinkChannel,
}

impl StartedRunner {
    /// Loads the model.
    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
    ) -> Result<v1::LoadedModel, LoadError> {
        let resource_json =
            serde_json::to_string(model).map_err(|error| LoadError::Spec(error.to_string()))?;
        match self.follow_load(resource_json, progress).await {
            Ok(end) => end,
            Err(status) => Err(self.process.failure(&status).await),
        }
    }

    /// Sends the model and follows its load to the end.
    ///
    /// # Errors
    /// A status when the runner does not say how the load ended.
    async fn follow_load(
        &self,
        resource_json: String,
        progress: LoadProgress,
    ) -> Result<Result<v1::LoadedModel, LoadError>, tonic::Status> {
        let mut client = RunnerClient::with_origin(self.channel.clone(), transport::origin());
        let request = v1::LoadRequest { resource_json };
        let mut events = client.load(request).await?.into_inner();
        while let Some(v1::LoadEvent { event: Some(event) }) = events.message().await? {
            match event {
                Event::Progress(report) => progress(&report.stage, report.fraction),
                Event::Loaded(loaded) => return Ok(Ok(loaded)),
                Event::Failed(failure) => return Ok(Err(load_error(failure))),
            }
        }
        let problem = "the load ended without a result";
        Err(tonic::Status::unavailable(problem))
    }
}

#[async_trait]
impl Engine for RunnerEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        self.estimator.estimate(model).await
    }

    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        // The semaphore is never closed.
        let permit = tokio::select! {
            permit = self.loads.acquire() => permit.map_err(|_| LoadError::Cancelled)?,
            () = control.cancelled.cancelled() => return Err(LoadError::Cancelled),
        };
        let device = control.device.clone();
        let runner = self.start_runner(model, device.clone()).await?;
        let load = async {
            let loaded = tokio::select! {
                loaded = runner.load(model, progress) => loaded,
                () = control.cancelled.cancelled() => Err(LoadError::Cancelled),
            };
            if loaded.is_err() {
                runner.process.end().await;
            }
            loaded
        };
        let report_stuck = async {
            control.report_stuck(runner.process.stuck().await);
            // Other models are loaded meanwhile.
            drop(permit);
            std::future::pending::<Infallible>().await
        };
        let description = tokio::select! {
            loaded = load => loaded?,
            never = report_stuck => match never {},
        };
        Ok(Arc::new(RunnerModel::new(
            runner.process,
            runner.channel,
            description,
            device,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::EngineKind;

    #[test]
    fn memory_of_an_accelerator_is_no_limit_of_the_nodes_memory() {
        let memory = Some(Bytes(5));
        let spec = ModelSpec {
            engine: EngineKind::Mistral,
            memory,
            ..ModelSpec::default()
        };
        let limit = |device| memory_limit(&spec, &device);
        assert_eq!(limit(ComputeDevice::Gpu(Some("GPU-a".into()))), None);
        assert_eq!(limit(ComputeDevice::Gpu(None)), memory);
        assert_eq!(limit(ComputeDevice::Processors), memory);
    }
}
