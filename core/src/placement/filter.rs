//! Which nodes a model may be on, whatever else is there.

use super::problem::{ModelDemand, NodeCapacity, Openness};
use super::refusal::Refusal;

/// Why `model` may never be on `node`, also if it already is. Ordered from what costs least
/// to look at.
pub(super) fn forbidden(model: &ModelDemand<'_>, node: &NodeCapacity<'_>) -> Option<Refusal> {
    let spec = model.spec;
    if node.open == Openness::Closed {
        return Some(Refusal::Draining);
    }
    if !spec.zones.is_empty() && !node.zone.is_some_and(|zone| spec.zones.contains(zone)) {
        return Some(Refusal::Zone);
    }
    if let Some(wanted) = spec.accelerator
        && !node.accelerators.contains(&wanted)
    {
        return Some(Refusal::Accelerator(wanted));
    }
    let untolerated = node
        .taints
        .iter()
        .find(|taint| !spec.tolerations.iter().any(|t| t.covers(taint)));
    if let Some(taint) = untolerated {
        return Some(Refusal::Taint(taint.clone()));
    }
    let missing = spec
        .node_selector
        .iter()
        .find(|(key, value)| node.labels.get(*key) != Some(value));
    if let Some((key, wanted)) = missing {
        return Some(Refusal::Selector {
            key: key.clone(),
            wanted: wanted.clone(),
        });
    }
    if model.refused_by.is_empty() {
        return None;
    }
    let failed = model.refused_by.get(node.name);
    failed.map(|reason| Refusal::Failed(reason.clone()))
}

/// Why `node` takes no new replica of anything. In the last resort an unsteady one does.
pub(super) fn shut(node: &NodeCapacity<'_>, last_resort: bool) -> Option<Refusal> {
    match node.open {
        Openness::Open => None,
        Openness::Unsteady if last_resort => None,
        Openness::Cordoned => Some(Refusal::Cordoned),
        Openness::Away => Some(Refusal::Away),
        Openness::Unsteady => Some(Refusal::Unsteady),
        Openness::Draining | Openness::Closed => Some(Refusal::Draining),
    }
}
