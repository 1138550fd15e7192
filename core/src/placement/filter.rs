//! Constraints: the nodes on which a model may be, regardless of memory.

use super::problem::{ModelDemand, NodeCapacity, Schedulability};
use super::unschedulable::UnschedulableReason;

/// Returns the reason for which `node` may have no replica of `model`, neither a new nor a current
/// one. Cheap checks come first.
pub(super) fn violated_constraint(
    model: &ModelDemand<'_>,
    node: &NodeCapacity<'_>,
) -> Option<UnschedulableReason> {
    let spec = model.spec;
    if node.schedulability == Schedulability::ForceDraining {
        return Some(UnschedulableReason::Draining);
    }
    if !spec.zones.is_empty() && spec.zones.is_disjoint(node.zones) {
        return Some(UnschedulableReason::Zone);
    }
    if let Some(accelerator) = spec.accelerator
        && !node.accelerators.contains(&accelerator)
    {
        return Some(UnschedulableReason::MissingAccelerator(accelerator));
    }
    let untolerated = node
        .taints
        .iter()
        .find(|taint| !spec.tolerations.iter().any(|t| t.tolerates(taint)));
    if let Some(taint) = untolerated {
        return Some(UnschedulableReason::UntoleratedTaint(taint.clone()));
    }
    let missing = spec
        .node_selector
        .iter()
        .find(|(key, value)| node.labels.get(*key) != Some(value));
    if let Some((key, value)) = missing {
        return Some(UnschedulableReason::NodeSelector {
            key: key.clone(),
            value: value.clone(),
        });
    }
    if model.load_failures.is_empty() {
        return None;
    }
    let failed = model.load_failures.get(node.name);
    failed.map(|reason| UnschedulableReason::LoadFailed(reason.clone()))
}

/// Returns the reason for which `node` gets no new replicas. A flapping node gets some if
/// `allow_flapping`.
pub(super) fn unschedulable(
    node: &NodeCapacity<'_>,
    allow_flapping: bool,
) -> Option<UnschedulableReason> {
    match node.schedulability {
        Schedulability::Schedulable => None,
        Schedulability::Flapping if allow_flapping => None,
        Schedulability::Cordoned => Some(UnschedulableReason::Cordoned),
        Schedulability::Disconnected => Some(UnschedulableReason::Disconnected),
        Schedulability::Lost => Some(UnschedulableReason::Lost),
        Schedulability::Flapping => Some(UnschedulableReason::Flapping),
        Schedulability::Draining | Schedulability::ForceDraining => {
            Some(UnschedulableReason::Draining)
        }
    }
}
