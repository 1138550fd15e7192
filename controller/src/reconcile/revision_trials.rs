//! The trials of the models' revisions, from the counters that their nodes report.

use std::collections::BTreeMap;
use std::time::Instant;

use flotilla_core::revision_trial::{self, RevisionHealth, StableHealth, TRIAL_TIME, TrialState};
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::{ModelName, ModelRevision, NodeName};
use flotilla_proto::v1::{ModelPhase, ModelStatus};

use crate::fleet::FleetView;

/// The trials of all models. They live as long as the leadership: with a new leader they begin anew.
#[derive(Default)]
pub(super) struct RevisionTrials {
    models: BTreeMap<ModelName, ObservedRevisions>,
}

/// The observed replicas of one model, at its desired and its stable revision.
#[derive(Default)]
struct ObservedRevisions {
    replicas: BTreeMap<(ModelRevision, NodeName), ObservedReplica>,
    /// The trial of the desired revision, once a replica of it was ready.
    trial: Option<Trial>,
}

/// The trial of one revision.
struct Trial {
    revision: ModelRevision,
    began: Instant,
    /// The requests to the stable revision before.
    stable_before: RevisionHealth,
}

/// The requests to a revision on one node.
#[derive(Default)]
struct ObservedReplica {
    /// Those to earlier instances.
    before: RevisionHealth,
    /// The last reported ones to the present instance.
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
        let Some(trial) = &observed.trial else {
            return TrialState::Running;
        };
        let new = observed.health(revisions.desired);
        let total = revisions.stable.map(|stable| observed.health(stable));
        let total = total.unwrap_or_default();
        let stable = StableHealth {
            total,
            during_trial: total.since(trial.stable_before),
        };
        if revision_trial::is_failing(new, stable) {
            TrialState::Failing(new)
        } else if now.saturating_duration_since(trial.began) < TRIAL_TIME {
            TrialState::Running
        } else {
            TrialState::Passed
        }
    }
}

impl ObservedRevisions {
    /// Removes all but the current revisions, and the desired one while it counts as failed: its trial
    /// begins anew once the failure is cleared.
    fn retain(&mut self, revisions: ModelRevisions) {
        self.replicas
            .retain(|(revision, _), _| is_observed(*revision, revisions));
        self.trial.take_if(|trial| {
            trial.revision != revisions.desired || !is_observed(trial.revision, revisions)
        });
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
        if revision == revisions.desired
            && status.phase() == ModelPhase::Ready
            && self.trial.is_none()
        {
            let stable = revisions.stable.map(|stable| self.health(stable));
            self.trial = Some(Trial {
                revision,
                began: now,
                stable_before: stable.unwrap_or_default(),
            });
        }
        let Some(counters) = status.counters else {
            return;
        };
        let replica = self.replicas.entry((revision, node.clone())).or_default();
        let last = RevisionHealth {
            requests: counters.requests,
            failures: counters.model_faults,
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

/// Returns whether the requests to a revision are counted.
fn is_observed(revision: ModelRevision, revisions: ModelRevisions) -> bool {
    Some(revision) == revisions.stable
        || (revision == revisions.desired && revisions.failed != Some(revision))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OLD: ModelRevision = ModelRevision(1);
    const NEW: ModelRevision = ModelRevision(2);
    const UPGRADE: ModelRevisions = ModelRevisions {
        desired: NEW,
        stable: Some(OLD),
        failed: None,
    };

    fn status(revision: ModelRevision, requests: u64, model_faults: u64) -> ModelStatus {
        ModelStatus {
            revision: revision.0,
            phase: ModelPhase::Ready.into(),
            counters: Some(flotilla_proto::v1::ModelCounters {
                requests,
                model_faults,
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
    fn stable_revision_that_begins_to_fail_during_the_trial_has_the_same_fault() {
        let before = [status(OLD, 1_000, 0), status(NEW, 0, 0)];
        let both_fail = [status(OLD, 1_020, 19), status(NEW, 20, 19)];
        let moment = Duration::from_secs(1);
        let shared = [before.clone(), both_fail].concat();
        assert_eq!(state_after(&shared, moment), TrialState::Running);
        let one_fails = [status(OLD, 1_020, 0), status(NEW, 20, 19)];
        let failing = state_after(&[before, one_fails].concat(), moment);
        assert!(matches!(failing, TrialState::Failing(_)));
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
