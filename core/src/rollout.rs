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
    /// What it answers with, if it answers.
    pub answers: Option<ModelRevision>,
    /// Whether it failed to load what it was told to serve.
    pub failed: bool,
}

/// The revisions of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelRevisions {
    /// That of the wish.
    pub wished: ModelRevision,
    /// The last one that every replica served.
    pub stable: Option<ModelRevision>,
    /// One that was wished for and did not load.
    pub condemned: Option<ModelRevision>,
}

impl ModelRevisions {
    /// What should be served.
    #[must_use]
    pub fn goal(self) -> ModelRevision {
        match self.stable {
            Some(stable) if self.condemned == Some(self.wished) => stable,
            _ => self.wished,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutStep<'a> {
    /// Nothing, for now.
    Wait,
    /// These replicas are to serve the goal.
    Change(Vec<&'a NodeName>),
    /// Every replica serves the goal: it is the stable revision.
    Settled,
    /// The wished revision does not load on this node, nor does it run anywhere: back to the
    /// stable one.
    RollBack(&'a NodeName),
}

/// The next step for a model with these replicas.
///
/// Replicas that do not answer are changed at once: they have nothing to lose. Of those that
/// answer one is changed first, and once the goal runs there, a quarter at a time; never while
/// as many do not answer.
#[must_use]
pub fn next<'a>(revisions: ModelRevisions, replicas: &[RolloutReplica<'a>]) -> RolloutStep<'a> {
    let goal = revisions.goal();
    let runs =
        |replica: &&RolloutReplica<'_>| replica.assigned == goal && replica.answers == Some(goal);
    let proven = replicas.iter().any(|replica| runs(&replica));
    let may_go_back = goal == revisions.wished && revisions.stable.is_some_and(|s| s != goal);
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
            RolloutStep::Settled
        } else {
            RolloutStep::Wait
        };
    }
    let idle: Vec<_> = outdated().filter(|r| r.answers.is_none()).collect();
    let changing = replicas
        .iter()
        .filter(|r| r.assigned == goal && r.answers != Some(goal))
        .count();
    let at_once = if proven {
        (replicas.len() / PART).max(1)
    } else {
        1
    };
    let free = at_once.saturating_sub(changing + idle.len());
    let answering = outdated().filter(|r| r.answers.is_some()).take(free);
    let change: Vec<_> = idle
        .iter()
        .copied()
        .chain(answering)
        .map(|r| r.node)
        .collect();
    if change.is_empty() {
        RolloutStep::Wait
    } else {
        RolloutStep::Change(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: ModelRevision = ModelRevision(1);
    const NEW: ModelRevision = ModelRevision(2);
    const UPGRADE: ModelRevisions = ModelRevisions {
        wished: NEW,
        stable: Some(OLD),
        condemned: None,
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
            answers: Some(revision),
            failed: false,
        };
        names.iter().map(replica).collect()
    }

    #[test]
    fn one_goes_first_then_a_quarter_at_a_time() {
        let names = names(12);
        let mut replicas = serving(&names, OLD);
        assert_eq!(
            next(UPGRADE, &replicas),
            RolloutStep::Change(vec![&names[0]])
        );
        replicas[0].assigned = NEW;
        replicas[0].answers = None;
        assert_eq!(next(UPGRADE, &replicas), RolloutStep::Wait);
        replicas[0].answers = Some(NEW);
        let three = names[1..4].iter().collect();
        assert_eq!(next(UPGRADE, &replicas), RolloutStep::Change(three));
        replicas[1].assigned = NEW;
        let two = names[2..4].iter().collect();
        assert_eq!(
            next(UPGRADE, &replicas),
            RolloutStep::Change(two),
            "one is still changing"
        );
        assert_eq!(next(UPGRADE, &serving(&names, NEW)), RolloutStep::Settled);
    }

    #[test]
    fn a_replica_that_does_not_answer_is_changed_at_once_and_counts() {
        let names = names(3);
        let mut replicas = serving(&names, OLD);
        replicas[2].answers = None;
        assert_eq!(
            next(UPGRADE, &replicas),
            RolloutStep::Change(vec![&names[2]])
        );
    }

    #[test]
    fn a_revision_that_does_not_load_is_rolled_back_unless_it_runs_somewhere() {
        let names = names(2);
        let mut replicas = serving(&names, OLD);
        replicas[0] = RolloutReplica {
            assigned: NEW,
            answers: None,
            failed: true,
            ..replicas[0]
        };
        assert_eq!(next(UPGRADE, &replicas), RolloutStep::RollBack(&names[0]));
        let back = ModelRevisions {
            condemned: Some(NEW),
            ..UPGRADE
        };
        assert_eq!(next(back, &replicas), RolloutStep::Change(vec![&names[0]]));
        replicas[1] = serving(&names, NEW)[1];
        assert_eq!(next(UPGRADE, &replicas), RolloutStep::Wait);
        // Without one that worked there is nothing to go back to.
        let first = ModelRevisions {
            stable: None,
            ..UPGRADE
        };
        assert_ne!(
            next(first, &replicas[..1]),
            RolloutStep::RollBack(&names[0])
        );
    }

    #[test]
    fn nothing_is_settled_without_replicas() {
        assert_eq!(next(UPGRADE, &[]), RolloutStep::Wait);
    }

    proptest! {
        #[test]
        fn a_rollout_ends_and_keeps_its_floor(n in 1usize..20, loads in 1usize..4) {
            let names = names(n);
            let mut replicas = serving(&names, OLD);
            let mut left = vec![0; n];
            for _ in 0..200 {
                match next(UPGRADE, &replicas) {
                    RolloutStep::Settled => return Ok(()),
                    RolloutStep::Change(change) => for (i, replica) in replicas.iter_mut().enumerate() {
                        if change.contains(&replica.node) {
                            replica.assigned = NEW;
                            replica.answers = None;
                            left[i] = loads;
                        }
                    },
                    RolloutStep::Wait => {}
                    RolloutStep::RollBack(node) => panic!("{node} has not failed"),
                }
                let away = replicas.iter().filter(|r| r.answers.is_none()).count();
                prop_assert!(away <= (n / PART).max(1));
                for (replica, left) in replicas.iter_mut().zip(&mut left) {
                    *left = left.saturating_sub(1);
                    if replica.answers.is_none() && *left == 0 {
                        replica.answers = Some(NEW);
                    }
                }
            }
            prop_assert!(false, "it does not end");
        }
    }
}
