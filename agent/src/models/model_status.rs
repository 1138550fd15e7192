//! The status of every model on the node, for the links that report it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::{ModelName, ModelRevision};
use flotilla_proto::v1::{ModelPhase, ModelStatus};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::ServedModel;

/// The status of every model on the node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ModelStatuses {
    models: Arc<Mutex<BTreeMap<ModelName, ModelState>>>,
    changed: watch::Sender<()>,
}

/// The status of one model.
struct ModelState {
    message: ModelStatus,
    /// The loaded model, whose counters are read. `None` while nothing is loaded.
    served: Option<Arc<ServedModel>>,
}

impl ModelStatuses {
    pub(super) fn new() -> Self {
        Self {
            models: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Subscribes to changes. A changed progress is not announced.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the status of every model, with fresh counters, ordered by name.
    pub(crate) fn now(&self) -> Vec<ModelStatus> {
        let models = self.lock();
        let messages = models.values().map(|state| {
            let mut message = state.message.clone();
            if let Some(served) = &state.served {
                message.counters = Some(served.counters());
                message.concurrency = served.concurrency();
                message.prefix_cache = served.model.has_prefix_cache();
                message.context_length = served.context_length();
                message.file_defaults = served.file_defaults();
            }
            message
        });
        messages.collect()
    }

    /// Sets the status of a model. Subscribers are notified if more than its progress differs.
    pub(super) fn set(
        &self,
        name: &ModelName,
        message: ModelStatus,
        served: Option<Arc<ServedModel>>,
    ) {
        let mut models = self.lock();
        if let Some(current) = models.get(name)
            && is_same_but_progress(&current.message, &message)
        {
            return;
        }
        models.insert(name.clone(), ModelState { message, served });
        drop(models);
        self.changed.send_replace(());
    }

    /// Removes a model and notifies subscribers, if it has a status.
    pub(super) fn remove(&self, name: &ModelName) {
        if self.lock().remove(name).is_some() {
            self.changed.send_replace(());
        }
    }

    /// Records the progress of a fetch or load, without notifying subscribers. `fraction` is from 0
    /// to 1.
    pub(super) fn set_progress(
        &self,
        name: &ModelName,
        revision: ModelRevision,
        step: &str,
        fraction: f32,
    ) {
        let mut models = self.lock();
        let Some(state) = models.get_mut(name) else {
            return;
        };
        let current = &mut state.message;
        let is_matching = |message: &ModelStatus| {
            let is_working = [ModelPhase::Fetching, ModelPhase::Loading].contains(&message.phase());
            is_working && message.revision == revision.0
        };
        if let Some(next) = current
            .replacement
            .as_mut()
            .filter(|next| is_matching(next))
        {
            step.clone_into(&mut next.loading_stage);
            next.loading_progress = fraction;
        }
        if is_matching(current) {
            step.clone_into(&mut current.loading_stage);
            current.loading_progress = fraction;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelName, ModelState>> {
        self.models.lock()
    }
}

/// Whether a new status differs from the `current` one in nothing but its progress. A stage that the new
/// status does not name is the business of [`ModelStatuses::set_progress`].
fn is_same_but_progress(current: &ModelStatus, new: &ModelStatus) -> bool {
    let is_same = |current: &ModelStatus, new: &ModelStatus| {
        let has_same_stage =
            new.loading_stage.is_empty() || current.loading_stage == new.loading_stage;
        has_same_stage
            && current.phase == new.phase
            && current.revision == new.revision
            && current.memory_bytes == new.memory_bytes
            && current.error == new.error
    };
    is_same(current, new)
        && match (&current.replacement, &new.replacement) {
            (Some(current), Some(new)) => is_same(current, new),
            (current, new) => current.is_none() && new.is_none(),
        }
}
