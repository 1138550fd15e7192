//! Failed loads. They keep the placement from assigning a model to a node again right after it failed
//! to load there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::placement::Assignment;
use flotilla_core::{ModelName, NodeName};

use super::LoadFailureView;

/// How long the first failure of a model on a node counts; doubles with each further failure.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_secs(15);
/// The longest time that a failure counts.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// The last failure of one model on one node.
struct LoadFailure {
    failure: LoadFailureView,
    /// How long this failure counts.
    backoff: Duration,
    /// When this failure stops counting. `None` afterwards.
    expires: Option<Instant>,
}

/// The failures of all models on all nodes.
#[derive(Default)]
pub(super) struct LoadFailures {
    failures: BTreeMap<Assignment, LoadFailure>,
}

impl LoadFailures {
    /// Records a failure. A failure that is reported again while it counts changes nothing, so
    /// that it does expire. Returns whether the failures that count have changed.
    pub(super) fn record(
        &mut self,
        assignment: Assignment,
        failure: LoadFailureView,
        now: Instant,
    ) -> bool {
        let earlier = self
            .failures
            .get(&assignment)
            .filter(|earlier| earlier.failure.revision == failure.revision);
        let backoff = match earlier {
            Some(earlier) if earlier.expires.is_some() => return false,
            Some(earlier) => (earlier.backoff * 2).min(MAX_BACKOFF),
            None => FIRST_BACKOFF,
        };
        let failure = LoadFailure {
            failure,
            backoff,
            expires: Some(now + backoff),
        };
        self.failures.insert(assignment, failure);
        true
    }

    /// Clears the failure of a model on a node, after the model has loaded there. Returns whether the
    /// failures that count have changed.
    pub(super) fn clear(&mut self, assignment: &Assignment) -> bool {
        let cleared = self.failures.remove(assignment);
        cleared.is_some_and(|failure| failure.expires.is_some())
    }

    /// Clears the failures of a model, after its spec has changed or it was deleted.
    pub(super) fn clear_model(&mut self, model: &ModelName) {
        self.failures
            .retain(|assignment, _| assignment.model != *model);
    }

    /// Clears the failures on a node, after its agent has joined again.
    pub(super) fn clear_node(&mut self, node: &NodeName) {
        self.failures
            .retain(|assignment, _| assignment.node != *node);
    }

    /// When the next failure expires.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.failures
            .values()
            .filter_map(|failure| failure.expires)
            .min()
    }

    /// Expires the failures that are due. Returns whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut expired = false;
        for failure in self.failures.values_mut() {
            if failure.expires.is_some_and(|expires| expires <= now) {
                failure.expires = None;
                expired = true;
            }
        }
        expired
    }

    /// Returns the failures that count now, by model and node.
    pub(super) fn by_model(&self) -> BTreeMap<&ModelName, BTreeMap<NodeName, LoadFailureView>> {
        let mut by_model: BTreeMap<&ModelName, BTreeMap<NodeName, LoadFailureView>> =
            BTreeMap::new();
        let counting = self.failures.iter().filter(|(_, f)| f.expires.is_some());
        for (assignment, failure) in counting {
            let nodes = by_model.entry(&assignment.model).or_default();
            nodes.insert(assignment.node.clone(), failure.failure.clone());
        }
        by_model
    }
}
