//! The working state of the solver: the memory and the disk space left on each node, and the replicas of
//! each model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::bases::BaseLinks;
use super::filter;
use super::memory_pool::{FreeMemory, MemoryPool};
use super::problem::{
    CurrentReplica, DeliveredFiles, ModelDemand, NodeCapacity, PlacementProblem, Schedulability,
};
use super::unschedulable::UnschedulableReason;
use crate::{Bytes, ModelName, NodeName, ReplicaReadiness};

/// The memory, the files and the replicas of a node in the plan.
pub(super) struct NodeAllocation<'a> {
    pub(super) capacity: &'a NodeCapacity<'a>,
    /// The memory that is free.
    pub(super) free: FreeMemory,
    /// The files of the replicas, once for each replica.
    files: Vec<DeliveredFiles>,
    pub(super) replicas: u32,
    /// The models with a replica that are adapters or have adapters, by their indices.
    pub(super) linked: Vec<usize>,
}

/// A replica in the plan, current or new.
#[derive(Clone, Copy)]
pub(super) struct PlannedReplica<'a> {
    /// Index in [`PlacementState::nodes`].
    pub(super) node: usize,
    /// Index in [`PlacementProblem::models`].
    pub(super) model: usize,
    pub(super) replica: CurrentReplica<'a>,
    /// Whether the plan adds the replica.
    pub(super) is_new: bool,
}

impl PlannedReplica<'_> {
    /// Returns the order in which replicas are kept: those that answer first, then those that may.
    pub(super) fn preference(&self) -> u8 {
        match self.replica.readiness {
            ReplicaReadiness::Ready(_) => 0,
            ReplicaReadiness::Unknown => 1,
            ReplicaReadiness::NotReady | ReplicaReadiness::Unreachable => 2,
        }
    }
}

/// The state of a plan while it is computed.
pub(super) struct PlacementState<'a> {
    pub(super) problem: &'a PlacementProblem<'a>,
    /// The nodes, sorted by name.
    pub(super) nodes: Vec<NodeAllocation<'a>>,
    /// Indices of the models in the order in which they are placed: adapters after all others, largest
    /// first, so that small ones fill the gaps, and by name if they are equally large.
    pub(super) model_order: Vec<usize>,
    /// The planned replicas, by model index.
    pub(super) replicas: Vec<Vec<PlannedReplica<'a>>>,
    /// Which models are adapters of which others.
    pub(super) links: BaseLinks,
    /// The replicas of bases that leave once their adapters answer elsewhere, by model and node index.
    pub(super) leaving_bases: BTreeSet<(usize, usize)>,
    /// Whether flapping nodes may get new replicas.
    pub(super) allow_flapping: bool,
}

impl<'a> PlacementState<'a> {
    /// Returns the state with all current replicas that may stay and no new ones.
    pub(super) fn new(problem: &'a PlacementProblem<'a>) -> Self {
        let mut nodes: Vec<NodeAllocation<'a>> = problem
            .nodes
            .iter()
            .map(|capacity| NodeAllocation {
                capacity,
                free: FreeMemory::new(capacity.memory, &capacity.gpus),
                files: Vec::new(),
                replicas: 0,
                linked: Vec::new(),
            })
            .collect();
        nodes.sort_unstable_by_key(|node| node.capacity.name);
        let links = BaseLinks::new(problem, &nodes);
        let mut model_order: Vec<usize> = (0..problem.models.len()).collect();
        model_order.sort_unstable_by_key(|index| {
            let model = &problem.models[*index];
            let largest_first = std::cmp::Reverse(model.memory.largest());
            (links.is_adapter(*index), largest_first, model.name)
        });
        let mut state = Self {
            problem,
            nodes,
            model_order,
            replicas: vec![Vec::new(); problem.models.len()],
            links,
            leaving_bases: BTreeSet::new(),
            allow_flapping: false,
        };
        state.keep_current_replicas();
        state
    }

    pub(super) fn model(&self, index: usize) -> &'a ModelDemand<'a> {
        &self.problem.models[index]
    }

    /// Adds the current replicas that may stay and fit, in the order of the models.
    fn keep_current_replicas(&mut self) {
        let node_indices: HashMap<&NodeName, usize> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (node.capacity.name, index))
            .collect();
        let model_indices: HashMap<&ModelName, usize> = self
            .problem
            .models
            .iter()
            .enumerate()
            .map(|(index, model)| (model.name, index))
            .collect();
        let mut current: Vec<Vec<PlannedReplica<'a>>> = vec![Vec::new(); self.problem.models.len()];
        for replica in &self.problem.current {
            let node = node_indices.get(replica.node);
            let model = model_indices.get(replica.model);
            if let (Some(node), Some(model)) = (node, model) {
                current[*model].push(PlannedReplica {
                    node: *node,
                    model: *model,
                    replica: *replica,
                    is_new: false,
                });
            }
        }
        for index in self.model_order.clone() {
            let model = self.model(index);
            let mut replicas = std::mem::take(&mut current[index]);
            // Node indices follow the names, so the order does not depend on that of the input.
            replicas.sort_unstable_by_key(|planned| (planned.preference(), planned.node));
            replicas.dedup_by_key(|planned| planned.node);
            for planned in replicas {
                let node = &self.nodes[planned.node];
                let base = self.links.placed_base(index);
                let fits = node.insufficient_memory(model, base).is_none();
                // A node that failed to load the target revision may still serve an earlier one.
                let may_stay = match filter::violated_constraint(model, node.capacity) {
                    None => true,
                    Some(UnschedulableReason::LoadFailed(_)) => {
                        planned.replica.readiness.may_answer()
                    }
                    Some(_) => false,
                };
                if fits && may_stay && self.missing_base(index, planned.node).is_none() {
                    self.allocate(planned.node, index, planned.replica.gpu);
                    self.replicas[index].push(planned);
                }
            }
        }
    }

    /// Adds a replica of a model that is to be loaded on a node.
    pub(super) fn add_new(&mut self, node: usize, model_index: usize) {
        let replica = CurrentReplica {
            node: self.nodes[node].capacity.name,
            model: self.model(model_index).name,
            readiness: ReplicaReadiness::NotReady,
            outdated: false,
            gpu: None,
            idle_for: Some(Duration::ZERO),
        };
        self.add(node, model_index, replica);
    }

    /// Adds a replica that is not assigned yet.
    pub(super) fn add(&mut self, node: usize, model_index: usize, replica: CurrentReplica<'a>) {
        self.allocate(node, model_index, replica.gpu);
        self.replicas[model_index].push(PlannedReplica {
            node,
            model: model_index,
            replica,
            is_new: true,
        });
    }

    /// Removes a replica from the plan, with those of its adapters on the node.
    pub(super) fn remove(&mut self, removed: &PlannedReplica<'a>) {
        let adapters = self.adapters_on(removed.model, removed.node);
        let adapters: Vec<PlannedReplica<'a>> = adapters.copied().collect();
        for planned in adapters.iter().chain([removed]) {
            let replicas = &mut self.replicas[planned.model];
            if let Some(index) = replicas.iter().position(|r| r.node == planned.node) {
                replicas.remove(index);
                self.release(planned.node, planned.model);
            }
        }
    }

    /// Takes the memory of a replica: of the GPU where it is known to be, or else of the one that has the most free.
    fn allocate(&mut self, node: usize, model_index: usize, gpu: Option<usize>) {
        let model = self.model(model_index);
        let base = self.links.placed_base(model_index);
        let is_linked = self.links.is_linked(model_index);
        let node = &mut self.nodes[node];
        let known = gpu.filter(|gpu| model.uses_accelerator && *gpu < node.capacity.gpus.len());
        let pool = known.map_or_else(|| node.best_pool(model, base), MemoryPool::Gpu);
        let needed = model.needed_memory(pool);
        node.free.take(pool, model_index, needed);
        node.files.extend(model.files);
        node.replicas += 1;
        node.linked.extend(is_linked.then_some(model_index));
    }

    fn release(&mut self, node: usize, model_index: usize) {
        let model = self.model(model_index);
        let node = &mut self.nodes[node];
        let pool = node.free.pool_of(model_index, model.uses_accelerator);
        let needed = model.needed_memory(pool);
        node.free.give_back(pool, model_index, needed);
        let position = node
            .files
            .iter()
            .position(|files| Some(*files) == model.files);
        if let Some(position) = position {
            node.files.swap_remove(position);
        }
        node.replicas -= 1;
        node.linked.retain(|linked| *linked != model_index);
    }

    /// Returns whether a replica leaves once its replacement answers: its node is draining, lost, or
    /// failed to load the target revision, or the replica of its base leaves.
    pub(super) fn is_leaving(&self, planned: &PlannedReplica<'_>) -> bool {
        let base = self.links.placed_base(planned.model);
        self.leaves(planned.model, planned.node)
            || base.is_some_and(|base| self.leaves(base, planned.node))
    }

    /// Returns whether a replica leaves once its replacement answers, regardless of its base.
    pub(super) fn leaves(&self, model: usize, node: usize) -> bool {
        if !self.leaving_bases.is_empty() && self.leaving_bases.contains(&(model, node)) {
            return true;
        }
        let node = self.nodes[node].capacity;
        let failures = self.model(model).load_failures;
        matches!(
            node.schedulability,
            Schedulability::Draining | Schedulability::Lost
        ) || (!failures.is_empty() && failures.contains_key(node.name))
    }

    /// Returns the reason other than memory and disk space for which a node gets no new replica of a model.
    pub(super) fn unschedulable(
        &self,
        model_index: usize,
        node_index: usize,
    ) -> Option<UnschedulableReason> {
        self.unusable_base(model_index)
            .or_else(|| self.unschedulable_without_base(model_index, node_index))
            .or_else(|| self.leaving_base(model_index, node_index))
    }

    /// Returns the reason other than memory and disk space for which a node would get no new replica of a
    /// model if its base was there.
    pub(super) fn unschedulable_without_base(
        &self,
        model_index: usize,
        node_index: usize,
    ) -> Option<UnschedulableReason> {
        let node = self.nodes[node_index].capacity;
        filter::unschedulable(node, self.allow_flapping)
            .or_else(|| filter::violated_constraint(self.model(model_index), node))
    }

    /// Counts the replicas of a model on `nodes` by domain, which is the value of the label that
    /// the model is spread by.
    pub(super) fn count_by_domain(
        &self,
        model: &ModelDemand<'a>,
        nodes: &[usize],
    ) -> BTreeMap<&'a str, u32> {
        let mut counts = BTreeMap::new();
        for node in nodes {
            *counts.entry(self.domain(model, *node)).or_default() += 1;
        }
        counts
    }

    /// Returns a node's value of the label that `model` is spread by. Nodes without the label form
    /// one domain, the empty text.
    pub(super) fn domain(&self, model: &ModelDemand<'a>, node: usize) -> &'a str {
        let label = model.spec.spread_by.as_ref();
        label
            .and_then(|label| self.nodes[node].capacity.labels.get(label))
            .map_or("", String::as_str)
    }
}

impl NodeAllocation<'_> {
    /// Returns the reason if the node has too little memory or disk space for a replica of `model`, whose `base`, if it
    /// is an adapter, has this index.
    pub(super) fn insufficient_resource(
        &self,
        model: &ModelDemand<'_>,
        base: Option<usize>,
    ) -> Option<UnschedulableReason> {
        self.insufficient_memory(model, base)
            .or_else(|| self.insufficient_disk(model))
    }

    /// Returns the reason if the node has too little disk space for the files of `model`. Files that
    /// another replica needs as well are there already.
    pub(super) fn insufficient_disk(&self, model: &ModelDemand<'_>) -> Option<UnschedulableReason> {
        let (disk, needed) = (self.capacity.disk?, model.files?);
        let is_first = |(index, files): &(usize, &DeliveredFiles)| {
            !self.files[..*index]
                .iter()
                .any(|other| other.digest == files.digest)
        };
        if self.files.iter().any(|files| files.digest == needed.digest) {
            return None;
        }
        let used: Bytes = self
            .files
            .iter()
            .enumerate()
            .filter(is_first)
            .map(|(_, files)| files.size)
            .sum();
        let free = disk.saturating_sub(used);
        (needed.size > free).then_some(UnschedulableReason::InsufficientDisk {
            needed: needed.size,
            free,
        })
    }
}
