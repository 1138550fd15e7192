//! Which nodes a model may be on, whatever else is there.

use super::problem::{ModelDemand, NodeCapacity, Schedulability};
use super::unschedulable::UnschedulableReason;

/// Why `model` may never be on `node`, also if it already is. Ordered from what costs least
/// to look at.
pub(super) fn forbidden(
    model: &ModelDemand<'_>,
    node: &NodeCapacity<'_>,
) -> Option<UnschedulableReason> {
    let spec = model.spec;
    if node.schedulability == Schedulability::ForceDraining {
        return Some(UnschedulableReason::Draining);
    }
    if !spec.zones.is_empty() && !node.zone.is_some_and(|zone| spec.zones.contains(zone)) {
        return Some(UnschedulableReason::Zone);
    }
    if let Some(wanted) = spec.accelerator
        && !node.accelerators.contains(&wanted)
    {
        return Some(UnschedulableReason::MissingAccelerator(wanted));
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

/// Why `node` takes no new replica of anything. In the last resort an unsteady one does.
pub(super) fn shut(node: &NodeCapacity<'_>, last_resort: bool) -> Option<UnschedulableReason> {
    match node.schedulability {
        Schedulability::Schedulable => None,
        Schedulability::Flapping if last_resort => None,
        Schedulability::Cordoned => Some(UnschedulableReason::Cordoned),
        Schedulability::Disconnected => Some(UnschedulableReason::Disconnected),
        Schedulability::Flapping => Some(UnschedulableReason::Flapping),
        Schedulability::Draining | Schedulability::ForceDraining => {
            Some(UnschedulableReason::Draining)
        }
    }
}
