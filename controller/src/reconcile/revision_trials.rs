//! What the leader knows of how well the revisions of models answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::revision_trial::{self, RevisionHealth, TRIAL_TIME, TrialState};
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::{ModelName, ModelRevision, NodeName};
use flotilla_proto::v1::{ModelPhase, ModelStatus};

use crate::fleet::FleetView;

/// How well the revisions of all models answer. It lives as long as the leadership: with a new leader the
/// trials begin anew.
#[derive(Default)]
pub(super) struct RevisionTrials {
    models: BTreeMap<ModelName, ObservedRevisions>,
}

/// The desired and the stable revision of one model.
#[derive(Default)]
struct ObservedRevisions {
    replicas: BTreeMap<(ModelRevision, NodeName), ObservedReplica>,
    /// When each revision was first seen ready.
    first_ready: BTreeMap<ModelRevision, Instant>,
}

/// A revision on a node.
#[derive(Default)]
struct ObservedReplica {
    /// The counts of earlier instances on this node.
    before: RevisionHealth,
    /// The last reported counts of the present instance.
    last: RevisionHealth,
}

impl RevisionTrials {
    /// Reads the last reports of all nodes.
    pub(super) fn observe(&mut self, view: &FleetView, now: Instant) {
        self.models.retain(|name, _| view.models.contains_key(name));
        for (name, model) in &view.models {
            let observed = self.models.entry(name.clone()).or_default();
            observed.retain(model.endpoints.revisions);
            for node in model.assigned.keys() {
                let Some(view) = view.nodes.get(node) else {
                    continue;
                };
                let report = view.report.load();
                if let Some(status) = report.model(name) {
                    observed.observe(model.endpoints.revisions, node, status, now);
                }
            }
        }
    }

    /// Returns the state of the trial of a model's desired revision.
    pub(super) fn state(
        &self,
        model: &ModelName,
        revisions: ModelRevisions,
        now: Instant,
    ) -> TrialState {
        let Some(observed) = self.models.get(model) else {
            return TrialState::Running;
        };
        let new = observed.health(revisions.desired);
        let stable = revisions.stable.map(|stable| observed.health(stable));
        if revision_trial::is_failing(new, stable.unwrap_or_default()) {
            return TrialState::Failing(new);
        }
        let first_ready = observed.first_ready.get(&revisions.desired);
        let served_for = first_ready.map_or(Duration::ZERO, |first| {
            now.saturating_duration_since(*first)
        });
        if served_for < TRIAL_TIME {
            TrialState::Running
        } else {
            TrialState::Passed
        }
    }
}

impl ObservedRevisions {
    /// Forgets all but the current revisions, and the desired one while it counts as failed: once that is
    /// cleared its trial begins anew.
    fn retain(&mut self, revisions: ModelRevisions) {
        let is_current = |revision| is_observed(revision, revisions);
        self.replicas
            .retain(|(revision, _), _| is_current(*revision));
        self.first_ready.retain(|revision, _| is_current(*revision));
    }

    fn observe(
        &mut self,
        revisions: ModelRevisions,
        node: &NodeName,
        status: &ModelStatus,
        now: Instant,
    ) {
        let revision = ModelRevision(status.revision);
        if !is_observed(revision, revisions) {
            return;
        }
        if status.phase() == ModelPhase::Ready {
            self.first_ready.entry(revision).or_insert(now);
        }
        let Some(counters) = status.counters else {
            return;
        };
        let replica = self.replicas.entry((revision, node.clone())).or_default();
        let last = RevisionHealth {
            requests: counters.requests,
            failures: counters.replica_faults,
        };
        if last.requests < replica.last.requests {
            replica.before = replica.before + replica.last;
        }
        replica.last = last;
    }

    fn health(&self, revision: ModelRevision) -> RevisionHealth {
        let replicas = self.replicas.iter();
        let of_revision = replicas.filter(|((observed, _), _)| *observed == revision);
        of_revision.fold(RevisionHealth::default(), |sum, (_, replica)| {
            sum + replica.before + replica.last
        })
    }
}

/// Whether it matters how well a revision answers.
fn is_observed(revision: ModelRevision, revisions: ModelRevisions) -> bool {
    Some(revision) == revisions.stable
        || (revision == revisions.desired && revisions.failed != Some(revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: ModelRevision = ModelRevision(1);
    const NEW: ModelRevision = ModelRevision(2);
    const UPGRADE: ModelRevisions = ModelRevisions {
        desired: NEW,
        stable: Some(OLD),
        failed: None,
    };

    fn status(revision: ModelRevision, requests: u64, replica_faults: u64) -> ModelStatus {
        ModelStatus {
            revision: revision.0,
            phase: ModelPhase::Ready.into(),
            counters: Some(flotilla_proto::v1::ModelCounters {
                requests,
                replica_faults,
                ..Default::default()
            }),
            ..ModelStatus::default()
        }
    }

    /// Observes these statuses of one node, and returns the state of the trial after `served_for`.
    fn state_after(statuses: &[ModelStatus], served_for: Duration) -> TrialState {
        let (model, node) = (ModelName::new("m").unwrap(), NodeName::new("n1").unwrap());
        let began = Instant::now();
        let mut observed = ObservedRevisions::default();
        for status in statuses {
            observed.observe(UPGRADE, &node, status, began);
        }
        let trials = RevisionTrials {
            models: [(model.clone(), observed)].into(),
        };
        trials.state(&model, UPGRADE, began + served_for)
    }

    #[test]
    fn trial_is_passed_after_its_time_unless_requests_fail() {
        let good = [status(OLD, 100, 0), status(NEW, 100, 0)];
        let moment = Duration::from_secs(1);
        assert_eq!(state_after(&good, moment), TrialState::Running);
        assert_eq!(state_after(&good, TRIAL_TIME), TrialState::Passed);
        let bad = [status(OLD, 100, 0), status(NEW, 9, 7)];
        assert!(matches!(state_after(&bad, moment), TrialState::Failing(_)));
        assert_eq!(state_after(&[], TRIAL_TIME), TrialState::Running);
    }

    #[test]
    fn failures_before_a_restart_of_the_agent_count() {
        let restarted = [status(NEW, 4, 4), status(NEW, 1, 1)];
        let failing = RevisionHealth {
            requests: 5,
            failures: 5,
        };
        assert_eq!(
            state_after(&restarted, Duration::ZERO),
            TrialState::Failing(failing)
        );
    }

    #[test]
    fn failed_revision_is_forgotten_so_that_it_can_be_tried_again() {
        let node = NodeName::new("n1").unwrap();
        let mut observed = ObservedRevisions::default();
        observed.observe(UPGRADE, &node, &status(NEW, 9, 9), Instant::now());
        observed.retain(ModelRevisions {
            failed: Some(NEW),
            ..UPGRADE
        });
        assert_eq!(observed.health(NEW), RevisionHealth::default());
    }
}
