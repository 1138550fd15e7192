//! Preemption: idle replicas that their models do not require leave for a replica that is required.

use std::time::Duration;

use super::placement_state::{PlacementState, PlannedReplica};
use super::problem::ModelDemand;
use crate::Bytes;

/// The replicas that may be preempted. Updated as they leave.
pub(super) struct PreemptionVictims<'a> {
    /// Candidates by node index, the one that is idle for longest first, with their idle time.
    by_node: Vec<Vec<(Duration, PlannedReplica<'a>)>>,
    /// The replicas by model index.
    counts: Vec<ReplicaCounts>,
}

/// The replicas of a model that do not leave anyway.
#[derive(Debug, Clone, Copy)]
struct ReplicaCounts {
    staying: usize,
    /// The staying ones that answer.
    ready: usize,
    required: usize,
}

impl ReplicaCounts {
    fn of(state: &PlacementState<'_>, index: usize) -> Self {
        let replicas = state.replicas[index].iter();
        let staying = replicas.filter(|planned| !state.is_leaving(planned));
        let ready = |planned: &&PlannedReplica<'_>| planned.replica.readiness.is_ready();
        Self {
            staying: staying.clone().count(),
            ready: staying.filter(ready).count(),
            required: state.model(index).required as usize,
        }
    }

    /// Returns whether the model may lose a replica: it keeps as many as it requires, and one that may
    /// answer goes only if as many others answer.
    fn may_lose(self, planned: &PlannedReplica<'_>, is_leaving: bool) -> bool {
        let readiness = planned.replica.readiness;
        let counted = usize::from(!is_leaving && readiness.is_ready());
        (is_leaving || self.staying > self.required)
            && (!readiness.may_answer() || self.ready - counted >= self.required)
    }

    fn lose(&mut self, planned: &PlannedReplica<'_>, is_leaving: bool) {
        if !is_leaving {
            self.staying -= 1;
            self.ready -= usize::from(planned.replica.readiness.is_ready());
        }
    }
}

impl<'a> PreemptionVictims<'a> {
    /// Returns the idle replicas of models that have more replicas than they require.
    pub(super) fn new(state: &PlacementState<'a>) -> Self {
        let mut by_node: Vec<Vec<(Duration, PlannedReplica<'a>)>> = Vec::new();
        by_node.resize_with(state.nodes.len(), Vec::new);
        let mut counts = Vec::with_capacity(state.replicas.len());
        for (index, replicas) in state.replicas.iter().enumerate() {
            let count = ReplicaCounts::of(state, index);
            counts.push(count);
            for planned in replicas {
                if let Some(idle) = planned.replica.idle_for
                    && count.may_lose(planned, state.is_leaving(planned))
                {
                    by_node[planned.node].push((idle, *planned));
                }
            }
        }
        for victims in &mut by_node {
            // By name, so that the order does not depend on that of the input.
            let name = |victim: &PlannedReplica<'a>| state.model(victim.model).name;
            victims.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| name(&a.1).cmp(name(&b.1))));
        }
        Self { by_node, counts }
    }

    /// Returns the node on which the memory for `model` becomes free at the smallest loss, and the victims
    /// there. The loss is smallest where the most recently used victim is idle for longest.
    pub(super) fn find(
        &self,
        state: &PlacementState<'a>,
        model: &ModelDemand<'_>,
        mut is_allowed: impl FnMut(usize) -> bool,
    ) -> Option<(usize, Vec<PlannedReplica<'a>>)> {
        let mut best: Option<(Duration, usize, Vec<PlannedReplica<'a>>)> = None;
        for (node, candidates) in self.by_node.iter().enumerate() {
            if candidates.is_empty() || !is_allowed(node) {
                continue;
            }
            let allocation = &state.nodes[node];
            let kind = model.memory_kind(allocation.capacity);
            let needed = model.needed_memory(kind);
            let mut free = allocation.free(kind);
            let mut victims = Vec::new();
            let mut shortest_idle = Duration::MAX;
            for (idle, candidate) in candidates {
                if free >= needed {
                    break;
                }
                let victim = state.model(candidate.model);
                let memory = match victim.memory_kind(allocation.capacity) {
                    same if same == kind => victim.needed_memory(kind),
                    _ => Bytes(0),
                };
                // A node has one replica of a model at most, so no replica is counted twice.
                let count = self.counts[candidate.model];
                let may_lose = count.may_lose(candidate, state.is_leaving(candidate));
                if !may_lose || memory == Bytes(0) {
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
    pub(super) fn remove(
        &mut self,
        state: &PlacementState<'a>,
        node: usize,
        preempted: &[PlannedReplica<'a>],
    ) {
        for victim in preempted {
            self.counts[victim.model].lose(victim, state.is_leaving(victim));
        }
        let models: Vec<usize> = preempted.iter().map(|victim| victim.model).collect();
        self.by_node[node].retain(|(_, victim)| !models.contains(&victim.model));
    }
}
