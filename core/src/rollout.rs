//! Changing the revision of a model that is being served: a few replicas at a time, back to
//! the revision that worked where the new one does not load.

use crate::{ModelRevision, NodeName};

/// One in so many replicas may change at once, at least one.
const PART: usize = 4;

/// A replica as a rollout sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutReplica<'a> {
    pub node: &'a NodeName,
    /// What it was told to serve.
    pub assigned: ModelRevision,
    /// What it serving with, if it serving.
    pub serving: Option<ModelRevision>,
    /// Whether it failed to load what it was told to serve.
    pub failed: bool,
}

/// The revisions of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelRevisions {
    /// That of the wish.
    pub desired: ModelRevision,
    /// The last one that every replica served.
    pub stable: Option<ModelRevision>,
    /// One that was desired for and did not load.
    pub failed: Option<ModelRevision>,
}

impl ModelRevisions {
    /// What should be served.
    #[must_use]
    pub fn target(self) -> ModelRevision {
        match self.stable {
            Some(stable) if self.failed == Some(self.desired) => stable,
            _ => self.desired,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutStep<'a> {
    /// Nothing, for now.
    Wait,
    /// These replicas are to serve the goal.
    Update(Vec<&'a NodeName>),
    /// Every replica serves the goal: it is the stable revision.
    Complete,
    /// The desired revision does not load on this node, nor does it run anywhere: back to the
    /// stable one.
    RollBack(&'a NodeName),
}

/// The next step for a model with these replicas.
///
/// Replicas that do not answer are changed at once: they have nothing to lose. Of those that
/// answer one is changed first, and once the goal runs there, a quarter at a time; never while
/// as many do not answer.
#[must_use]
pub fn next_step<'a>(
    revisions: ModelRevisions,
    replicas: &[RolloutReplica<'a>],
) -> RolloutStep<'a> {
    let goal = revisions.target();
    let runs =
        |replica: &&RolloutReplica<'_>| replica.assigned == goal && replica.serving == Some(goal);
    let proven = replicas.iter().any(|replica| runs(&replica));
    let may_go_back = goal == revisions.desired && revisions.stable.is_some_and(|s| s != goal);
    if may_go_back && !proven {
        let failed = replicas.iter().find(|r| r.assigned == goal && r.failed);
        if let Some(failed) = failed {
            return RolloutStep::RollBack(failed.node);
        }
    }
    let outdated = || replicas.iter().filter(|r| r.assigned != goal);
    if outdated().next().is_none() {
        let settled = !replicas.is_empty() && replicas.iter().all(|r| runs(&r));
        return if settled {
            RolloutStep::Complete
        } else {
            RolloutStep::Wait
        };
    }
    let idle: Vec<_> = outdated().filter(|r| r.serving.is_none()).collect();
    let changing = replicas
        .iter()
        .filter(|r| r.assigned == goal && r.serving != Some(goal))
        .count();
    let at_once = if proven {
        (replicas.len() / PART).max(1)
    } else {
        1
    };
    let free = at_once.saturating_sub(changing + idle.len());
    let answering = outdated().filter(|r| r.serving.is_some()).take(free);
    let change: Vec<_> = idle
        .iter()
        .copied()
        .chain(answering)
        .map(|r| r.node)
        .collect();
    if change.is_empty() {
        RolloutStep::Wait
    } else {
        RolloutStep::Update(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            serving: Some(revision),
            failed: false,
        };
        names.iter().map(replica).collect()
    }

    #[test]
    fn one_goes_first_then_a_quarter_at_a_time() {
        let names = names(12);
        let mut replicas = serving(&names, OLD);
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::Update(vec![&names[0]])
        );
        replicas[0].assigned = NEW;
        replicas[0].serving = None;
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
        replicas[0].serving = Some(NEW);
        let three = names[1..4].iter().collect();
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Update(three));
        replicas[1].assigned = NEW;
        let two = names[2..4].iter().collect();
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::Update(two),
            "one is still changing"
        );
        assert_eq!(
            next_step(UPGRADE, &serving(&names, NEW)),
            RolloutStep::Complete
        );
    }

    #[test]
    fn a_replica_that_does_not_answer_is_changed_at_once_and_counts() {
        let names = names(3);
        let mut replicas = serving(&names, OLD);
        replicas[2].serving = None;
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::Update(vec![&names[2]])
        );
    }

    #[test]
    fn a_revision_that_does_not_load_is_rolled_back_unless_it_runs_somewhere() {
        let names = names(2);
        let mut replicas = serving(&names, OLD);
        replicas[0] = RolloutReplica {
            assigned: NEW,
            serving: None,
            failed: true,
            ..replicas[0]
        };
        assert_eq!(
            next_step(UPGRADE, &replicas),
            RolloutStep::RollBack(&names[0])
        );
        let back = ModelRevisions {
            failed: Some(NEW),
            ..UPGRADE
        };
        assert_eq!(
            next_step(back, &replicas),
            RolloutStep::Update(vec![&names[0]])
        );
        replicas[1] = serving(&names, NEW)[1];
        assert_eq!(next_step(UPGRADE, &replicas), RolloutStep::Wait);
        // Without one that worked there is nothing to go back to.
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
    fn nothing_is_settled_without_replicas() {
        assert_eq!(next_step(UPGRADE, &[]), RolloutStep::Wait);
    }

    proptest! {
        #[test]
        fn a_rollout_ends_and_keeps_its_floor(n in 1usize..20, loads in 1usize..4) {
            let names = names(n);
            let mut replicas = serving(&names, OLD);
            let mut left = vec![0; n];
            for _ in 0..200 {
                match next_step(UPGRADE, &replicas) {
                    RolloutStep::Complete => return Ok(()),
                    RolloutStep::Update(change) => for (i, replica) in replicas.iter_mut().enumerate() {
                        if change.contains(&replica.node) {
                            replica.assigned = NEW;
                            replica.serving = None;
                            left[i] = loads;
                        }
                    },
                    RolloutStep::Wait => {}
                    RolloutStep::RollBack(node) => panic!("{node} has not failed"),
                }
                let away = replicas.iter().filter(|r| r.serving.is_none()).count();
                prop_assert!(away <= (n / PART).max(1));
                for (replica, left) in replicas.iter_mut().zip(&mut left) {
                    *left = left.saturating_sub(1);
                    if replica.serving.is_none() && *left == 0 {
                        replica.serving = Some(NEW);
                    }
                }
            }
            prop_assert!(false, "it does not end");
        }
    }
}
