//! The task that owns the life cycle of every model on the node.
//!
//! It waits for events. Pure functions decide: [`next_step`] what to start or stop, [`MemoryBudget`]
//! whether there is memory, and the state machine of [`ModelInstance`] which actions follow.
//!
//! A model has a current instance and, while its revision changes, a next one that replaces it: the
//! current one serves until the next one is ready. If there is no memory for both, the current one is
//! unloaded first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::ModelSpec;
use flotilla_core::{Bytes, ModelName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::instance::{
    Base, InstanceAction, InstanceEvent, InstanceId, InstancePhase, InstanceRole, ModelInstance,
    RetireReason,
};
use super::instance_tasks::InstanceTasks;
use super::memory_budget::{self, InstanceMemory, MemoryDecision, MemoryPool, NodeMemory};
use super::reconcile::{ReconcileStep, next_step};
use super::restarts::Restarts;
use super::status_message::status_message;
use super::{DesiredModel, DesiredModels, InstanceError, ModelStatuses, NodeGpus, ServingTable};
use crate::artifacts::ArtifactStore;
use crate::engines::Engines;
use crate::request_metrics::RequestMetrics;

/// How often the memory of loaded models is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of the model manager.
pub(crate) struct ModelManagerConfig {
    /// Memory for all models together.
    pub(crate) memory: NodeMemory,
    /// The GPUs whose memory that is.
    pub(crate) gpus: NodeGpus,
    /// How long requests may take to finish when their model has to leave.
    pub(crate) drain_timeout: Duration,
    /// Where requests are recorded.
    pub(crate) metrics: RequestMetrics,
}

/// Owns the life cycle of every model.
pub(crate) struct ModelManager {
    artifacts: ArtifactStore,
    /// Memory for all models together.
    memory: NodeMemory,
    table: ServingTable,
    statuses: ModelStatuses,
    instances: BTreeMap<InstanceId, ModelInstance>,
    last_id: InstanceId,
    /// The models that are kept for a while only.
    held: BTreeSet<ModelName>,
    /// Whether the files to keep may differ from those that were last set.
    files_changed: bool,
    tasks: InstanceTasks,
}

impl ModelManager {
    /// Creates a manager without models.
    pub(crate) fn new(
        engines: Engines,
        artifacts: ArtifactStore,
        config: ModelManagerConfig,
    ) -> Self {
        let engines = Arc::new(engines);
        let statuses = ModelStatuses::new();
        Self {
            tasks: InstanceTasks::new(engines, artifacts.clone(), statuses.clone(), &config),
            artifacts,
            memory: config.memory,
            table: ServingTable::default(),
            statuses,
            instances: BTreeMap::new(),
            last_id: InstanceId(0),
            held: BTreeSet::new(),
            files_changed: false,
        }
    }

    /// The models that accept requests.
    pub(crate) fn table(&self) -> ServingTable {
        self.table.clone()
    }

    /// The status of every model.
    pub(crate) fn statuses(&self) -> ModelStatuses {
        self.statuses.clone()
    }

    /// Makes the instances follow the desired state until `stop`, then unloads all of them. Nothing runs,
    /// and all files are kept, while the desired models are `None`: not known.
    pub(crate) async fn run(
        mut self,
        mut desired: watch::Receiver<DesiredModels>,
        stop: CancellationToken,
    ) {
        let mut measure = tokio::time::interval(MEASURE_INTERVAL);
        let mut damages = self.artifacts.damages();
        let (mut snapshot, mut is_new) = (None, true);
        loop {
            if std::mem::take(&mut is_new) {
                snapshot = desired.borrow_and_update().clone();
                self.files_changed = true;
            }
            if let Some(desired) = &snapshot {
                self.keep_files(desired);
            }
            self.reconcile(snapshot.as_deref().unwrap_or_default());
            tokio::select! {
                () = stop.cancelled() => break,
                changed = desired.changed() => match changed {
                    Ok(()) => is_new = true,
                    Err(_) => break,
                },
                _ = damages.changed() => self.stop_damaged(),
                Some((id, event)) = self.tasks.next_event() => self.handle(id, event),
                _ = measure.tick() => self.measure_memory(),
            }
        }
        self.tasks.stop();
        self.reconcile(&[]);
        while let Some((id, event)) = self.tasks.next_event().await {
            self.handle(id, event);
            self.reconcile(&[]);
        }
    }

    /// Keeps the files of the desired models and of those that still run, such as the earlier revision
    /// during a rollout. Those of others are deleted after a while.
    fn keep_files(&mut self, desired: &[DesiredModel]) {
        if std::mem::take(&mut self.files_changed) {
            let files = needed_files(desired, self.instances.values());
            self.artifacts.set_needed(files);
        }
    }

    /// Stops the models whose files have turned out to be damaged. They start again with new files.
    fn stop_damaged(&mut self) {
        let loaded = self.instances.values().filter(|instance| {
            matches!(
                instance.phase,
                InstancePhase::Ready { .. } | InstancePhase::Loading { .. }
            )
        });
        let damaged = loaded.filter(|instance| {
            let files = instance.files.as_ref();
            files.is_some_and(|files| !self.artifacts.is_verified(files))
        });
        let damaged: Vec<InstanceId> = damaged.map(|instance| instance.id).collect();
        for id in damaged {
            self.handle(id, InstanceEvent::Retire(RetireReason::NotDesired));
        }
    }

    /// Starts what is missing and stops what is not desired.
    fn reconcile(&mut self, desired: &[DesiredModel]) {
        let held = desired.iter().filter(|desired| desired.is_held);
        self.held = held.map(|desired| desired.name.clone()).collect();
        let models = self.instances.values().map(|instance| &instance.model);
        // Models on the node come first: they may leave and free memory for new ones.
        let present: BTreeSet<ModelName> = models.cloned().collect();
        let missing = desired.iter().map(|desired| &desired.name);
        let missing: Vec<ModelName> = missing
            .filter(|name| !present.contains(*name))
            .cloned()
            .collect();
        for name in present.iter().chain(&missing) {
            let desired = desired.iter().find(|desired| desired.name == *name);
            self.reconcile_model(name, desired);
        }
    }

    fn reconcile_model(&mut self, name: &ModelName, desired: Option<&DesiredModel>) {
        self.follow_base(name);
        loop {
            let current = self.instance(name, InstanceRole::Current);
            let next = self.instance(name, InstanceRole::Next);
            match (next_step(current, next, desired), desired) {
                (ReconcileStep::StopCurrent, _) => self.stop_current(name),
                (ReconcileStep::StopNext, _) => self.stop_next(name),
                (ReconcileStep::SetAside, _) => self.set_aside(name),
                (ReconcileStep::StartCurrent, Some(desired)) => {
                    self.start(desired, InstanceRole::Current);
                    break;
                }
                (ReconcileStep::StartNext, Some(desired)) => {
                    self.start(desired, InstanceRole::Next);
                    break;
                }
                (ReconcileStep::Keep, _) | (_, None) => break,
            }
        }
        self.report(name);
    }

    /// Starts the instance with this role, creating it if there is none, or takes its start further.
    fn start(&mut self, desired: &DesiredModel, role: InstanceRole) {
        let Some(model) = desired.model.clone() else {
            return;
        };
        let existing = self.instance(&desired.name, role);
        let id = match existing.map(|instance| instance.id) {
            Some(id) => id,
            None => self.add_instance(desired, role),
        };
        let phase = self.instances.get(&id).map(|instance| &instance.phase);
        if let Some(InstancePhase::Checked { needed, .. }) = phase {
            let needed = *needed;
            if !self.is_base_busy(id) {
                self.reserve_memory(id, needed, &desired.name, role);
            }
        } else if matches!(phase, Some(InstancePhase::Waiting)) && self.attach_to_base(id) {
            self.apply(id, InstanceEvent::Start(Box::new(model)));
        }
    }

    /// Loads a checked instance if there is memory for it.
    fn reserve_memory(
        &mut self,
        id: InstanceId,
        needed: Bytes,
        model: &ModelName,
        role: InstanceRole,
    ) {
        let instance = self.instances.get(&id);
        let revision = instance.map(|instance| instance.revision);
        let mut same = self
            .instances
            .values()
            .filter(|other| other.model == *model && Some(other.revision) == revision);
        if let Some(process) = same.find_map(|other| other.stuck) {
            // It would hang as well.
            self.handle(id, InstanceEvent::StartFailed(process.into()));
            return;
        }
        let pools = instance.map_or_else(Vec::new, |instance| self.usable_pools(instance));
        let memory = |instance: &ModelInstance| {
            let memory = instance.memory();
            InstanceMemory {
                // What a held model takes will be free soon, unless it is desired after all.
                is_leaving: memory.is_leaving
                    || self.held.contains(&instance.model) && instance.stuck.is_none(),
                ..memory
            }
        };
        let instances: Vec<_> = self.instances.values().map(memory).collect();
        let replaceable = match role {
            InstanceRole::Next => self
                .instance(model, InstanceRole::Current)
                .map(ModelInstance::memory),
            InstanceRole::Current | InstanceRole::Retired => None,
        };
        let decided = memory_budget::decide(&self.memory, &pools, &instances, needed, replaceable);
        let (decision, pool) = decided;
        match decision {
            MemoryDecision::Load => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.gpu = pool.gpu();
                }
                self.apply(id, InstanceEvent::MemoryReserved);
            }
            MemoryDecision::Wait => {}
            MemoryDecision::ReplaceFirst => self.stop_current(model),
            MemoryDecision::Refuse { free } => {
                let error = match pool {
                    MemoryPool::Gpu(_) => InstanceError::DeviceMemory { needed, free },
                    MemoryPool::Host => InstanceError::Memory { needed, free },
                };
                self.handle(id, InstanceEvent::StartFailed(error));
            }
        }
    }

    /// What an instance may take its memory of. An adapter is where its base is.
    fn usable_pools(&self, instance: &ModelInstance) -> Vec<MemoryPool> {
        if !instance.on_device {
            return vec![MemoryPool::Host];
        }
        if let Some(gpu) = instance.gpu.filter(|_| instance.base.is_some()) {
            return vec![MemoryPool::Gpu(gpu)];
        }
        let gpus = 0..self.memory.gpus.len();
        gpus.filter_map(|gpu| u32::try_from(gpu).ok())
            .map(MemoryPool::Gpu)
            .collect()
    }

    fn add_instance(&mut self, desired: &DesiredModel, role: InstanceRole) -> InstanceId {
        self.last_id.0 += 1;
        let id = self.last_id;
        let spec = desired.model.as_ref().map(|model| &model.spec);
        let uses_accelerator = spec.is_some_and(ModelSpec::uses_accelerator);
        let instance = ModelInstance {
            id,
            model: desired.name.clone(),
            revision: desired.revision,
            files: desired.files.clone(),
            base: spec.and_then(|spec| spec.base.clone()).map(Base::new),
            on_device: !self.memory.gpus.is_empty() && uses_accelerator,
            gpu: None,
            role,
            phase: InstancePhase::Waiting,
            counters: Arc::default(),
            restarts: Restarts::default(),
            measured: None,
            stuck: None,
        };
        self.instances.insert(id, instance);
        self.files_changed = true;
        id
    }

    fn stop_current(&mut self, name: &ModelName) {
        if let Some(current) = self.instance(name, InstanceRole::Current) {
            let id = current.id;
            self.apply(id, InstanceEvent::Retire(RetireReason::NotDesired));
        }
    }

    fn stop_next(&mut self, name: &ModelName) {
        if let Some(next) = self.instance(name, InstanceRole::Next) {
            let id = next.id;
            self.set_role(id, InstanceRole::Retired);
            self.apply(id, InstanceEvent::Retire(RetireReason::NotDesired));
        }
    }

    /// Applies an event of a task or a measurement, and reports the model.
    fn handle(&mut self, id: InstanceId, mut event: InstanceEvent) {
        if let Some(instance) = self.instances.get_mut(&id) {
            let model = instance.model.clone();
            event = instance.restarts.decide(event, Instant::now());
            if let (InstanceEvent::EngineFailing, Some(served)) = (&event, instance.served()) {
                served.record_engine_fault();
            }
            self.apply(id, event);
            self.report(&model);
        }
    }

    /// Feeds an event to an instance and performs the actions that follow.
    fn apply(&mut self, id: InstanceId, event: InstanceEvent) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if matches!(event, InstanceEvent::Unloaded) {
            tracing::info!(model = %instance.model, "unloaded");
        }
        let actions = instance.apply(event);
        if let InstancePhase::Failed(error) = &instance.phase {
            tracing::error!(model = %instance.model, %error, "cannot be served");
        }
        let is_gone = matches!(instance.phase, InstancePhase::Gone);
        for action in actions {
            self.perform(id, action);
        }
        if is_gone {
            self.remove_instance(id);
        }
    }

    fn perform(&mut self, id: InstanceId, action: InstanceAction) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let model = &instance.model;
        match action {
            InstanceAction::Fetch(files) => {
                tracing::info!(%model, size = %files.size(), "checking and fetching the files");
                self.tasks.fetch(instance, files);
            }
            InstanceAction::Check(spec) => self.tasks.check(instance, spec),
            InstanceAction::AbortFetch => self.tasks.abort_fetch(id),
            InstanceAction::CancelLoad => self.tasks.cancel_load(id),
            InstanceAction::FollowEnd(served) => self.tasks.follow_end(id, &served),
            InstanceAction::RestartAfter(delay) => {
                if let InstancePhase::Restarting(error) = &instance.phase {
                    tracing::error!(%model, %error, "has stopped");
                }
                tracing::warn!(%model, "starts again in {} s", delay.as_secs());
                self.tasks.restart_after(id, delay);
            }
            InstanceAction::Load(spec) => {
                tracing::info!(%model, memory = %instance.phase.memory(), "loading");
                self.tasks.load(instance, spec);
            }
            InstanceAction::Publish(served) => {
                tracing::info!(%model, "ready");
                self.table.insert(model, &served);
                // An adapter follows its base, which is watched.
                if instance.base.is_none() {
                    self.tasks.watch(id, &served);
                }
                self.promote(id);
            }
            InstanceAction::Withdraw => self.table.remove(model),
            InstanceAction::Drain { served, reason } => self.tasks.drain(instance, served, reason),
        }
    }

    /// Updates the status of a model.
    fn report(&self, model: &ModelName) {
        let mut instances = self.instances.values();
        let retired = instances.find(|retired| retired.model == *model && retired.stuck.is_some());
        let current = self.instance(model, InstanceRole::Current);
        match current.or(retired) {
            Some(current) => {
                let next = self.instance(model, InstanceRole::Next);
                let retired = retired.and_then(|retired| retired.stuck);
                let served = current.served().cloned();
                self.statuses
                    .set(model, status_message(current, next, retired), served);
            }
            None => self.statuses.remove(model),
        }
    }

    /// Finds out what the models really take, in order to charge them that.
    fn measure_memory(&mut self) {
        for instance in self.instances.values() {
            if let InstancePhase::Ready { memory, served } = &instance.phase {
                let adapters = self.adapter_memory(served);
                let pool = instance.pool();
                self.tasks
                    .measure(instance.id, *memory, adapters, served, pool);
            }
        }
    }
}

/// The files of the desired models and of all instances, each model's once.
fn needed_files<'a>(
    desired: &'a [DesiredModel],
    instances: impl Iterator<Item = &'a ModelInstance>,
) -> Vec<Manifest> {
    let desired = desired.iter().filter_map(|desired| desired.files.as_ref());
    let running = instances.filter_map(|instance| instance.files.as_ref());
    let mut needed: Vec<Manifest> = Vec::new();
    for files in desired.chain(running) {
        if !needed.contains(files) {
            needed.push(files.clone());
        }
    }
    needed
}

mod adapters;
mod roles;

#[cfg(test)]
mod tests;
