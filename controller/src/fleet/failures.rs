//! Which nodes failed to run which models, and for how long that keeps them from being asked
//! again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::placement::Assignment;
use flotilla_core::{ModelName, NodeName};

use super::view::LoadFailureView;

/// How long a node that failed to run a model is not asked again; doubles with each failure.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// Never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

struct LoadFailure {
    failed: LoadFailureView,
    pause: Duration,
    /// `None` once the node may be asked again.
    until: Option<Instant>,
}

/// All that failed.
#[derive(Default)]
pub(super) struct FailureMemory {
    all: BTreeMap<Assignment, LoadFailure>,
}

impl FailureMemory {
    /// A node has failed. Reported again it is no news.
    pub(super) fn note(&mut self, at: Assignment, failed: LoadFailureView, now: Instant) {
        let known = self
            .all
            .get(&at)
            .filter(|known| known.failed.revision == failed.revision);
        let pause = match known {
            Some(known) if known.until.is_some() => return,
            Some(known) => (known.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        let until = Some(now + pause);
        self.all.insert(
            at,
            LoadFailure {
                failed,
                pause,
                until,
            },
        );
    }

    /// It went well, after all.
    pub(super) fn forget(&mut self, at: &Assignment) {
        self.all.remove(at);
    }

    /// A model has changed, or gone.
    pub(super) fn forget_model(&mut self, model: &ModelName) {
        self.all.retain(|at, _| at.model != *model);
    }

    /// A node has started anew.
    pub(super) fn forget_node(&mut self, node: &NodeName) {
        self.all.retain(|at, _| at.node != *node);
    }

    /// When a node may be asked again next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.all.values().filter_map(|failure| failure.until).min()
    }

    /// Lets pauses end. Returns whether any has.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for failure in self.all.values_mut() {
            if failure.until.is_some_and(|until| until <= now) {
                failure.until = None;
                any = true;
            }
        }
        any
    }

    /// By model: what counts now.
    pub(super) fn current(&self) -> BTreeMap<&ModelName, BTreeMap<NodeName, LoadFailureView>> {
        let mut current: BTreeMap<&ModelName, BTreeMap<NodeName, LoadFailureView>> =
            BTreeMap::new();
        for (at, failure) in self.all.iter().filter(|(_, f)| f.until.is_some()) {
            let nodes = current.entry(&at.model).or_default();
            nodes.insert(at.node.clone(), failure.failed.clone());
        }
        current
    }
}
