//! Preemption: idle replicas that their models do not require leave for a replica that is required.

use std::cmp::Reverse;
use std::time::Duration;

use super::memory_pool::MemoryPool;
use super::placement_state::{PlacementState, PlannedReplica};
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
            // A base goes after its adapters, as the most recently used of them.
            let mut candidates = Vec::with_capacity(victims.len());
            for (idle, victim) in victims.iter() {
                let idle_of = |model: usize| {
                    let found = victims.iter().find(|(_, other)| other.model == model);
                    found.map(|(idle, _)| *idle)
                };
                let adapters = state.adapters_on(victim.model, victim.node);
                let idle_times = adapters.map(|adapter| idle_of(adapter.model));
                let shortest = idle_times.chain([Some(*idle)]).min().flatten();
                candidates.extend(shortest.map(|idle| (idle, *victim)));
            }
            // By name, so that the order does not depend on that of the input.
            candidates.sort_by_key(|(idle, victim)| {
                let is_base = !state.links.is_adapter(victim.model);
                (Reverse(*idle), is_base, state.model(victim.model).name)
            });
            *victims = candidates;
        }
        Self { by_node, counts }
    }

    /// Returns the node on which the memory for a model becomes free at the smallest loss, and the victims
    /// there. The loss is smallest where the most recently used victim is idle for longest.
    pub(super) fn find(
        &self,
        state: &PlacementState<'a>,
        model_index: usize,
        mut is_allowed: impl FnMut(usize) -> bool,
    ) -> Option<(usize, Vec<PlannedReplica<'a>>)> {
        let mut best: Option<(Duration, usize, Vec<PlannedReplica<'a>>)> = None;
        for (node, candidates) in self.by_node.iter().enumerate() {
            if candidates.is_empty() || !is_allowed(node) {
                continue;
            }
            if let Some((shortest_idle, victims)) = self.find_on(state, model_index, node)
                && best
                    .as_ref()
                    .is_none_or(|(other, _, _)| shortest_idle > *other)
            {
                best = Some((shortest_idle, node, victims));
            }
        }
        best.map(|(_, node, victims)| (node, victims))
    }

    /// Returns the victims that make room for a model on a node at the smallest loss, and for how long the most recently
    /// used one is idle. `None`: they would not suffice, or none is needed.
    fn find_on(
        &self,
        state: &PlacementState<'a>,
        model_index: usize,
        node: usize,
    ) -> Option<(Duration, Vec<PlannedReplica<'a>>)> {
        let model = state.model(model_index);
        let base = state.links.placed_base(model_index);
        let pools = state.nodes[node].free.usable(model.uses_accelerator, base);
        let found = pools
            .into_iter()
            .map(|pool| self.find_in(state, model_index, node, pool));
        // The first of the best ones, since the others of the same loss are no better.
        found
            .flatten()
            .reduce(|best, other| match other.0 > best.0 {
                true => other,
                false => best,
            })
    }

    /// Returns the victims of [`Self::find_on`] that take memory of this pool.
    fn find_in(
        &self,
        state: &PlacementState<'a>,
        model_index: usize,
        node: usize,
        pool: MemoryPool,
    ) -> Option<(Duration, Vec<PlannedReplica<'a>>)> {
        let base = state.links.placed_base(model_index);
        let allocation = &state.nodes[node];
        let needed = state.model(model_index).needed_memory(pool);
        let mut free = allocation.free.of(pool);
        let memory_of = |planned: &PlannedReplica<'_>| {
            let victim = state.model(planned.model);
            match allocation
                .free
                .pool_of(planned.model, victim.uses_accelerator)
            {
                same if same == pool => victim.needed_memory(pool),
                _ => Bytes(0),
            }
        };
        // A node has one replica of a model at most, so no replica is counted twice.
        let may_lose = |candidate: &PlannedReplica<'_>| {
            let count = self.counts[candidate.model];
            count.may_lose(candidate, state.is_leaving(candidate))
        };
        let mut victims: Vec<PlannedReplica<'a>> = Vec::new();
        let mut shortest_idle = Duration::MAX;
        for (idle, candidate) in &self.by_node[node] {
            if free >= needed {
                break;
            }
            if Some(candidate.model) == base
                || memory_of(candidate) == Bytes(0)
                || !may_lose(candidate)
            {
                continue;
            }
            let is_victim = |victims: &[PlannedReplica<'_>], model: usize| {
                victims.iter().any(|victim| victim.model == model)
            };
            // Adapters without memory of this pool come along with their base.
            let adapters = state.adapters_on(candidate.model, node);
            let others: Vec<_> = adapters
                .filter(|adapter| !is_victim(&victims, adapter.model))
                .copied()
                .collect();
            let are_candidates = others.iter().all(|adapter| {
                let mut candidates = self.by_node[node].iter();
                candidates.any(|(_, other)| other.model == adapter.model) && may_lose(adapter)
            });
            if !are_candidates {
                continue;
            }
            for victim in others.into_iter().chain([*candidate]) {
                free = free + memory_of(&victim);
                victims.push(victim);
            }
            shortest_idle = shortest_idle.min(*idle);
        }
        if free < needed || victims.is_empty() {
            return None;
        }
        // Small ones stay where a large one makes enough room alone.
        for index in (0..victims.len()).rev() {
            let victim = victims[index];
            let base = state.links.placed_base(victim.model);
            let goes_with_base = victims.iter().any(|other| Some(other.model) == base);
            let without = free.saturating_sub(memory_of(&victim));
            if without >= needed && !goes_with_base {
                free = without;
                victims.remove(index);
            }
        }
        Some((shortest_idle, victims))
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
