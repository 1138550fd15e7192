//! The life cycle of every model of the node, in one task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_core::spec::Model;
use flotilla_core::{Bytes, ModelName};
use flotilla_proto::v1::{ModelPhase, ModelStatus};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Desired, Hosted, Table};
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

/// What every model is doing, for those who report it.
#[derive(Clone)]
pub(crate) struct Statuses {
    models: Arc<Mutex<BTreeMap<ModelName, Status>>>,
    changed: watch::Sender<()>,
}

struct Status {
    message: ModelStatus,
    hosted: Option<Arc<Hosted>>,
}

impl Statuses {
    fn new() -> Self {
        Self {
            models: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Told when a model enters another phase.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What every model is doing now, with fresh counters.
    pub(crate) fn now(&self) -> Vec<ModelStatus> {
        let models = self.lock();
        let messages = models.values().map(|status| {
            let mut message = status.message.clone();
            message.counters = status.hosted.as_ref().map(|hosted| hosted.counts());
            message
        });
        messages.collect()
    }

    fn set(&self, name: &ModelName, message: ModelStatus, hosted: Option<Arc<Hosted>>) {
        self.lock().insert(name.clone(), Status { message, hosted });
        self.changed.send_replace(());
    }

    fn remove(&self, name: &ModelName) {
        self.lock().remove(name);
        self.changed.send_replace(());
    }

    /// Notes how far a load is, without waking anybody for it.
    fn progress(&self, name: &ModelName, step: &str, part: f32) {
        if let Some(status) = self.lock().get_mut(name)
            && status.message.phase() == ModelPhase::Loading
        {
            step.clone_into(&mut status.message.step);
            status.message.progress = part;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ModelName, Status>> {
        // Nothing panics while it is held.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a model is in its life.
enum Phase {
    Loading,
    Ready(Arc<Hosted>),
    /// Finishing its requests or being loaded in vain; then it is forgotten.
    Leaving,
    Failed,
}

struct Slot {
    revision: u64,
    memory: Bytes,
    phase: Phase,
}

/// What a task of the manager has come to.
enum Outcome {
    Loaded {
        name: ModelName,
        model: Box<Model>,
        loaded: Result<Arc<Hosted>, LoadError>,
    },
    Left(ModelName),
}

/// Owns the life cycle of every model.
pub(crate) struct Manager {
    engines: Arc<Engines>,
    settings: ManagerSettings,
    table: Table,
    statuses: Statuses,
    slots: BTreeMap<ModelName, Slot>,
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
        let wanted = |name: &ModelName| desired.iter().find(|d| d.model.name() == name);
        let surplus: Vec<ModelName> = self
            .slots
            .iter()
            .filter(|(name, slot)| wanted(name).is_none_or(|w| w.revision != slot.revision))
            .map(|(name, _)| name.clone())
            .collect();
        for name in surplus {
            self.leave(&name);
        }
        for desired in desired {
            if !self.slots.contains_key(desired.model.name()) {
                self.begin(desired).await;
            }
        }
    }

    /// Starts loading a model, if it can be.
    async fn begin(&mut self, desired: &Desired) {
        let name = desired.model.name().clone();
        let engines = self.engines.clone();
        let engine = engines.get(desired.model.spec.engine);
        let estimate = match engine.estimate(&desired.model).await {
            Ok(needed) => {
                let taken: Bytes = self.slots.values().map(|slot| slot.memory).sum();
                let free = self.settings.memory.saturating_sub(taken);
                if needed > free {
                    Err(LoadError::Memory { needed, free })
                } else {
                    Ok(needed)
                }
            }
            Err(error) => Err(error),
        };
        let mut slot = Slot {
            revision: desired.revision,
            memory: Bytes(0),
            phase: Phase::Failed,
        };
        match estimate {
            Err(error) => self.fail(&name, &mut slot, &error),
            Ok(memory) => {
                tracing::info!(model = %name, %memory, "loading");
                slot.memory = memory;
                slot.phase = Phase::Loading;
                self.statuses
                    .set(&name, slot.message(&name, ModelPhase::Loading), None);
                self.load(desired.model.clone());
            }
        }
        self.slots.insert(name, slot);
    }

    fn load(&mut self, model: Model) {
        let engines = self.engines.clone();
        let statuses = self.statuses.clone();
        let name = model.name().clone();
        let progress: Progress = {
            let name = name.clone();
            Arc::new(move |step, part| statuses.progress(&name, step, part))
        };
        self.tasks.spawn(async move {
            let engine = engines.get(model.spec.engine);
            let loaded = engine.load(&model, progress).await;
            Outcome::Loaded {
                name,
                loaded: loaded.map(|loaded| Arc::new(Hosted::new(loaded, &model.spec))),
                model: Box::new(model),
            }
        });
    }

    /// Ends a model: at once when it failed, after its requests when it is ready, after
    /// its load otherwise.
    fn leave(&mut self, name: &ModelName) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        match std::mem::replace(&mut slot.phase, Phase::Leaving) {
            Phase::Failed => {
                self.slots.remove(name);
                self.statuses.remove(name);
            }
            Phase::Ready(hosted) => {
                self.table.remove(name);
                self.statuses.set(
                    name,
                    slot.message(name, ModelPhase::Draining),
                    Some(hosted.clone()),
                );
                self.drain(name.clone(), hosted);
            }
            Phase::Loading | Phase::Leaving => {}
        }
    }

    fn drain(&mut self, name: ModelName, hosted: Arc<Hosted>) {
        let patience = self.settings.drain;
        let return_memory = self.settings.return_memory;
        self.tasks.spawn(async move {
            hosted.close();
            if tokio::time::timeout(patience, hosted.drained())
                .await
                .is_err()
            {
                tracing::warn!(model = %name, "requests did not end in time");
            }
            hosted.model.unload().await;
            drop(hosted);
            return_memory();
            Outcome::Left(name)
        });
    }

    fn finish(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        match outcome {
            Ok(Outcome::Loaded {
                name,
                model,
                loaded,
            }) => self.loaded(&name, &model, loaded),
            Ok(Outcome::Left(name)) => {
                tracing::info!(model = %name, "unloaded");
                self.slots.remove(&name);
                self.statuses.remove(&name);
            }
            Err(error) => tracing::error!(%error, "a task of the model manager has failed"),
        }
    }

    fn loaded(&mut self, name: &ModelName, model: &Model, loaded: Result<Arc<Hosted>, LoadError>) {
        let Some(mut slot) = self.slots.remove(name) else {
            return;
        };
        match (loaded, &slot.phase) {
            (Ok(hosted), Phase::Loading) => {
                tracing::info!(model = %name, engine = %model.spec.engine, "ready");
                slot.phase = Phase::Ready(hosted.clone());
                self.table.insert(name, &hosted);
                let message = slot.message(name, ModelPhase::Ready);
                self.statuses.set(name, message, Some(hosted));
            }
            // It is not wanted any more.
            (Ok(hosted), _) => self.drain(name.clone(), hosted),
            (Err(_), Phase::Leaving) => {
                self.statuses.remove(name);
                return;
            }
            (Err(error), _) => self.fail(name, &mut slot, &error),
        }
        self.slots.insert(name.clone(), slot);
    }

    fn fail(&self, name: &ModelName, slot: &mut Slot, error: &LoadError) {
        tracing::error!(model = %name, %error, "cannot be served");
        slot.phase = Phase::Failed;
        slot.memory = Bytes(0);
        let mut message = slot.message(name, ModelPhase::Failed);
        message.problem = error.to_string();
        message.remedy = error.remedy().to_owned();
        self.statuses.set(name, message, None);
    }

    /// Finds models whose engine has died.
    fn check(&mut self) {
        let dead: Vec<_> = self
            .slots
            .iter()
            .filter_map(|(name, slot)| match &slot.phase {
                Phase::Ready(hosted) => Some((name.clone(), hosted.model.fault()?)),
                _ => None,
            })
            .collect();
        for (name, fault) in dead {
            self.table.remove(&name);
            if let Some(mut slot) = self.slots.remove(&name) {
                self.fail(&name, &mut slot, &LoadError::Engine(fault));
                self.slots.insert(name, slot);
            }
        }
    }
}

impl Slot {
    fn message(&self, name: &ModelName, phase: ModelPhase) -> ModelStatus {
        ModelStatus {
            name: name.to_string(),
            revision: self.revision,
            phase: phase.into(),
            memory: self.memory.0,
            ..ModelStatus::default()
        }
    }
}

#[cfg(test)]
mod tests;
