//! The life cycle of every model of the node, in one task.
//!
//! A model has a part that serves (or fails to) and, while its revision changes and memory
//! does for both, a second part that is to take its place: the first one serves until the
//! second is ready. Where memory does not, the first leaves before the second is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, ModelSource};
use flotilla_core::{Bytes, ModelName};
use flotilla_proto::v1::ModelPhase;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::part::{AbortOnDrop, InstancePhase, ModelInstance};
use super::{DesiredModel, InstanceError, ModelStatuses, ServedModel, ServingTable};
use crate::artifacts::{ArtifactError, ArtifactStore};
use crate::node_metrics::NodeMetrics;
use flotilla_engine::{EngineSet, LoadError, LoadProgress};

/// How often loaded models are asked whether they still live.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// What the manager needs to know.
pub(crate) struct ModelManagerConfig {
    /// For all models together.
    pub(crate) memory: Bytes,
    /// How long requests may go on when their model has to leave.
    pub(crate) drain: Duration,
    /// See [`Config::return_memory`](crate::AgentConfig::return_memory).
    pub(crate) return_memory: fn(),
    /// What requests are told to.
    pub(crate) observer: NodeMetrics,
}

/// A model of this node.
struct ModelSlot {
    current: ModelInstance,
    /// What is to take its place.
    next: Option<ModelInstance>,
}

/// Tells one part from all others, whatever it is a part of.
pub(super) type InstanceId = u64;

/// What a task of the manager has come to.
enum TaskResult {
    Loaded {
        name: ModelName,
        id: InstanceId,
        loaded: Result<Arc<ServedModel>, LoadError>,
    },
    Fetched {
        name: ModelName,
        id: InstanceId,
        fetched: Result<(), ArtifactError>,
    },
    Left(ModelName, InstanceId),
}

/// Owns the life cycle of every model.
pub(crate) struct ModelManager {
    engines: Arc<EngineSet>,
    artifacts: ArtifactStore,
    settings: ModelManagerConfig,
    table: ServingTable,
    statuses: ModelStatuses,
    slots: BTreeMap<ModelName, ModelSlot>,
    /// Memory of parts that were replaced and still finish their requests.
    leaving: BTreeMap<InstanceId, Bytes>,
    parts: InstanceId,
    tasks: JoinSet<TaskResult>,
    /// The agent ends: loads are not waited for.
    ending: CancellationToken,
}

impl ModelManager {
    pub(crate) fn new(
        engines: EngineSet,
        artifacts: ArtifactStore,
        settings: ModelManagerConfig,
    ) -> Self {
        Self {
            engines: Arc::new(engines),
            artifacts,
            settings,
            table: ServingTable::default(),
            statuses: ModelStatuses::new(),
            slots: BTreeMap::new(),
            leaving: BTreeMap::new(),
            parts: 0,
            tasks: JoinSet::new(),
            ending: CancellationToken::new(),
        }
    }

    /// The models that take requests.
    pub(crate) fn table(&self) -> ServingTable {
        self.table.clone()
    }

    /// What every model is doing.
    pub(crate) fn statuses(&self) -> ModelStatuses {
        self.statuses.clone()
    }

    /// Makes what runs follow what is desired until `stop`, then unloads everything.
    pub(crate) async fn run(
        mut self,
        mut desired: watch::Receiver<Vec<DesiredModel>>,
        stop: CancellationToken,
    ) {
        let mut health = tokio::time::interval(HEALTH_INTERVAL);
        loop {
            let wanted = desired.borrow_and_update().clone();
            self.follow(&wanted).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = desired.changed() => if changed.is_ok() {
                    self.collect(&desired.borrow());
                } else {
                    break;
                },
                Some(outcome) = self.tasks.join_next() => self.finish(outcome),
                _ = health.tick() => self.check(),
            }
        }
        self.ending.cancel();
        self.follow(&[]).await;
        while let Some(outcome) = self.tasks.join_next().await {
            self.finish(outcome);
            self.follow(&[]).await;
        }
    }

    /// Removes files that nothing needs after what controllers told last.
    fn collect(&self, desired: &[DesiredModel]) {
        let needed: Vec<Manifest> = desired.iter().filter_map(|d| d.files.clone()).collect();
        if let Err(error) = self.artifacts.collect(&needed) {
            tracing::warn!(%error, "files that nothing needs could not be removed");
        }
    }

    /// Starts what is missing and ends what is too much.
    async fn follow(&mut self, desired: &[DesiredModel]) {
        let names: Vec<ModelName> = self.slots.keys().cloned().collect();
        for name in names {
            let wanted = desired.iter().find(|d| d.name == name);
            self.adjust(&name, wanted).await;
        }
        for wanted in desired {
            if !self.slots.contains_key(&wanted.name) && wanted.model.is_some() {
                let part = self.begin(wanted, None).await;
                let slot = ModelSlot {
                    current: part,
                    next: None,
                };
                self.slots.insert(wanted.name.clone(), slot);
                self.tell(&wanted.name);
            }
        }
    }

    /// Brings a model that is there to what is wanted of it.
    async fn adjust(&mut self, name: &ModelName, wanted: Option<&DesiredModel>) {
        let Some(mut slot) = self.slots.remove(name) else {
            return;
        };
        let revision = wanted.map(|wanted| wanted.revision);
        // What is to come but not what is wanted does not come.
        if slot
            .next
            .as_ref()
            .is_some_and(|next| Some(next.revision) != revision)
            && let Some(next) = slot.next.take()
        {
            self.end(name, next);
        }
        let stays = Some(slot.current.revision) == revision;
        let mut gone = false;
        match (&slot.current.phase, wanted) {
            (InstancePhase::Leaving, _) => {}
            // Free memory or the files may have come: it is tried again.
            (InstancePhase::Waiting, Some(wanted)) if stays && wanted.model.is_some() => {
                slot.current = self.begin(wanted, None).await;
            }
            _ if stays => {
                if let Some(next) = slot.next.take() {
                    self.end(name, next);
                }
            }
            (InstancePhase::Ready(_), Some(wanted)) if wanted.model.is_some() => {
                let waits = slot
                    .next
                    .as_ref()
                    .is_none_or(|next| matches!(next.phase, InstancePhase::Waiting));
                if waits {
                    let beside = self.begin(wanted, Some(&slot.current)).await;
                    if matches!(beside.phase, InstancePhase::Replaces) {
                        // No memory for both: this one leaves first.
                        slot.current = self.leave(name, slot.current);
                    } else {
                        slot.next = Some(beside);
                    }
                }
            }
            _ => match self.leave(name, slot.current) {
                ModelInstance {
                    phase: InstancePhase::Gone,
                    ..
                } => {
                    gone = true;
                    slot.current = ModelInstance::gone();
                }
                leaving => slot.current = leaving,
            },
        }
        if gone {
            self.statuses.remove(name);
        } else {
            self.slots.insert(name.clone(), slot);
            self.tell(name);
        }
    }

    /// Starts loading a model, if it can be; beside `replaced`, if memory does for both.
    async fn begin(
        &mut self,
        desired: &DesiredModel,
        replaced: Option<&ModelInstance>,
    ) -> ModelInstance {
        self.parts += 1;
        let mut part = ModelInstance {
            id: self.parts,
            revision: desired.revision,
            memory: Bytes(0),
            phase: InstancePhase::Waiting,
        };
        let Some(mut model) = desired.model.clone() else {
            part.phase = InstancePhase::Gone;
            return part;
        };
        if let Some(files) = &desired.files {
            match self.artifacts.find(files) {
                Some(path) => model.spec.source = Some(ModelSource::Path(path)),
                None => {
                    part.phase = self.fetch(&part, &desired.name, files.clone());
                    return part;
                }
            }
        }
        let model = &model;
        let engines = self.engines.clone();
        let engine = engines.get(model.spec.engine);
        let needed = match engine.estimate(model).await {
            Ok(needed) => needed,
            Err(error) => {
                part.fail(model.name(), error.into());
                return part;
            }
        };
        let held = self
            .slots
            .values()
            .flat_map(|slot| [Some(&slot.current), slot.next.as_ref()]);
        let parts = held.flatten().chain(replaced);
        let staying: Bytes = parts
            .clone()
            .filter(|p| !p.is_leaving())
            .map(|p| p.memory)
            .sum();
        let leaving: Bytes = parts.filter(|p| p.is_leaving()).map(|p| p.memory).sum();
        let leaving = leaving + self.leaving.values().copied().sum();
        let free = self.settings.memory.saturating_sub(staying + leaving);
        if needed <= free {
            tracing::info!(model = %model.name(), memory = %needed, "loading");
            part.memory = needed;
            part.phase = InstancePhase::Loading;
            self.load(&part, model.clone());
        } else if needed <= self.settings.memory.saturating_sub(staying) {
            // Enough once those that leave have left.
            part.phase = InstancePhase::Waiting;
        } else if replaced.is_some_and(|r| needed <= free + r.memory + leaving) {
            part.phase = InstancePhase::Replaces;
        } else {
            part.fail(model.name(), InstanceError::Memory { needed, free });
        }
        part
    }

    /// Has the files of a model brought.
    fn fetch(&mut self, part: &ModelInstance, name: &ModelName, files: Manifest) -> InstancePhase {
        tracing::info!(model = %name, size = %files.size(), "fetching");
        let progress = self.progress(part, name);
        let (artifacts, name, id) = (self.artifacts.clone(), name.clone(), part.id);
        let task = self.tasks.spawn(async move {
            let fetched = artifacts.fetch(&files, progress).await;
            TaskResult::Fetched { name, id, fetched }
        });
        InstancePhase::Fetching {
            _task: AbortOnDrop(task),
        }
    }

    /// Where work on a part tells how far it is.
    fn progress(&self, part: &ModelInstance, name: &ModelName) -> LoadProgress {
        let (statuses, name, revision) = (self.statuses.clone(), name.clone(), part.revision);
        Arc::new(move |step, done| statuses.progress(&name, revision, step, done))
    }

    fn load(&mut self, part: &ModelInstance, model: Model) {
        let engines = self.engines.clone();
        let (name, id) = (model.name().clone(), part.id);
        let progress = self.progress(part, &name);
        let observer = self.settings.observer.for_model(&name);
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            let engine = engines.get(model.spec.engine);
            let loaded = tokio::select! {
                loaded = engine.load(&model, progress) => loaded,
                () = ending.cancelled() => Err(LoadError::Engine("the agent ends".into())),
            };
            TaskResult::Loaded {
                name,
                id,
                loaded: loaded
                    .map(|loaded| Arc::new(ServedModel::new(loaded, &model.spec, observer))),
            }
        });
    }

    /// Ends the part that serves a model: at once when nothing is loaded, after its requests
    /// when it is ready, after its load otherwise.
    fn leave(&mut self, name: &ModelName, mut part: ModelInstance) -> ModelInstance {
        part.phase = match part.phase {
            InstancePhase::Failed(_)
            | InstancePhase::Waiting
            | InstancePhase::Replaces
            | InstancePhase::Fetching { .. }
            | InstancePhase::Gone => InstancePhase::Gone,
            InstancePhase::Ready(hosted) => {
                self.table.remove(name);
                self.drain(name.clone(), part.id, hosted.clone(), true);
                InstancePhase::Draining(hosted)
            }
            InstancePhase::Loading => InstancePhase::Leaving,
            InstancePhase::Draining(_) | InstancePhase::Leaving => part.phase,
        };
        part
    }

    /// Ends a part that does not serve, or not any more.
    fn end(&mut self, name: &ModelName, part: ModelInstance) {
        match part.phase {
            InstancePhase::Ready(hosted) => {
                self.leaving.insert(part.id, part.memory);
                self.drain(name.clone(), part.id, hosted, false);
            }
            InstancePhase::Loading => {
                self.leaving.insert(part.id, part.memory);
            }
            _ => {}
        }
    }

    /// Lets requests end and unloads. Those that wait are sent away where `now`, else they
    /// have their turn too: another part serves already.
    fn drain(&mut self, name: ModelName, id: InstanceId, hosted: Arc<ServedModel>, now: bool) {
        let patience = self.settings.drain;
        let return_memory = self.settings.return_memory;
        self.tasks.spawn(async move {
            if now {
                hosted.close();
            }
            if tokio::time::timeout(patience, hosted.drained())
                .await
                .is_err()
            {
                tracing::warn!(model = %name, "requests did not end in time");
            }
            // Whoever came in between is the last.
            hosted.close();
            let _ = tokio::time::timeout(patience, hosted.drained()).await;
            hosted.model.unload().await;
            drop(hosted);
            return_memory();
            TaskResult::Left(name, id)
        });
    }

    fn finish(&mut self, outcome: Result<TaskResult, tokio::task::JoinError>) {
        match outcome {
            Ok(TaskResult::Loaded { name, id, loaded }) => self.loaded(&name, id, loaded),
            Ok(TaskResult::Fetched { name, id, fetched }) => {
                if let Some(part) = self.part(&name, id) {
                    match fetched {
                        // Begun anew when the wish is looked at next, which is now.
                        Ok(()) => part.phase = InstancePhase::Waiting,
                        Err(error) => {
                            part.fail(&name, error.into());
                            self.tell(&name);
                        }
                    }
                }
            }
            Ok(TaskResult::Left(name, id)) => {
                tracing::info!(model = %name, "unloaded");
                self.leaving.remove(&id);
                if self
                    .slots
                    .get(&name)
                    .is_some_and(|slot| slot.current.id == id)
                {
                    self.remove_current(&name);
                }
            }
            // Of what is not wanted any more.
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a task of the model manager has failed"),
        }
    }

    /// A part of a model.
    fn part(&mut self, name: &ModelName, id: InstanceId) -> Option<&mut ModelInstance> {
        let slot = self.slots.get_mut(name)?;
        let parts = [Some(&mut slot.current), slot.next.as_mut()];
        parts.into_iter().flatten().find(|part| part.id == id)
    }

    /// What served is gone; what was to take its place has it now.
    fn remove_current(&mut self, name: &ModelName) {
        let Some(slot) = self.slots.remove(name) else {
            return;
        };
        match slot.next {
            Some(next) => {
                let slot = ModelSlot {
                    current: next,
                    next: None,
                };
                self.slots.insert(name.clone(), slot);
                self.tell(name);
            }
            None => self.statuses.remove(name),
        }
    }

    fn loaded(
        &mut self,
        name: &ModelName,
        id: InstanceId,
        loaded: Result<Arc<ServedModel>, LoadError>,
    ) {
        let part = self.part(name, id);
        let wanted = part.filter(|part| matches!(part.phase, InstancePhase::Loading));
        match (wanted, loaded) {
            (Some(part), Ok(hosted)) => {
                tracing::info!(model = %name, "ready");
                part.phase = InstancePhase::Ready(hosted.clone());
                self.table.insert(name, &hosted);
                self.promote(name, id);
                self.tell(name);
            }
            (Some(part), Err(error)) => {
                part.fail(name, error.into());
                self.tell(name);
            }
            // It is not wanted any more.
            (None, Ok(hosted)) => self.drain(name.clone(), id, hosted, true),
            (None, Err(_)) => self.finish(Ok(TaskResult::Left(name.clone(), id))),
        }
    }

    /// The part that was to take the place of another does so, if it is this one.
    fn promote(&mut self, name: &ModelName, id: InstanceId) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        if slot.current.id != id
            && let Some(next) = slot.next.take()
        {
            let replaced = std::mem::replace(&mut slot.current, next);
            self.end(name, replaced);
        }
    }

    /// Says what a model is doing.
    fn tell(&self, name: &ModelName) {
        if let Some(slot) = self.slots.get(name) {
            let mut message = slot.current.message(name);
            let next = slot.next.as_ref();
            message.next = next.map(|next| Box::new(next.message(name)));
            self.statuses.set(name, message, slot.current.hosted());
        }
    }

    /// Finds models whose engine has died.
    fn check(&mut self) {
        let mut dead = Vec::new();
        for (name, slot) in &mut self.slots {
            if let InstancePhase::Ready(hosted) = &slot.current.phase
                && let Some(fault) = hosted.model.fault()
            {
                self.table.remove(name);
                slot.current.fail(name, LoadError::Engine(fault).into());
                dead.push(name.clone());
            }
        }
        for name in dead {
            self.tell(&name);
        }
    }
}

impl ModelInstance {
    fn is_leaving(&self) -> bool {
        matches!(
            self.phase,
            InstancePhase::Leaving | InstancePhase::Draining(_)
        )
    }

    fn message(&self, name: &ModelName) -> flotilla_proto::v1::ModelStatus {
        let mut message = flotilla_proto::v1::ModelStatus {
            name: name.to_string(),
            revision: self.revision.0,
            memory: self.memory.0,
            ..Default::default()
        };
        let phase = match &self.phase {
            InstancePhase::Waiting | InstancePhase::Replaces => {
                "waiting for memory".clone_into(&mut message.step);
                ModelPhase::Loading
            }
            InstancePhase::Fetching { .. } => ModelPhase::Fetching,
            InstancePhase::Loading => ModelPhase::Loading,
            InstancePhase::Ready(_) => ModelPhase::Ready,
            InstancePhase::Draining(_) | InstancePhase::Leaving | InstancePhase::Gone => {
                ModelPhase::Draining
            }
            InstancePhase::Failed(error) => {
                message.problem = error.to_string();
                error.remedy().clone_into(&mut message.remedy);
                if let InstanceError::Memory { needed, .. } = error {
                    message.memory_needed = needed.0;
                }
                ModelPhase::Failed
            }
        };
        message.phase = phase.into();
        message
    }
}

#[cfg(test)]
mod tests;
