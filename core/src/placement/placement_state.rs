//! The state of a plan that grows: what each node has left, what each model has got.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::filter;
use super::problem::{CurrentReplica, ModelDemand, NodeCapacity, PlacementProblem, Schedulability};
use super::unschedulable::UnschedulableReason;
use crate::{Bytes, ModelName, NodeName};

/// A node while the plan grows.
pub(super) struct NodeAllocation {
    /// Its place in [`PlacementProblem::nodes`].
    pub(super) index: usize,
    pub(super) free: Bytes,
    pub(super) replicas: u32,
}

/// A replica of the plan: one that stands and stays, or a new one.
#[derive(Clone, Copy)]
pub(super) struct PlannedReplica<'a> {
    pub(super) slot: usize,
    pub(super) standing: CurrentReplica<'a>,
    /// Its place in [`PlacementProblem::models`].
    pub(super) model: usize,
    pub(super) new: bool,
}

/// The nodes in order of their names, the models in the order in which they are served, and
/// the replicas.
pub(super) struct PlacementState<'a> {
    pub(super) problem: &'a PlacementProblem<'a>,
    pub(super) slots: Vec<NodeAllocation>,
    /// Models, largest first, so that small ones fill the gaps; equal ones by name.
    pub(super) order: Vec<usize>,
    /// By model: its replicas in the plan.
    pub(super) kept: Vec<Vec<PlannedReplica<'a>>>,
    /// Whether new replicas may be on unsteady nodes.
    pub(super) last_resort: bool,
}

impl<'a> PlacementState<'a> {
    /// The board before anything new is placed. What may not stay is not on it.
    pub(super) fn new(problem: &'a PlacementProblem<'a>) -> Self {
        let mut by_name: Vec<usize> = (0..problem.nodes.len()).collect();
        by_name.sort_unstable_by_key(|i| problem.nodes[*i].name);
        let slots: Vec<NodeAllocation> = by_name
            .into_iter()
            .map(|index| NodeAllocation {
                index,
                free: problem.nodes[index].memory,
                replicas: 0,
            })
            .collect();
        let mut order: Vec<usize> = (0..problem.models.len()).collect();
        order.sort_unstable_by_key(|i| {
            let model = &problem.models[*i];
            (std::cmp::Reverse(model.memory), model.name)
        });
        let mut board = Self {
            problem,
            slots,
            order,
            kept: vec![Vec::new(); problem.models.len()],
            last_resort: false,
        };
        board.keep();
        board
    }

    pub(super) fn node(&self, slot: &NodeAllocation) -> &'a NodeCapacity<'a> {
        &self.problem.nodes[slot.index]
    }

    pub(super) fn model(&self, index: usize) -> &'a ModelDemand<'a> {
        &self.problem.models[index]
    }

    /// Takes over what stands and may stay: all that fits, in the order of the models.
    fn keep(&mut self) {
        let slots: HashMap<&NodeName, usize> = self
            .slots
            .iter()
            .enumerate()
            .map(|(i, slot)| (self.problem.nodes[slot.index].name, i))
            .collect();
        let models: HashMap<&ModelName, usize> = self
            .problem
            .models
            .iter()
            .enumerate()
            .map(|(i, model)| (model.name, i))
            .collect();
        let mut standing: Vec<Vec<PlannedReplica<'a>>> =
            vec![Vec::new(); self.problem.models.len()];
        for replica in &self.problem.current {
            if let (Some(slot), Some(model)) = (slots.get(replica.node), models.get(replica.model))
            {
                standing[*model].push(PlannedReplica {
                    slot: *slot,
                    standing: *replica,
                    model: *model,
                    new: false,
                });
            }
        }
        for index in self.order.clone() {
            let model = self.model(index);
            let mut replicas = std::mem::take(&mut standing[index]);
            // Slots are in order of names: whatever order the input had, this is one.
            replicas.sort_unstable_by_key(|kept| (!kept.standing.ready, kept.slot));
            replicas.dedup_by_key(|kept| kept.slot);
            for kept in replicas {
                let slot = &self.slots[kept.slot];
                let fits = model.memory.unwrap_or_default() <= slot.free;
                if fits && filter::forbidden(model, self.node(slot)).is_none() {
                    self.take(kept.slot, model);
                    self.kept[index].push(kept);
                }
            }
        }
    }

    /// A new replica of the model of `index`, on the node of `slot`.
    pub(super) fn add(&mut self, slot: usize, index: usize) {
        let model = self.model(index);
        let standing = CurrentReplica {
            node: self.node(&self.slots[slot]).name,
            model: model.name,
            ready: false,
            outdated: false,
            idle_for: Some(Duration::ZERO),
        };
        self.take(slot, model);
        self.kept[index].push(PlannedReplica {
            slot,
            standing,
            model: index,
            new: true,
        });
    }

    /// A replica leaves the plan.
    pub(super) fn remove(&mut self, gone: &PlannedReplica<'a>) {
        self.give(gone.slot, self.model(gone.model));
        self.kept[gone.model].retain(|kept| kept.slot != gone.slot);
    }

    /// A replica of `model` takes its part of a node.
    fn take(&mut self, slot: usize, model: &ModelDemand<'_>) {
        let slot = &mut self.slots[slot];
        slot.free = slot.free.saturating_sub(model.memory.unwrap_or_default());
        slot.replicas += 1;
    }

    /// A replica of `model` gives its part of a node back.
    fn give(&mut self, slot: usize, model: &ModelDemand<'_>) {
        let slot = &mut self.slots[slot];
        slot.free = slot.free + model.memory.unwrap_or_default();
        slot.replicas -= 1;
    }

    /// Whether a kept replica waits for the one that takes its place.
    pub(super) fn is_leaving(&self, kept: &PlannedReplica<'_>) -> bool {
        self.node(&self.slots[kept.slot]).schedulability == Schedulability::Draining
    }

    /// Why a new replica of `model` cannot be on the node of `slot`, memory aside.
    pub(super) fn refuses(
        &self,
        model: &ModelDemand<'_>,
        slot: &NodeAllocation,
    ) -> Option<UnschedulableReason> {
        let node = self.node(slot);
        filter::shut(node, self.last_resort).or_else(|| filter::forbidden(model, node))
    }

    /// Why the memory of the node of `slot` does not do for one more replica of `model`.
    pub(super) fn lacks(
        &self,
        model: &ModelDemand<'_>,
        slot: &NodeAllocation,
    ) -> Option<UnschedulableReason> {
        let needed = model.memory.unwrap_or_default();
        (needed > slot.free).then_some(UnschedulableReason::InsufficientMemory {
            needed,
            free: slot.free,
        })
    }

    /// How often each value of the label that `model` is spread by has a replica.
    pub(super) fn domains(
        &self,
        model: &ModelDemand<'a>,
        slots: &[usize],
    ) -> BTreeMap<&'a str, u32> {
        let mut domains = BTreeMap::new();
        for slot in slots {
            *domains.entry(self.domain(model, *slot)).or_default() += 1;
        }
        domains
    }

    /// The value of that label on a node; nodes without it are one domain.
    pub(super) fn domain(&self, model: &ModelDemand<'a>, slot: usize) -> &'a str {
        let node = self.node(&self.slots[slot]);
        let label = model.spec.spread_by.as_ref();
        label
            .and_then(|label| node.labels.get(label))
            .map_or("", String::as_str)
    }
}
