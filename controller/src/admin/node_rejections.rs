//! Why nodes without an eligible replica cannot answer a request: what a dry run adds to the decision.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_core::node::join_zones;
use flotilla_core::placement::UnschedulableReason;
use flotilla_core::routing::{RejectReason, RejectedCandidate, RoutingDecision};
use flotilla_core::{ModelName, NodeName, ZoneName};
use flotilla_proto::v1::ModelPhase;

use crate::fleet::{FleetView, ModelView, NodePhase, NodeView};
use crate::reconcile;

/// Nodes that are explained for each model.
const MAX_NODES: usize = 200;

/// Adds to `decision`, for each of the models, the nodes that are neither candidates nor rejected yet,
/// with the reason: at most [`MAX_NODES`] for each model.
pub(super) fn add_node_rejections(
    view: &FleetView,
    models: &[ModelName],
    zones: Option<&BTreeSet<ZoneName>>,
    decision: &mut RoutingDecision,
) {
    for name in models {
        let Some(model) = view.models.get(name) else {
            continue;
        };
        let whole_model = |r: &&RejectedCandidate| r.model == *name && r.node.is_none();
        let leaves_zones = decision
            .rejected
            .iter()
            .filter(whole_model)
            .any(|r| r.reason == RejectReason::Zone && !r.detail.is_empty());
        if leaves_zones {
            continue;
        }
        let recorded = recorded_nodes(decision, name);
        let unschedulable = reconcile::explain(view, name)
            .map(|unplaced| unplaced.reasons)
            .unwrap_or_default();
        let nodes = view.nodes.values();
        let unrecorded = nodes.filter(|node| !recorded.contains(&node.name));
        let rejections = unrecorded.take(MAX_NODES).map(|node| {
            let (reason, detail) = reject_reason(model, node, zones, &unschedulable);
            RejectedCandidate {
                model: name.clone(),
                node: Some(node.name.clone()),
                reason,
                detail,
            }
        });
        let mut rejections: Vec<_> = rejections.collect();
        decision.rejected.append(&mut rejections);
    }
}

/// The nodes that the decision names for a model already.
fn recorded_nodes(decision: &RoutingDecision, model: &ModelName) -> BTreeSet<NodeName> {
    let candidates = decision.candidates.iter();
    let candidates = candidates.filter(|candidate| candidate.model == *model);
    let rejected = decision.rejected.iter();
    let rejected = rejected.filter(|rejected| rejected.model == *model);
    candidates
        .map(|candidate| candidate.node.clone())
        .chain(rejected.filter_map(|rejected| rejected.node.clone()))
        .collect()
}

/// Why a node has no eligible replica of a model.
fn reject_reason(
    model: &ModelView,
    node: &NodeView,
    zones: Option<&BTreeSet<ZoneName>>,
    unschedulable: &BTreeMap<NodeName, UnschedulableReason>,
) -> (RejectReason, String) {
    if let Some(replica) = model.endpoints.on_node(&node.name) {
        if zones.is_some_and(|allowed| allowed.is_disjoint(&replica.zones)) {
            let detail = match join_zones(&replica.zones) {
                none if none.is_empty() => "it is in no zone".to_owned(),
                zones => format!("it is in {zones}"),
            };
            return (RejectReason::Zone, detail);
        }
        return (RejectReason::Queued, String::new());
    }
    if node.phase != NodePhase::Ready {
        let detail = format!("the node is {}", node.phase.as_str());
        return (RejectReason::NodeDisconnected, detail);
    }
    if let Some(failed) = model.failures.get(&node.name) {
        return (RejectReason::LoadFailed, failed.error.clone());
    }
    let name = model.endpoints.model.name();
    let phase = node.report.load().model(name).map(|status| status.phase());
    if phase == Some(ModelPhase::Draining) {
        return (RejectReason::Draining, String::new());
    }
    if node.operation.draining {
        return (RejectReason::Draining, "the node is being drained".into());
    }
    if model.assigned.contains_key(&node.name) {
        return (RejectReason::Loading, String::new());
    }
    match unschedulable.get(&node.name) {
        Some(
            memory @ (UnschedulableReason::InsufficientMemory { .. }
            | UnschedulableReason::InsufficientDeviceMemory { .. }),
        ) => (RejectReason::Memory, memory.to_string()),
        Some(other) => (RejectReason::NotLoaded, other.to_string()),
        None => (RejectReason::NotLoaded, String::new()),
    }
}
