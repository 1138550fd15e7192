//! Surging: a model with a single replica gets a second one while its revision changes, so that it
//! keeps answering. Models with more replicas change a few at a time instead.

use flotilla_core::NodeName;
use flotilla_core::rollout::RolloutStep;

use super::rollout_step::{RolloutAction, RolloutState};

/// Turns the next step of a rollout into an action for a model that should have `count` replicas.
///
/// `fits_twice` says whether the node has room for a second replica of the model. If so, the node
/// itself starts the new revision before it stops the old one, and no surge is needed.
pub(super) fn action(
    rollout: &RolloutState<'_>,
    count: u32,
    fits_twice: impl Fn(&NodeName) -> bool,
) -> RolloutAction {
    if rollout.serves_replaced {
        return RolloutAction::MarkReplacedStable;
    }
    let nodes = match &rollout.step {
        RolloutStep::Wait => return RolloutAction::Wait,
        RolloutStep::Complete => return RolloutAction::MarkStable,
        RolloutStep::RollBack(node) => return RolloutAction::RollBack((*node).clone()),
        RolloutStep::RollBackFailing(health) => return RolloutAction::RollBackFailing(*health),
        RolloutStep::Update(nodes) => nodes,
    };
    if count == 1 {
        if rollout.serves_target() {
            return RolloutAction::EndSurge(nodes.iter().copied().cloned().collect());
        }
        let answering = rollout.replicas.iter().find(|r| r.readiness.is_ready());
        if let Some(only) = answering
            && nodes.contains(&only.node)
            && !fits_twice(only.node)
        {
            return RolloutAction::Surge(only.node.clone());
        }
    }
    RolloutAction::Change(nodes.iter().copied().cloned().collect())
}

/// Returns the number of replicas to add to `count` while the model surges: 1 from the start of the
/// surge until the new replica answers, else 0.
pub(super) fn extra_replicas(
    rollout: &RolloutState<'_>,
    action: &RolloutAction,
    count: u32,
) -> u32 {
    let target = rollout.target_revision();
    let replicas = &rollout.replicas;
    let surging = !rollout.serves_target()
        && replicas.iter().any(|replica| replica.assigned == target)
        && replicas.iter().any(|replica| replica.assigned != target);
    let starting = matches!(action, RolloutAction::Surge(_));
    u32::from(count == 1 && (surging || starting))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::revision_trial::TrialState;
    use flotilla_core::rollout::{self, ModelRevisions, RolloutReplica};
    use flotilla_core::{ModelRevision, ReplicaReadiness};

    const OLD: ModelRevision = ModelRevision(1);
    const NEW: ModelRevision = ModelRevision(2);

    fn names() -> [NodeName; 2] {
        ["n1", "n2"].map(|name| NodeName::new(name).unwrap())
    }

    fn replica(
        node: &NodeName,
        assigned: ModelRevision,
        served: Option<ModelRevision>,
    ) -> RolloutReplica<'_> {
        RolloutReplica {
            node,
            assigned,
            readiness: served.map_or(ReplicaReadiness::NotReady, ReplicaReadiness::Ready),
            failed: false,
        }
    }

    fn upgrade(replicas: Vec<RolloutReplica<'_>>) -> RolloutState<'_> {
        let revisions = ModelRevisions {
            desired: NEW,
            stable: Some(OLD),
            failed: None,
        };
        RolloutState {
            step: rollout::next_step(revisions, &replicas, TrialState::Passed),
            revisions,
            replicas,
            serves_replaced: false,
        }
    }

    fn change_on(node: &NodeName) -> RolloutAction {
        RolloutAction::Change(vec![node.clone()])
    }

    #[test]
    fn single_replica_surges_unless_it_fits_twice_on_its_node() {
        let [n1, _] = names();
        let rollout = upgrade(vec![replica(&n1, OLD, Some(OLD))]);
        let surge = action(&rollout, 1, |_| false);
        assert_eq!(surge, RolloutAction::Surge(n1.clone()));
        assert_eq!(extra_replicas(&rollout, &surge, 1), 1);
        let change = action(&rollout, 1, |_| true);
        assert_eq!(change, change_on(&n1));
        assert_eq!(extra_replicas(&rollout, &change, 1), 0);
    }

    #[test]
    fn surge_lasts_until_the_new_replica_answers() {
        let [n1, n2] = names();
        let old = replica(&n1, OLD, Some(OLD));
        let loading = upgrade(vec![old, replica(&n2, NEW, None)]);
        let next = action(&loading, 1, |_| false);
        assert_eq!(extra_replicas(&loading, &next, 1), 1);
        let ready = upgrade(vec![old, replica(&n2, NEW, Some(NEW))]);
        let next = action(&ready, 1, |_| false);
        assert_eq!(next, RolloutAction::EndSurge(vec![n1.clone()]));
        assert_eq!(extra_replicas(&ready, &next, 1), 0);
    }

    #[test]
    fn models_with_several_replicas_do_not_surge() {
        let [n1, n2] = names();
        let replicas = vec![replica(&n1, OLD, Some(OLD)), replica(&n2, OLD, Some(OLD))];
        let rollout = upgrade(replicas);
        let change = action(&rollout, 2, |_| false);
        assert_eq!(change, change_on(&n1));
        assert_eq!(extra_replicas(&rollout, &change, 2), 0);
    }

    #[test]
    fn single_replica_that_does_not_answer_changes_at_once() {
        let [n1, _] = names();
        let rollout = upgrade(vec![replica(&n1, OLD, None)]);
        let change = action(&rollout, 1, |_| false);
        assert_eq!(change, change_on(&n1));
    }
}
