//! The rollout of a new revision of a model: a few replicas are updated at a time, and all go back
//! to the stable revision if the new one does not load, or fails its requests in its first minutes.

use crate::revision_trial::{RevisionHealth, TrialState};
use crate::{ModelRevision, NodeName, ReplicaReadiness};

/// One replica in this many may be updating at the same time, and at least one.
const UPDATE_DIVISOR: usize = 4;

/// The state of a replica that a rollout depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutReplica<'a> {
    /// Node of the replica.
    pub node: &'a NodeName,
    /// Revision that the replica is assigned.
    pub assigned: ModelRevision,
    /// Whether the replica answers, and with which revision.
    pub readiness: ReplicaReadiness,
    /// Whether the node failed to load the assigned revision.
    pub failed: bool,
}

/// The revisions of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelRevisions {
    /// Revision of the model's current spec.
    pub desired: ModelRevision,
    /// The last revision that every replica served and that has passed its trial. `None`: no rollout has completed yet.
    pub stable: Option<ModelRevision>,
    /// The last desired revision that was rolled back because it did not load or failed its requests. `None`: none was,
    /// or the failure was cleared.
    pub failed: Option<ModelRevision>,
}

impl ModelRevisions {
    /// Returns the revision that the replicas should serve: the stable one if the desired one has
    /// failed, else the desired one.
    #[must_use]
    pub fn target(self) -> ModelRevision {
        match self.stable {
            Some(stable) if self.failed == Some(self.desired) => stable,
            _ => self.desired,
        }
    }
}

/// The next step of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutStep<'a> {
    /// Nothing can be done until a replica changes its state.
    Wait,
    /// The replicas on these nodes must be assigned the target revision.
    Update(Vec<&'a NodeName>),
    /// Every replica serves the target revision, which has passed its trial: it is the stable one from now on.
    Complete,
    /// The desired revision failed to load on this node and is known to run on no other: it has failed, and
    /// the replicas must go back to the stable one.
    RollBack(&'a NodeName),
    /// The desired revision loads but fails its requests: it has failed, and the replicas must go back to the
    /// stable one.
    RollBackFailing(RevisionHealth),
}

/// Returns the next step of the rollout of a model with these replicas.
///
/// Replicas that are known not to answer are updated at once, since no request depends on them. Of
/// the replicas that answer, one is updated first. Once it serves the target revision, the others
/// follow, at most a quarter of all at the same time. Replicas that do not answer count as
/// updating, and so do those of which nothing is known, which are not updated until it is. Nothing
/// waits for those that are unreachable: they are updated once another replica serves the target
/// revision, or if there is no other.
///
/// `trial` is the trial of the desired revision, which matters only where there is a stable one to go
/// back to.
#[must_use]
pub fn next_step<'a>(
    revisions: ModelRevisions,
    replicas: &[RolloutReplica<'a>],
    trial: TrialState,
) -> RolloutStep<'a> {
    let target = revisions.target();
    let serves_target = |replica: &RolloutReplica<'_>| {
        replica.assigned == target && replica.readiness.serves(target)
    };
    let proven = replicas.iter().any(serves_target);
    let can_roll_back =
        target == revisions.desired && revisions.stable.is_some_and(|s| s != target);
    if let TrialState::Failing(health) = trial
        && can_roll_back
    {
        return RolloutStep::RollBackFailing(health);
    }
    let may_serve_target =
        |r: &RolloutReplica<'_>| r.assigned == target && r.readiness == ReplicaReadiness::Unknown;
    if can_roll_back && !proven && !replicas.iter().any(may_serve_target) {
        let failed = replicas.iter().find(|r| r.assigned == target && r.failed);
        if let Some(failed) = failed {
            return RolloutStep::RollBack(failed.node);
        }
    }
    let (current, outdated): (Vec<&RolloutReplica<'a>>, Vec<&RolloutReplica<'a>>) =
        replicas.iter().partition(|r| r.assigned == target);
    let is_reachable = |r: &&RolloutReplica<'_>| r.readiness != ReplicaReadiness::Unreachable;
    let reachable = replicas.iter().filter(is_reachable).count();
    if outdated.is_empty() {
        let complete = reachable > 0 && replicas.iter().filter(is_reachable).all(serves_target);
        let on_trial = can_roll_back && trial == TrialState::Running;
        return if complete && !on_trial {
            RolloutStep::Complete
        } else {
            RolloutStep::Wait
        };
    }
    let max_updating = if proven {
        (reachable / UPDATE_DIVISOR).max(1)
    } else {
        1
    };
    let waits_for = |r: &&&RolloutReplica<'_>| is_reachable(r);
    let updating = current.iter().filter(waits_for);
    let updating = updating.filter(|r| !r.readiness.serves(target));
    let not_answering = outdated.iter().filter(waits_for);
    let not_answering = not_answering.filter(|r| !r.readiness.is_ready());
    let allowed = max_updating.saturating_sub(updating.count() + not_answering.count());
    let stopped = outdated.iter().filter(|r| match r.readiness {
        ReplicaReadiness::Unreachable => proven || reachable == 0,
        readiness => !readiness.may_answer(),
    });
    let answering = outdated.iter().filter(|r| r.readiness.is_ready());
    let update: Vec<_> = stopped
        .chain(answering.take(allowed))
        .map(|r| r.node)
        .collect();
    if update.is_empty() {
        RolloutStep::Wait
    } else {
        RolloutStep::Update(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The next step of a rollout whose revision has passed its trial.
    fn next_step<'a>(
        revisions: ModelRevisions,
        replicas: &[RolloutReplica<'a>],
    ) -> RolloutStep<'a> {
        super::next_step(revisions, replicas, TrialState::Passed)
    }

    const OLD: ModelRevision = ModelRevision(1);
    const NEW: ModelRevision = ModelRevision(2);
    const UPGRADE: ModelRevisions = ModelRevisions {
        desired: NEW,
        stable: Some(OLD),
        failed: None,
    };

    fn names(n: usize) -> Vec<NodeName> {
        (0..n)
            .map(|i| NodeName::new(&format!("n{i}")).unwrap())
            .collect()
    }

    fn serving(names: &[NodeName], revision: ModelRevision) -> Vec<RolloutReplica<'_>> {
        let replica = |node| RolloutReplica {
            node,
            assigned: revision,
            readiness: ReplicaReadiness::Ready(revision),
            failed: false,
        };
        names.iter().map(replica).collect()
    }

    #[test]
    fn one_replica_is_updated_first_then_a_quarter_at_a_time() {
        let names = names(12);
        let mut replicas = serving(&names, OLD);
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::Update(vec![&names[0]])
        );
        replicas[0].assigned = NEW;
        replicas[0].readiness = ReplicaReadiness::NotReady;
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
        replicas[0].readiness = ReplicaReadiness::Ready(NEW);
        let three = names[1..4].iter().collect();
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Update(three));
        replicas[1].assigned = NEW;
        let two = names[2..4].iter().collect();
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::Update(two),
            "one is still updating"
        );
        assert_eq!(
            next_step(UPGRADE, &serving(&names, NEW)),
            RolloutStep::Complete
        );
    }

    #[test]
    fn unavailable_replica_is_updated_at_once_and_counts_as_updating() {
        let names = names(3);
        let mut replicas = serving(&names, OLD);
        replicas[2].readiness = ReplicaReadiness::NotReady;
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::Update(vec![&names[2]])
        );
    }

    #[test]
    fn revision_that_fails_to_load_is_rolled_back_unless_it_runs_somewhere() {
        let names = names(2);
        let mut replicas = serving(&names, OLD);
        replicas[0] = RolloutReplica {
            assigned: NEW,
            readiness: ReplicaReadiness::NotReady,
            failed: true,
            ..replicas[0]
        };
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::RollBack(&names[0])
        );
        let rolled_back = ModelRevisions {
            failed: Some(NEW),
            ..UPGRADE
        };
        assert_eq!(
            next_step(rolled_back, &replicas),
            RolloutStep::Update(vec![&names[0]])
        );
        replicas[1] = serving(&names, NEW)[1];
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
        // Without a stable revision there is nothing to roll back to.
        let first = ModelRevisions {
            stable: None,
            ..UPGRADE
        };
        assert_ne!(
            next_step(first, &replicas[..1]),
            RolloutStep::RollBack(&names[0])
        );
    }

    #[test]
    fn rollout_does_not_wait_for_unreachable_replicas_and_updates_them_last() {
        let names = names(3);
        let mut replicas = serving(&names, OLD);
        replicas[0].readiness = ReplicaReadiness::Unreachable;
        let update =
            |nodes: &[usize]| RolloutStep::Update(nodes.iter().map(|i| &names[*i]).collect());
        assert_eq!(next_step(UPGRADE, &replicas), update(&[1]));
        (replicas[1].assigned, replicas[1].readiness) = (NEW, ReplicaReadiness::NotReady);
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
        replicas[1].readiness = ReplicaReadiness::Ready(NEW);
        assert_eq!(next_step(UPGRADE, &replicas), update(&[0, 2]));
        replicas[0].assigned = NEW;
        replicas[2] = serving(&names, NEW)[2];
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Complete);
        let alone = [RolloutReplica {
            assigned: OLD,
            ..replicas[0]
        }];
        assert_eq!(next_step(UPGRADE, &alone), update(&[0]));
        assert_eq!(next_step(UPGRADE, &replicas[..1]), RolloutStep::Wait);
    }

    #[test]
    fn new_leader_changes_nothing_before_it_has_heard_of_the_replicas() {
        let names = names(4);
        let mut replicas = serving(&names, OLD);
        for replica in &mut replicas {
            replica.readiness = ReplicaReadiness::Unknown;
        }
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
        // One that is known to be down may change, and makes the others wait.
        replicas[3].readiness = ReplicaReadiness::NotReady;
        let one = RolloutStep::Update(vec![&names[3]]);
        assert_eq!(next_step(UPGRADE, &replicas), one);
        let served = serving(&names, NEW);
        replicas.clone_from(&served);
        replicas[1].readiness = ReplicaReadiness::Unknown;
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
    }

    #[test]
    fn revision_is_stable_only_after_its_trial_and_goes_back_when_it_fails() {
        let names = names(2);
        let replicas = serving(&names, NEW);
        let step = |revisions, trial| super::next_step(revisions, &replicas, trial);
        assert_eq!(step(UPGRADE, TrialState::Running), RolloutStep::Wait);
        assert_eq!(step(UPGRADE, TrialState::Passed), RolloutStep::Complete);
        let health = RevisionHealth {
            requests: 9,
            failures: 7,
        };
        let failing = TrialState::Failing(health);
        let back = RolloutStep::RollBackFailing(health);
        assert_eq!(step(UPGRADE, failing), back);
        let rolled_back = ModelRevisions {
            failed: Some(NEW),
            ..UPGRADE
        };
        assert_eq!(
            step(rolled_back, failing),
            RolloutStep::Update(vec![&names[0]])
        );
        // There is nothing to go back to, so that nothing is waited for either.
        let first = ModelRevisions {
            stable: None,
            ..UPGRADE
        };
        for trial in [TrialState::Running, failing] {
            assert_eq!(step(first, trial), RolloutStep::Complete);
        }
    }

    #[test]
    fn rollout_without_replicas_is_not_complete() {
        assert_eq!(next_step(UPGRADE, &[]), RolloutStep::Wait);
    }

    proptest! {
        #[test]
        fn no_replica_changes_before_it_was_heard_of_nor_more_than_allowed(
            n in 1usize..16,
            states in prop::collection::vec((0usize..2, 0usize..4, any::<bool>()), 16),
        ) {
            let names = names(n);
            let revisions = [OLD, NEW];
            let replicas: Vec<_> = names.iter().zip(states).map(|(node, (assigned, state, failed))| {
                RolloutReplica {
                    node,
                    assigned: revisions[assigned],
                    readiness: match state {
                        0 => ReplicaReadiness::Unknown,
                        1 => ReplicaReadiness::NotReady,
                        2 => ReplicaReadiness::Ready(OLD),
                        _ => ReplicaReadiness::Ready(NEW),
                    },
                    failed,
                }
            }).collect();
            match next_step(UPGRADE, &replicas) {
                RolloutStep::RollBackFailing(_) => prop_assert!(false, "it has passed its trial"),
                RolloutStep::Update(nodes) => {
                    let changed: Vec<_> = replicas.iter().filter(|r| nodes.contains(&r.node)).collect();
                    prop_assert!(changed.iter().all(|r| r.readiness != ReplicaReadiness::Unknown));
                    let stopped = changed.iter().filter(|r| r.readiness.is_ready()).count();
                    let unavailable = replicas.iter().filter(|r| !r.readiness.is_ready()).count();
                    let allowed = (n / UPDATE_DIVISOR).max(1);
                    prop_assert!(stopped == 0 || stopped + unavailable <= allowed);
                }
                RolloutStep::Complete => prop_assert!(replicas.iter().all(|r| r.readiness.serves(NEW))),
                RolloutStep::RollBack(node) => {
                    prop_assert!(replicas.iter().any(|r| r.node == node && r.failed));
                    let may_serve_new = |r: &RolloutReplica<'_>| {
                        r.assigned == NEW && (r.readiness.serves(NEW) || r.readiness == ReplicaReadiness::Unknown)
                    };
                    prop_assert!(!replicas.iter().any(may_serve_new));
                }
                RolloutStep::Wait => {}
            }
        }

        #[test]
        fn rollout_completes_and_keeps_enough_replicas_available(n in 1usize..20, loads in 1usize..4) {
            let names = names(n);
            let mut replicas = serving(&names, OLD);
            let mut loading = vec![0; n];
            for _ in 0..200 {
                match next_step(UPGRADE, &replicas) {
                    RolloutStep::Complete => return Ok(()),
                    RolloutStep::Update(nodes) => for (i, replica) in replicas.iter_mut().enumerate() {
                        if nodes.contains(&replica.node) {
                            replica.assigned = NEW;
                            replica.readiness = ReplicaReadiness::NotReady;
                            loading[i] = loads;
                        }
                    },
                    RolloutStep::Wait => {}
                    RolloutStep::RollBack(_) | RolloutStep::RollBackFailing(_) => panic!("nothing has failed"),
                }
                let unavailable = replicas.iter().filter(|r| !r.readiness.is_ready()).count();
                prop_assert!(unavailable <= (n / UPDATE_DIVISOR).max(1));
                for (replica, remaining) in replicas.iter_mut().zip(&mut loading) {
                    *remaining = remaining.saturating_sub(1);
                    if !replica.readiness.is_ready() && *remaining == 0 {
                        replica.readiness = ReplicaReadiness::Ready(NEW);
                    }
                }
            }
            prop_assert!(false, "the rollout does not complete");
        }
    }
}
