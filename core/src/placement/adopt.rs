//! Adoption: replicas that nodes run without an assignment are assigned before new ones are placed.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::filter;
use super::placement_state::PlacementState;
use super::problem::{CurrentReplica, RunningReplica, Schedulability};
use super::score::{BestPerformance, score};
use super::solve::{missing_replicas, nodes_with_replica};
use crate::{ModelName, NodeName, ReplicaReadiness};

/// Assigns running replicas to the models that miss some. Where more run than are missing, those on
/// schedulable nodes come first, then those on the nodes with the best score, then by name.
pub(super) fn adopt_running(state: &mut PlacementState<'_>) {
    let problem = state.problem;
    let mut running: HashMap<&ModelName, Vec<&RunningReplica<'_>>> = HashMap::new();
    for replica in &problem.running {
        running.entry(replica.model).or_default().push(replica);
    }
    if running.is_empty() {
        return;
    }
    for index in state.model_order.clone() {
        let model = state.model(index);
        let missing = missing_replicas(state, index, model.target) as usize;
        let Some(running) = running.get(model.name).filter(|_| missing > 0) else {
            continue;
        };
        let base = state.links.placed_base(index);
        let best = BestPerformance::of(model);
        let used = nodes_with_replica(state, index);
        let mut candidates: Vec<_> = running
            .iter()
            .filter_map(|replica| {
                let node = node_index(state, replica.node)?;
                let allocation = &state.nodes[node];
                let capacity = allocation.capacity;
                // The files are on the node already.
                let is_allowed = keeps_running(capacity.schedulability)
                    && !used.contains(&node)
                    && filter::violated_constraint(model, capacity).is_none()
                    && state.missing_base(index, node).is_none()
                    && allocation.insufficient_memory(model, base).is_none();
                let is_cordoned = capacity.schedulability != Schedulability::Schedulable;
                let rank = (
                    is_cordoned,
                    Reverse(score(model, base, best, allocation)),
                    node,
                );
                is_allowed.then_some((rank, replica.idle_for))
            })
            .collect();
        candidates.sort_unstable();
        candidates.dedup_by_key(|((_, _, node), _)| *node);
        for ((_, _, node), idle_for) in candidates.into_iter().take(missing) {
            let replica = CurrentReplica {
                node: state.nodes[node].capacity.name,
                model: model.name,
                // It answers, and counts in place of another only once it is assigned.
                readiness: ReplicaReadiness::Unknown,
                outdated: false,
                gpu: None,
                idle_for,
            };
            state.add(node, index, replica);
        }
    }
}

/// Returns whether a node keeps a replica that it runs. A cordoned or flapping one does, as it keeps
/// those that are assigned to it.
fn keeps_running(schedulability: Schedulability) -> bool {
    match schedulability {
        Schedulability::Schedulable | Schedulability::Cordoned | Schedulability::Flapping => true,
        Schedulability::Disconnected
        | Schedulability::Lost
        | Schedulability::Draining
        | Schedulability::ForceDraining => false,
    }
}

/// Returns the index of a node.
fn node_index(state: &PlacementState<'_>, name: &NodeName) -> Option<usize> {
    let found = state
        .nodes
        .binary_search_by_key(&name, |node| node.capacity.name);
    found.ok()
}
