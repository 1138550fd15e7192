//! Preemption: idle replicas that their models do not require leave for a replica that is required.

use std::time::Duration;

use super::placement_state::{PlacementState, PlannedReplica};
use crate::Bytes;

/// The replicas that may be preempted. Updated as they leave.
pub(super) struct PreemptionVictims<'a> {
    /// Candidates by node index, the one that is idle for longest first, with their idle time.
    by_node: Vec<Vec<(Duration, PlannedReplica<'a>)>>,
    /// Number of replicas above the required number, by model index.
    spare: Vec<u32>,
}

impl<'a> PreemptionVictims<'a> {
    /// Returns the idle replicas of models that have more replicas than they require.
    pub(super) fn new(state: &PlacementState<'a>) -> Self {
        let mut by_node: Vec<Vec<(Duration, PlannedReplica<'a>)>> = Vec::new();
        by_node.resize_with(state.nodes.len(), Vec::new);
        let mut spare = vec![0; state.problem.models.len()];
        for (index, replicas) in state.replicas.iter().enumerate() {
            let required = state.model(index).required as usize;
            spare[index] =
                u32::try_from(replicas.len().saturating_sub(required)).unwrap_or(u32::MAX);
            for planned in replicas {
                if let Some(idle) = planned.replica.idle_for
                    && spare[index] > 0
                {
                    by_node[planned.node].push((idle, *planned));
                }
            }
        }
        for victims in &mut by_node {
            victims.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.model.cmp(&b.1.model)));
        }
        Self { by_node, spare }
    }

    /// Returns the node on which `needed` bytes become free at the smallest loss, and the victims
    /// there. The loss is smallest where the most recently used victim is idle for longest.
    pub(super) fn find(
        &self,
        state: &PlacementState<'a>,
        needed: Bytes,
        mut is_allowed: impl FnMut(usize) -> bool,
    ) -> Option<(usize, Vec<PlannedReplica<'a>>)> {
        let mut best: Option<(Duration, usize, Vec<PlannedReplica<'a>>)> = None;
        for (node, candidates) in self.by_node.iter().enumerate() {
            if candidates.is_empty() || !is_allowed(node) {
                continue;
            }
            let mut free = state.nodes[node].free;
            let mut victims = Vec::new();
            let mut shortest_idle = Duration::MAX;
            for (idle, candidate) in candidates {
                if free >= needed {
                    break;
                }
                let memory = state.model(candidate.model).memory.unwrap_or_default();
                // A node has one replica of a model at most, so no spare replica is counted twice.
                if self.spare[candidate.model] == 0 || memory == Bytes(0) {
                    continue;
                }
                free = free + memory;
                shortest_idle = shortest_idle.min(*idle);
                victims.push(*candidate);
            }
            let is_better = best
                .as_ref()
                .is_none_or(|(other, _, _)| shortest_idle > *other);
            if free >= needed && !victims.is_empty() && is_better {
                best = Some((shortest_idle, node, victims));
            }
        }
        best.map(|(_, node, victims)| (node, victims))
    }

    /// Removes replicas that were preempted on a node.
    pub(super) fn remove(&mut self, node: usize, preempted: &[PlannedReplica<'a>]) {
        for victim in preempted {
            self.spare[victim.model] -= 1;
        }
        let models: Vec<usize> = preempted.iter().map(|victim| victim.model).collect();
        self.by_node[node].retain(|(_, victim)| !models.contains(&victim.model));
    }
}
