//! Which nodes a model may be on, whatever else is there.

use super::problem::{ModelDemand, NodeCapacity, Schedulability};
use super::refusal::UnschedulableReason;

/// Why `model` may never be on `node`, also if it already is. Ordered from what costs least
/// to look at.
pub(super) fn forbidden(
    model: &ModelDemand<'_>,
    node: &NodeCapacity<'_>,
) -> Option<UnschedulableReason> {
    let spec = model.spec;
    if node.open == Schedulability::Closed {
        return Some(UnschedulableReason::Draining);
    }
    if !spec.zones.is_empty() && !node.zone.is_some_and(|zone| spec.zones.contains(zone)) {
        return Some(UnschedulableReason::Zone);
    }
    if let Some(wanted) = spec.accelerator
        && !node.accelerators.contains(&wanted)
    {
        return Some(UnschedulableReason::Accelerator(wanted));
    }
    let untolerated = node
        .taints
        .iter()
        .find(|taint| !spec.tolerations.iter().any(|t| t.covers(taint)));
    if let Some(taint) = untolerated {
        return Some(UnschedulableReason::Taint(taint.clone()));
    }
    let missing = spec
        .node_selector
        .iter()
        .find(|(key, value)| node.labels.get(*key) != Some(value));
    if let Some((key, wanted)) = missing {
        return Some(UnschedulableReason::Selector {
            key: key.clone(),
            wanted: wanted.clone(),
        });
    }
    if model.refused_by.is_empty() {
        return None;
    }
    let failed = model.refused_by.get(node.name);
    failed.map(|reason| UnschedulableReason::Failed(reason.clone()))
}

/// Why `node` takes no new replica of anything. In the last resort an unsteady one does.
pub(super) fn shut(node: &NodeCapacity<'_>, last_resort: bool) -> Option<UnschedulableReason> {
    match node.open {
        Schedulability::Open => None,
        Schedulability::Unsteady if last_resort => None,
        Schedulability::Cordoned => Some(UnschedulableReason::Cordoned),
        Schedulability::Away => Some(UnschedulableReason::Away),
        Schedulability::Unsteady => Some(UnschedulableReason::Unsteady),
        Schedulability::Draining | Schedulability::Closed => Some(UnschedulableReason::Draining),
    }
}
