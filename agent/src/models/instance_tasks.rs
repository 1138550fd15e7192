//! The tasks that fetch, load and drain instances.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, ModelSource};
use flotilla_engine::{LoadControl, LoadError, LoadProgress, StuckProcess};
use tokio::sync::mpsc;
use tokio::task::{self, AbortHandle, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::InstanceError;
use super::instance::{CheckResult, InstanceEvent, InstanceId, ModelInstance, RetireReason};
use super::memory_budget::MemoryPool;
use super::memory_usage::charged_memory;
use super::served_model::CUT_TIME;
use super::{ModelStatuses, NodeGpus, ServedModel};
use crate::artifacts::ArtifactStore;
use crate::engines::Engines;
use crate::request_metrics::RequestMetrics;

/// Why a model that is unloaded admits no requests.
const UNLOADED: &str = "the model is being unloaded";

/// Runs the tasks of all instances. Each ends with an event for its instance.
pub(super) struct InstanceTasks {
    engines: Arc<Engines>,
    artifacts: ArtifactStore,
    /// Where the progress of fetches and loads is reported.
    statuses: ModelStatuses,
    metrics: RequestMetrics,
    gpus: NodeGpus,
    /// See [`AgentConfig::drain_timeout`](crate::AgentConfig::drain_timeout).
    drain_timeout: Duration,
    running: JoinSet<InstanceEvent>,
    /// The instances of the running tasks.
    instances: HashMap<task::Id, InstanceId>,
    fetches: HashMap<InstanceId, AbortHandle>,
    /// Cancelled to end the load of an instance.
    loads: HashMap<InstanceId, CancellationToken>,
    /// The tasks that wait for the end of ready models, and find out why it came.
    watches: HashMap<InstanceId, AbortHandle>,
    /// Cancelled when the agent stops.
    stop: CancellationToken,
    /// The last measurement of each instance's memory.
    measurements: HashMap<InstanceId, JoinHandle<()>>,
    /// Where tasks report processes that cannot be ended, and measurements what was measured.
    reports: mpsc::UnboundedSender<(InstanceId, InstanceEvent)>,
    reported: mpsc::UnboundedReceiver<(InstanceId, InstanceEvent)>,
}

impl InstanceTasks {
    pub(super) fn new(
        engines: Arc<Engines>,
        artifacts: ArtifactStore,
        statuses: ModelStatuses,
        config: &super::ModelManagerConfig,
    ) -> Self {
        let (reports, reported) = mpsc::unbounded_channel();
        Self {
            engines,
            artifacts,
            statuses,
            metrics: config.metrics.clone(),
            gpus: config.gpus.clone(),
            drain_timeout: config.drain_timeout,
            running: JoinSet::new(),
            instances: HashMap::new(),
            fetches: HashMap::new(),
            loads: HashMap::new(),
            watches: HashMap::new(),
            stop: CancellationToken::new(),
            measurements: HashMap::new(),
            reports,
            reported,
        }
    }

    /// Spawns a task of an instance in the span of this one, which names the node.
    fn spawn(
        &mut self,
        instance: InstanceId,
        task: impl Future<Output = InstanceEvent> + Send + 'static,
    ) -> AbortHandle {
        let handle = self.running.spawn(task.in_current_span());
        self.instances.insert(handle.id(), instance);
        handle
    }

    /// Fetches the files of an instance. Ends with [`InstanceEvent::Fetched`].
    pub(super) fn fetch(&mut self, instance: &ModelInstance, files: Manifest) {
        let progress = self.progress(instance);
        let (artifacts, id) = (self.artifacts.clone(), instance.id);
        let task = self.spawn(id, async move {
            let progress = |fraction| progress("fetching", fraction);
            let fetched = artifacts.fetch(&files, progress).await;
            InstanceEvent::Fetched(fetched)
        });
        self.fetches.insert(id, task);
    }

    /// Stops fetching the files of an instance. No event follows.
    pub(super) fn abort_fetch(&mut self, id: InstanceId) {
        if let Some(task) = self.fetches.remove(&id) {
            task.abort();
        }
    }

    /// Looks up the files of an instance and estimates its memory. Ends with [`InstanceEvent::Checked`].
    pub(super) fn check(&mut self, instance: &ModelInstance, model: Box<Model>) {
        let (engines, artifacts) = (self.engines.clone(), self.artifacts.clone());
        let (id, files) = (instance.id, instance.files.clone());
        self.spawn(id, async move {
            let result = check(&engines, artifacts, files, model).await;
            InstanceEvent::Checked(result)
        });
    }

    /// Loads an instance. Ends with [`InstanceEvent::Loaded`].
    pub(super) fn load(&mut self, instance: &ModelInstance, mut model: Box<Model>) {
        let progress = self.progress(instance);
        let metrics = self.metrics.for_model(&instance.model);
        let counters = instance.counters.clone();
        let (engines, id) = (self.engines.clone(), instance.id);
        let device = self.gpus.device(&model.spec, instance.pool());
        let control = LoadControl::new(self.stop.child_token()).on(device);
        self.loads.insert(id, control.cancelled.clone());
        let end = self.process_end(id);
        let base = instance.attached_base().cloned();
        if base.is_some() {
            // The limit of the base's process grows by it.
            model.spec.memory = Some(instance.phase.memory());
        }
        // Its base stays until the adapter is unloaded.
        let attachment = base.as_ref().map(|base| base.attach());
        self.spawn(id, async move {
            let loading = metrics.begin_loading();
            let load = async {
                match base {
                    Some(base) => tokio::select! {
                        loaded = base.model.load_adapter(&model) => loaded,
                        () = control.cancelled.cancelled() => Err(LoadError::Cancelled),
                    },
                    None => {
                        let engine = engines.get(model.spec.engine);
                        engine.load(&model, progress, &control).await
                    }
                }
            };
            let loaded = end.follow(load, control.stuck()).await;
            let loaded = loaded.unwrap_or(Err(LoadError::Cancelled));
            drop(loading);
            let served = loaded.map(|loaded| {
                let served = ServedModel::new(loaded, &model.spec, metrics, counters);
                let served = Arc::new(served.attached(attachment));
                for warning in served.file_warnings() {
                    tracing::warn!(model = %model.name(), "{warning}");
                }
                served
            });
            InstanceEvent::Loaded(served)
        });
    }

    /// Ends the load of an instance early.
    pub(super) fn cancel_load(&mut self, id: InstanceId) {
        if let Some(load) = self.loads.remove(&id) {
            load.cancel();
        }
    }

    /// Waits until a ready model can never answer again. Ends with [`InstanceEvent::EngineFailing`].
    pub(super) fn watch(&mut self, id: InstanceId, served: &Arc<ServedModel>) {
        let model = served.model.clone();
        let task = self.spawn(id, async move {
            model.failing().await;
            InstanceEvent::EngineFailing
        });
        self.watches.insert(id, task);
    }

    /// Measures the memory of an instance that is charged this much of a pool, unless it is being measured. Its adapters take
    /// `adapters` of what its process has. Reports
    /// [`InstanceEvent::MemoryMeasured`] if the charge changes. Nobody waits for the end: for a process that hangs in the
    /// kernel, the kernel lets those hang who read its memory.
    pub(super) fn measure(
        &mut self,
        id: InstanceId,
        charged: Bytes,
        adapters: Bytes,
        served: &Arc<ServedModel>,
        pool: MemoryPool,
    ) {
        self.measurements
            .retain(|_, running| !running.is_finished());
        let process = served.model.process_id();
        let Some(process) = process.filter(|_| !self.measurements.contains_key(&id)) else {
            return;
        };
        let (served, reports) = (served.clone(), self.reports.clone());
        let gpus = self.gpus.clone();
        let measurement = task::spawn_blocking(move || {
            let usage = match pool {
                MemoryPool::Host => served.memory_usage(adapters),
                // What its process takes of the node is memory of the node.
                MemoryPool::Gpu(gpu) => gpus
                    .process_memory(gpu, process)
                    .map(|memory| served.gpu_memory_usage(memory, adapters)),
            };
            if let Some(memory) = usage.and_then(|usage| charged_memory(charged, usage)) {
                // It fails only after the manager has ended.
                let _ = reports.send((id, InstanceEvent::MemoryMeasured(memory)));
            }
        });
        self.measurements.insert(id, measurement);
    }

    /// Rejects the requests that wait for a model that can never answer again, so that other nodes answer them,
    /// and finds out why. Ends with [`InstanceEvent::EngineFailed`].
    pub(super) fn follow_end(&mut self, id: InstanceId, served: &Arc<ServedModel>) {
        served.close("the process of the model has ended");
        let (model, end) = (served.model.clone(), self.process_end(id));
        let task = self.spawn(id, async move {
            let error = end.follow(model.failed(), model.stuck()).await;
            InstanceEvent::EngineFailed {
                error: error.unwrap_or(LoadError::Cancelled),
                restart_after: None,
            }
        });
        self.watches.insert(id, task);
    }

    /// Waits before an instance is started again. Ends with [`InstanceEvent::RestartDue`].
    pub(super) fn restart_after(&mut self, id: InstanceId, delay: Duration) {
        let stop = self.stop.clone();
        self.spawn(id, async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {}
            }
            InstanceEvent::RestartDue
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
        if let Some(watch) = self.watches.remove(&id) {
            watch.abort();
        }
        let (timeout, end) = (self.drain_timeout, self.process_end(id));
        self.spawn(id, async move {
            if reason == RetireReason::NotDesired {
                served.close(UNLOADED);
            }
            let drained = async |served: &ServedModel| {
                tokio::time::timeout(timeout, served.drained())
                    .await
                    .is_ok()
            };
            let first = drained(&served).await;
            // A request that looked the model up in the table before it was removed may have entered the
            // queue meanwhile.
            served.close(UNLOADED);
            if !first || !drained(&served).await {
                tracing::warn!(%model, "requests did not finish within the drain timeout");
                served.cut();
                let _ = tokio::time::timeout(CUT_TIME, served.drained()).await;
            }
            // Its adapters have as long, and leave with their process at the latest.
            let adapters = tokio::time::timeout(timeout + 2 * CUT_TIME, served.adapters_gone());
            if adapters.await.is_err() {
                tracing::warn!(%model, "its adapters did not leave in time");
            }
            let unloading = served.begin_unloading();
            end.follow(served.model.unload(), served.model.stuck())
                .await;
            drop(unloading);
            served.detach();
            drop(served);
            InstanceEvent::Unloaded
        });
    }

    /// Makes all running loads fail, and lets no task wait any longer for a process that cannot be ended.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    fn process_end(&self, id: InstanceId) -> ProcessEndTask {
        ProcessEndTask {
            id,
            reports: self.reports.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Waits for the next report of a task, or for the next task to end. Returns `None` when none is running.
    pub(super) async fn next_event(&mut self) -> Option<(InstanceId, InstanceEvent)> {
        loop {
            let ended = tokio::select! {
                // A report comes before the end of its task.
                biased;
                Some(report) = self.reported.recv() => return Some(report),
                ended = self.running.join_next_with_id() => ended?,
            };
            let task = match &ended {
                Ok((task, _)) => *task,
                Err(error) => error.id(),
            };
            let Some(instance) = self.instances.remove(&task) else {
                continue;
            };
            let event = match ended {
                Ok((_, event)) => event,
                Err(error) if error.is_cancelled() => continue,
                Err(error) => {
                    tracing::error!(%error, "a task of the model manager panicked");
                    InstanceEvent::TaskPanicked
                }
            };
            match event {
                InstanceEvent::Fetched(_) => drop(self.fetches.remove(&instance)),
                InstanceEvent::Loaded(_) => drop(self.loads.remove(&instance)),
                InstanceEvent::EngineFailing | InstanceEvent::EngineFailed { .. } => {
                    drop(self.watches.remove(&instance));
                }
                _ => {}
            }
            return Some((instance, event));
        }
    }

    /// Returns the callback by which a task of `instance` reports its progress.
    fn progress(&self, instance: &ModelInstance) -> LoadProgress {
        let statuses = self.statuses.clone();
        let (model, revision) = (instance.model.clone(), instance.revision);
        Arc::new(move |step, fraction| statuses.set_progress(&model, revision, step, fraction))
    }
}

/// Waits for the end of an instance's process in a task of the instance.
struct ProcessEndTask {
    id: InstanceId,
    reports: mpsc::UnboundedSender<(InstanceId, InstanceEvent)>,
    /// Cancelled when the agent stops.
    stop: CancellationToken,
}

impl ProcessEndTask {
    /// Does `work`, which may wait for the end of a process. Sends [`InstanceEvent::ProcessStuck`] when that cannot be
    /// ended. Returns `None` if the agent stops while it cannot.
    async fn follow<T>(
        &self,
        work: impl Future<Output = T>,
        stuck: impl Future<Output = StuckProcess>,
    ) -> Option<T> {
        let given_up = async {
            let event = InstanceEvent::ProcessStuck(stuck.await);
            // It fails only after the manager has ended.
            let _ = self.reports.send((self.id, event));
            self.stop.cancelled().await;
        };
        tokio::select! {
            biased;
            result = work => Some(result),
            () = given_up => None,
        }
    }
}

/// Looks up the files of a model and estimates its memory.
async fn check(
    engines: &Engines,
    artifacts: ArtifactStore,
    files: Option<Manifest>,
    mut model: Box<Model>,
) -> CheckResult {
    if let Some(files) = files {
        match artifacts.find(&files).await {
            Ok(Some(path)) => model.spec.source = Some(ModelSource::Path(path)),
            Ok(None) => return CheckResult::FilesMissing(files),
            Err(error) => return CheckResult::Unusable(InstanceError::from(error)),
        }
    } else if let Some(ModelSource::Path(path)) = &model.spec.source
        && !artifacts.is_allowed(path).await
    {
        return CheckResult::Unusable(InstanceError::OutsideModelRoots(path.clone()));
    }
    match engines.get(model.spec.engine).estimate(&model).await {
        Ok(needed) => CheckResult::Loadable { needed, model },
        Err(error) => CheckResult::Unusable(InstanceError::from(error)),
    }
}
