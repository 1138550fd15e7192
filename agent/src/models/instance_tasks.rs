//! The tasks that fetch, load and drain instances.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Model;
use flotilla_engine::{EngineSet, LoadError, LoadProgress};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::instance::{InstanceEvent, InstanceId, ModelInstance, RetireReason};
use super::served_model::CUT_TIME;
use super::{ModelStatuses, ServedModel};
use crate::artifacts::ArtifactStore;
use crate::request_metrics::RequestMetrics;

/// Runs the tasks of all instances. Each ends with an event for its instance.
pub(super) struct InstanceTasks {
    engines: Arc<EngineSet>,
    artifacts: ArtifactStore,
    /// Where the progress of fetches and loads is reported.
    statuses: ModelStatuses,
    metrics: RequestMetrics,
    /// See [`AgentConfig::drain_timeout`](crate::AgentConfig::drain_timeout).
    drain_timeout: Duration,
    /// See [`AgentConfig::return_memory`](crate::AgentConfig::return_memory).
    return_memory: fn(),
    running: JoinSet<(InstanceId, InstanceEvent)>,
    fetches: HashMap<InstanceId, AbortHandle>,
    /// Cancelled when the agent stops: it does not wait for loads.
    stop_loads: CancellationToken,
}

impl InstanceTasks {
    pub(super) fn new(
        engines: Arc<EngineSet>,
        artifacts: ArtifactStore,
        statuses: ModelStatuses,
        config: &super::ModelManagerConfig,
    ) -> Self {
        Self {
            engines,
            artifacts,
            statuses,
            metrics: config.metrics.clone(),
            drain_timeout: config.drain_timeout,
            return_memory: config.return_memory,
            running: JoinSet::new(),
            fetches: HashMap::new(),
            stop_loads: CancellationToken::new(),
        }
    }

    /// Spawns a task in the span of this one, which names the node.
    fn spawn(
        &mut self,
        task: impl Future<Output = (InstanceId, InstanceEvent)> + Send + 'static,
    ) -> AbortHandle {
        self.running.spawn(task.in_current_span())
    }

    /// Fetches the files of an instance. Ends with [`InstanceEvent::Fetched`].
    pub(super) fn fetch(&mut self, instance: &ModelInstance, files: Manifest) {
        let progress = self.progress(instance);
        let (artifacts, id) = (self.artifacts.clone(), instance.id);
        let task = self.spawn(async move {
            let progress = |fraction| progress("fetching", fraction);
            let fetched = artifacts.fetch(&files, progress).await;
            (id, InstanceEvent::Fetched(fetched))
        });
        self.fetches.insert(id, task);
    }

    /// Stops fetching the files of an instance. No event follows.
    pub(super) fn abort_fetch(&mut self, id: InstanceId) {
        if let Some(task) = self.fetches.remove(&id) {
            task.abort();
        }
    }

    /// Loads an instance. Ends with [`InstanceEvent::Loaded`].
    pub(super) fn load(&mut self, instance: &ModelInstance, model: Box<Model>) {
        let progress = self.progress(instance);
        let metrics = self.metrics.for_model(&instance.model);
        let (engines, id) = (self.engines.clone(), instance.id);
        let stop = self.stop_loads.clone();
        self.spawn(async move {
            let engine = engines.get(model.spec.engine);
            let loaded = tokio::select! {
                loaded = engine.load(&model, progress) => loaded,
                () = stop.cancelled() => Err(LoadError::Engine("the agent stops".into())),
            };
            let served = loaded.map(|loaded| {
                let served = Arc::new(ServedModel::new(loaded, &model.spec, metrics));
                for warning in served.file_warnings() {
                    tracing::warn!(model = %model.name(), "{warning}");
                }
                served
            });
            (id, InstanceEvent::Loaded(served))
        });
    }

    /// Lets the requests of an instance finish, then unloads it. Answers that are not complete after the
    /// drain timeout end with an error. Ends with [`InstanceEvent::Unloaded`].
    pub(super) fn drain(
        &mut self,
        instance: &ModelInstance,
        served: Arc<ServedModel>,
        reason: RetireReason,
    ) {
        let (model, id) = (instance.model.clone(), instance.id);
        let (timeout, return_memory) = (self.drain_timeout, self.return_memory);
        self.spawn(async move {
            if reason == RetireReason::NotDesired {
                served.close();
            }
            let drained = async |served: &ServedModel| {
                tokio::time::timeout(timeout, served.drained())
                    .await
                    .is_ok()
            };
            let first = drained(&served).await;
            // A request that looked the model up in the table before it was removed may have entered the
            // queue meanwhile.
            served.close();
            if !first || !drained(&served).await {
                tracing::warn!(%model, "requests did not finish within the drain timeout");
                served.cut();
                let _ = tokio::time::timeout(CUT_TIME, served.drained()).await;
            }
            served.model.unload().await;
            drop(served);
            return_memory();
            (id, InstanceEvent::Unloaded)
        });
    }

    /// Makes all running loads fail.
    pub(super) fn stop_loads(&self) {
        self.stop_loads.cancel();
    }

    /// Waits for the next task to end. Returns `None` when none is running.
    pub(super) async fn next_event(&mut self) -> Option<(InstanceId, InstanceEvent)> {
        loop {
            match self.running.join_next().await? {
                Ok((id, event)) => {
                    self.fetches.remove(&id);
                    return Some((id, event));
                }
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(%error, "a task of the model manager panicked"),
            }
        }
    }

    /// Returns the callback by which a task of `instance` reports its progress.
    fn progress(&self, instance: &ModelInstance) -> LoadProgress {
        let statuses = self.statuses.clone();
        let (model, revision) = (instance.model.clone(), instance.revision);
        Arc::new(move |step, fraction| statuses.set_progress(&model, revision, step, fraction))
    }
}
