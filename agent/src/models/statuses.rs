//! What every model of the node is doing, for those who report it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::{ModelName, ModelRevision};
use flotilla_proto::v1::{ModelPhase, ModelStatus};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::ServedModel;

/// What every model is doing. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ModelStatuses {
    models: Arc<Mutex<BTreeMap<ModelName, ModelState>>>,
    changed: watch::Sender<()>,
}

struct ModelState {
    message: ModelStatus,
    hosted: Option<Arc<ServedModel>>,
}

impl ModelStatuses {
    pub(super) fn new() -> Self {
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
            if let Some(hosted) = &status.hosted {
                message.counters = Some(hosted.counts());
                message.concurrency = hosted.concurrency();
                message.prefix_cache = hosted.model.has_prefix_cache();
            }
            message
        });
        messages.collect()
    }

    /// A model does this now. Said again it wakes nobody.
    pub(super) fn set(
        &self,
        name: &ModelName,
        message: ModelStatus,
        hosted: Option<Arc<ServedModel>>,
    ) {
        let mut models = self.lock();
        if let Some(known) = models.get(name)
            && same_but_for_progress(&known.message, &message)
        {
            return;
        }
        models.insert(name.clone(), ModelState { message, hosted });
        drop(models);
        self.changed.send_replace(());
    }

    pub(super) fn remove(&self, name: &ModelName) {
        self.lock().remove(name);
        self.changed.send_replace(());
    }

    /// Notes how far the load of a revision is, without waking anybody for it.
    pub(super) fn progress(
        &self,
        name: &ModelName,
        revision: ModelRevision,
        step: &str,
        part: f32,
    ) {
        let mut models = self.lock();
        let Some(status) = models.get_mut(name) else {
            return;
        };
        let message = &mut status.message;
        if let Some(next) = &mut message.next {
            note(next, revision, step, part);
        }
        note(message, revision, step, part);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, BTreeMap<ModelName, ModelState>> {
        self.models.lock()
    }
}

fn note(message: &mut ModelStatus, revision: ModelRevision, step: &str, part: f32) {
    let works = [ModelPhase::Fetching, ModelPhase::Loading].contains(&message.phase());
    if message.revision == revision.0 && works {
        step.clone_into(&mut message.step);
        message.progress = part;
    }
}

/// Whether two statuses tell the same story, however far a load is.
fn same_but_for_progress(one: &ModelStatus, other: &ModelStatus) -> bool {
    fn story(status: &ModelStatus) -> impl PartialEq + '_ {
        (
            status.phase,
            status.revision,
            status.memory,
            &status.problem,
        )
    }
    story(one) == story(other) && one.next.as_deref().map(story) == other.next.as_deref().map(story)
}
