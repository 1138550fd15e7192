//! The next step of a model's rollout, from the view.

use std::time::Instant;

use flotilla_core::revision_trial::{RevisionHealth, TrialState};
use flotilla_core::rollout::{self, ModelRevisions, RolloutReplica, RolloutStep};
use flotilla_core::{ModelRevision, NodeName, ReplicaReadiness};

use super::revision_trials::RevisionTrials;
use crate::fleet::{FleetView, ModelView};

/// What the leader does next for a model's rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RolloutAction {
    /// Nothing, for now.
    Wait,
    /// Assigns the target revision to the replicas on these nodes.
    Change(Vec<NodeName>),
    /// Adds a second replica with the target revision on another node before the only one, on this
    /// node, changes.
    Surge(NodeName),
    /// The second replica answers, so that the placement removes the ones on these nodes. Those that it keeps
    /// because an adapter has no other place get the target revision.
    EndSurge(Vec<NodeName>),
    /// Records the target revision as the stable revision: all replicas serve it.
    MarkStable,
    /// Records the revision that the desired one replaces as the stable revision, before any replica changes:
    /// no other is recorded, and a replica serves it.
    MarkReplacedStable,
    /// Records that the desired revision failed to load on this node, and returns to the stable
    /// revision.
    RollBack(NodeName),
    /// Records that the desired revision fails its requests, and returns to the stable revision.
    RollBackFailing(RevisionHealth),
}

/// The state of a model's rollout.
pub(super) struct RolloutState<'a> {
    /// The revisions, with the failure that this step finds. Their target is the revision to serve.
    pub(super) revisions: ModelRevisions,
    /// The replicas that are assigned, without those on nodes that are given up: others replace them.
    pub(super) replicas: Vec<RolloutReplica<'a>>,
    /// The next step, regardless of how many replicas there are.
    pub(super) step: RolloutStep<'a>,
    /// Whether the revision that the desired one replaces must be recorded first.
    pub(super) serves_replaced: bool,
}

impl<'a> RolloutState<'a> {
    /// Finds the state and the next step of a model's rollout.
    pub(super) fn new(
        view: &FleetView,
        model: &'a ModelView,
        trials: &RevisionTrials,
        now: Instant,
    ) -> Self {
        let is_given_up = |name| view.nodes.get(name).is_some_and(|node| node.is_given_up());
        let replicas: Vec<_> = model
            .assigned
            .iter()
            .filter(|(node, _)| !is_given_up(*node))
            .map(|(node, revision)| RolloutReplica {
                node,
                assigned: *revision,
                readiness: view
                    .nodes
                    .get(node)
                    .map_or(ReplicaReadiness::NotReady, |node| {
                        node.replica_readiness(model.endpoints.model.name())
                    }),
                failed: model
                    .failures
                    .get(node)
                    .is_some_and(|failure| failure.revision == *revision),
            })
            .collect();
        let mut revisions = model.endpoints.revisions;
        if !model.loadable {
            // Nodes could not load the desired revision: its files are not there yet.
            revisions.failed = Some(revisions.desired);
        }
        let desired = &model.endpoints.model;
        let stable = model.endpoints.stable.as_ref();
        // Requests that are held to zones wait until nothing can go back to a spec in another zone.
        let changes_zone =
            stable.is_some_and(|stable| stable.spec.options.zone != desired.spec.options.zone);
        let trial = if changes_zone {
            TrialState::Passed
        } else {
            trials.state(desired.name(), revisions, now)
        };
        let step = rollout::next_step(revisions, &replicas, trial);
        if let RolloutStep::RollBack(_) | RolloutStep::RollBackFailing(_) = step {
            revisions.failed = Some(revisions.desired);
        }
        let serves_replaced = model.replaced.as_ref().is_some_and(|replaced| {
            let serves = |r: &RolloutReplica<'_>| {
                r.assigned == replaced.revision && r.readiness.serves(replaced.revision)
            };
            replaced.revision != revisions.desired && replicas.iter().any(serves)
        });
        Self {
            revisions,
            replicas,
            step,
            serves_replaced,
        }
    }

    /// The revision to serve.
    pub(super) fn target_revision(&self) -> ModelRevision {
        self.revisions.target()
    }

    /// Returns whether a replica serves the target revision already.
    pub(super) fn serves_target(&self) -> bool {
        let target = self.target_revision();
        self.replicas
            .iter()
            .any(|replica| replica.assigned == target && replica.readiness.serves(target))
    }
}
