//! The life cycle of every model of the node, in one task.
//!
//! A model has a part that serves (or fails to) and, while its revision changes and memory
//! does for both, a second part that is to take its place: the first one serves until the
//! second is ready. Where memory does not, the first leaves before the second is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::spec::Model;
use flotilla_core::{Bytes, ModelName};
use flotilla_proto::v1::ModelPhase;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::part::{Part, Phase};
use super::{Desired, Hosted, Statuses, Table};
use crate::engine::{Engines, LoadError, Progress};

/// How often loaded models are asked whether they still live.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// What the manager needs to know.
pub(crate) struct ManagerSettings {
    /// For all models together.
    pub(crate) memory: Bytes,
    /// How long requests may go on when their model has to leave.
    pub(crate) drain: Duration,
    /// See [`Config::return_memory`](crate::Config::return_memory).
    pub(crate) return_memory: fn(),
}

/// A model of this node.
struct Slot {
    current: Part,
    /// What is to take its place.
    next: Option<Part>,
}

/// Tells one part from all others, whatever it is a part of.
pub(super) type PartId = u64;

/// What a task of the manager has come to.
enum Outcome {
    Loaded {
        name: ModelName,
        id: PartId,
        loaded: Result<Arc<Hosted>, LoadError>,
    },
    Left(ModelName, PartId),
}

/// Owns the life cycle of every model.
pub(crate) struct Manager {
    engines: Arc<Engines>,
    settings: ManagerSettings,
    table: Table,
    statuses: Statuses,
    slots: BTreeMap<ModelName, Slot>,
    /// Memory of parts that were replaced and still finish their requests.
    leaving: BTreeMap<PartId, Bytes>,
    parts: PartId,
    tasks: JoinSet<Outcome>,
}

impl Manager {
    pub(crate) fn new(engines: Engines, settings: ManagerSettings) -> Self {
        Self {
            engines: Arc::new(engines),
            settings,
            table: Table::default(),
            statuses: Statuses::new(),
            slots: BTreeMap::new(),
            leaving: BTreeMap::new(),
            parts: 0,
            tasks: JoinSet::new(),
        }
    }

    /// The models that take requests.
    pub(crate) fn table(&self) -> Table {
        self.table.clone()
    }

    /// What every model is doing.
    pub(crate) fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// Makes what runs follow what is desired until `stop`, then unloads everything.
    pub(crate) async fn run(
        mut self,
        mut desired: watch::Receiver<Vec<Desired>>,
        stop: CancellationToken,
    ) {
        let mut health = tokio::time::interval(HEALTH_INTERVAL);
        loop {
            let wanted = desired.borrow_and_update().clone();
            self.follow(&wanted).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = desired.changed() => if changed.is_err() {
                    break;
                },
                Some(outcome) = self.tasks.join_next() => self.finish(outcome),
                _ = health.tick() => self.check(),
            }
        }
        self.follow(&[]).await;
        while let Some(outcome) = self.tasks.join_next().await {
            self.finish(outcome);
            self.follow(&[]).await;
        }
    }

    /// Starts what is missing and ends what is too much.
    async fn follow(&mut self, desired: &[Desired]) {
        let names: Vec<ModelName> = self.slots.keys().cloned().collect();
        for name in names {
            let wanted = desired.iter().find(|d| d.name == name);
            self.adjust(&name, wanted).await;
        }
        for wanted in desired {
            if !self.slots.contains_key(&wanted.name)
                && let Some(model) = &wanted.model
            {
                let part = self.begin(wanted.revision, model, None).await;
                let slot = Slot {
                    current: part,
                    next: None,
                };
                self.slots.insert(wanted.name.clone(), slot);
                self.tell(&wanted.name);
            }
        }
    }

    /// Brings a model that is there to what is wanted of it.
    async fn adjust(&mut self, name: &ModelName, wanted: Option<&Desired>) {
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
            (Phase::Leaving, _) => {}
            // Free memory may have come: a load that waits for it is tried again.
            (
                Phase::Waiting,
                Some(Desired {
                    model: Some(model), ..
                }),
            ) if stays => {
                slot.current = self.begin(slot.current.revision, model, None).await;
            }
            _ if stays => {
                if let Some(next) = slot.next.take() {
                    self.end(name, next);
                }
            }
            (
                Phase::Ready(_),
                Some(Desired {
                    model: Some(model),
                    revision,
                    ..
                }),
            ) => {
                let waits = slot
                    .next
                    .as_ref()
                    .is_none_or(|n| matches!(n.phase, Phase::Waiting));
                if waits {
                    let beside = self.begin(*revision, model, Some(&slot.current)).await;
                    if matches!(beside.phase, Phase::Replaces) {
                        // No memory for both: this one leaves first.
                        slot.current = self.leave(name, slot.current);
                    } else {
                        slot.next = Some(beside);
                    }
                }
            }
            _ => match self.leave(name, slot.current) {
                Part {
                    phase: Phase::Gone, ..
                } => {
                    gone = true;
                    slot.current = Part::gone();
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
    async fn begin(&mut self, revision: u64, model: &Model, replaced: Option<&Part>) -> Part {
        self.parts += 1;
        let mut part = Part {
            id: self.parts,
            revision,
            memory: Bytes(0),
            phase: Phase::Waiting,
        };
        let engines = self.engines.clone();
        let engine = engines.get(model.spec.engine);
        let needed = match engine.estimate(model).await {
            Ok(needed) => needed,
            Err(error) => {
                part.fail(model.name(), error);
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
            part.phase = Phase::Loading;
            self.load(&part, model.clone());
        } else if needed <= self.settings.memory.saturating_sub(staying) {
            // Enough once those that leave have left.
            part.phase = Phase::Waiting;
        } else if replaced.is_some_and(|r| needed <= free + r.memory + leaving) {
            part.phase = Phase::Replaces;
        } else {
            part.fail(model.name(), LoadError::Memory { needed, free });
        }
        part
    }

    fn load(&mut self, part: &Part, model: Model) {
        let engines = self.engines.clone();
        let statuses = self.statuses.clone();
        let (name, id) = (model.name().clone(), part.id);
        let progress: Progress = {
            let (name, revision) = (name.clone(), part.revision);
            Arc::new(move |step, done| statuses.progress(&name, revision, step, done))
        };
        self.tasks.spawn(async move {
            let engine = engines.get(model.spec.engine);
            let loaded = engine.load(&model, progress).await;
            Outcome::Loaded {
                name,
                id,
                loaded: loaded.map(|loaded| Arc::new(Hosted::new(loaded, &model.spec))),
            }
        });
    }

    /// Ends the part that serves a model: at once when nothing is loaded, after its requests
    /// when it is ready, after its load otherwise.
    fn leave(&mut self, name: &ModelName, mut part: Part) -> Part {
        part.phase = match part.phase {
            Phase::Failed(_) | Phase::Waiting | Phase::Replaces | Phase::Gone => Phase::Gone,
            Phase::Ready(hosted) => {
                self.table.remove(name);
                self.drain(name.clone(), part.id, hosted.clone(), true);
                Phase::Draining(hosted)
            }
            Phase::Loading => Phase::Leaving,
            Phase::Draining(_) | Phase::Leaving => part.phase,
        };
        part
    }

    /// Ends a part that does not serve, or not any more.
    fn end(&mut self, name: &ModelName, part: Part) {
        match part.phase {
            Phase::Ready(hosted) => {
                self.leaving.insert(part.id, part.memory);
                self.drain(name.clone(), part.id, hosted, false);
            }
            Phase::Loading => {
                self.leaving.insert(part.id, part.memory);
            }
            _ => {}
        }
    }

    /// Lets requests end and unloads. Those that wait are sent away where `now`, else they
    /// have their turn too: another part serves already.
    fn drain(&mut self, name: ModelName, id: PartId, hosted: Arc<Hosted>, now: bool) {
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
            Outcome::Left(name, id)
        });
    }

    fn finish(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        match outcome {
            Ok(Outcome::Loaded { name, id, loaded }) => self.loaded(&name, id, loaded),
            Ok(Outcome::Left(name, id)) => {
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
            Err(error) => tracing::error!(%error, "a task of the model manager has failed"),
        }
    }

    /// What served is gone; what was to take its place has it now.
    fn remove_current(&mut self, name: &ModelName) {
        let Some(slot) = self.slots.remove(name) else {
            return;
        };
        match slot.next {
            Some(next) => {
                let slot = Slot {
                    current: next,
                    next: None,
                };
                self.slots.insert(name.clone(), slot);
                self.tell(name);
            }
            None => self.statuses.remove(name),
        }
    }

    fn loaded(&mut self, name: &ModelName, id: PartId, loaded: Result<Arc<Hosted>, LoadError>) {
        let slot = self.slots.get_mut(name);
        let part = slot.and_then(|slot| {
            [Some(&mut slot.current), slot.next.as_mut()]
                .into_iter()
                .flatten()
                .find(|part| part.id == id)
        });
        let wanted = part.filter(|part| matches!(part.phase, Phase::Loading));
        match (wanted, loaded) {
            (Some(part), Ok(hosted)) => {
                tracing::info!(model = %name, "ready");
                part.phase = Phase::Ready(hosted.clone());
                self.table.insert(name, &hosted);
                self.promote(name, id);
                self.tell(name);
            }
            (Some(part), Err(error)) => {
                part.fail(name, error);
                self.tell(name);
            }
            // It is not wanted any more.
            (None, Ok(hosted)) => self.drain(name.clone(), id, hosted, true),
            (None, Err(_)) => self.finish(Ok(Outcome::Left(name.clone(), id))),
        }
    }

    /// The part that was to take the place of another does so, if it is this one.
    fn promote(&mut self, name: &ModelName, id: PartId) {
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
            if let Phase::Ready(hosted) = &slot.current.phase
                && let Some(fault) = hosted.model.fault()
            {
                self.table.remove(name);
                slot.current.fail(name, LoadError::Engine(fault));
                dead.push(name.clone());
            }
        }
        for name in dead {
            self.tell(&name);
        }
    }
}

impl Part {
    fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving | Phase::Draining(_))
    }

    fn message(&self, name: &ModelName) -> flotilla_proto::v1::ModelStatus {
        let mut message = flotilla_proto::v1::ModelStatus {
            name: name.to_string(),
            revision: self.revision,
            memory: self.memory.0,
            ..Default::default()
        };
        let phase = match &self.phase {
            Phase::Waiting | Phase::Replaces => {
                "waiting for memory".clone_into(&mut message.step);
                ModelPhase::Loading
            }
            Phase::Loading => ModelPhase::Loading,
            Phase::Ready(_) => ModelPhase::Ready,
            Phase::Draining(_) | Phase::Leaving | Phase::Gone => ModelPhase::Draining,
            Phase::Failed(error) => {
                message.problem = error.to_string();
                error.remedy().clone_into(&mut message.remedy);
                if let LoadError::Memory { needed, .. } = error {
                    message.needed = needed.0;
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
