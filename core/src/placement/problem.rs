//! The input and the output of the solver.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::memory_pool::MemoryPool;
use crate::spec::{Accelerator, ModelSpec, Sha256Digest, Taint};
use crate::{Bytes, ModelName, NodeName, ReplicaReadiness, ZoneName};

/// A snapshot of the fleet for the solver. It borrows from the fleet and copies nothing.
#[derive(Debug, Clone, Default)]
pub struct PlacementProblem<'a> {
    /// The nodes that may have replicas.
    pub nodes: Vec<NodeCapacity<'a>>,
    /// The models to place.
    pub models: Vec<ModelDemand<'a>>,
    /// The current assignments. They may include ones of nodes and models that are not in the other
    /// lists; those are evicted.
    pub current: Vec<CurrentReplica<'a>>,
    /// The replicas that answer on nodes to which they are not assigned.
    pub running: Vec<RunningReplica<'a>>,
    /// The models that are not placed but stay where they are. They may be bases of models to place.
    pub fixed: Vec<FixedModel<'a>>,
}

/// A model whose replicas stay where they are, whatever the plan is.
#[derive(Debug, Clone)]
pub struct FixedModel<'a> {
    /// Name of the model.
    pub name: &'a ModelName,
    /// The nodes that have a replica.
    pub nodes: Vec<&'a NodeName>,
}

/// A node that may have replicas.
#[derive(Debug, Clone)]
pub struct NodeCapacity<'a> {
    /// Name of the node.
    pub name: &'a NodeName,
    /// Memory for models.
    pub memory: Bytes,
    /// Memory for models of each of the node's GPUs, which a model that uses an accelerator takes
    /// instead. Empty: the node has none, or one that shares the memory of the node.
    pub gpus: Vec<Bytes>,
    /// Disk space for the files of models. `None`: not known, and not a limit.
    pub disk: Option<Bytes>,
    /// Labels, for node selectors and spreading.
    pub labels: &'a BTreeMap<String, String>,
    /// Taints that a model must tolerate.
    pub taints: &'a [Taint],
    /// Privacy zones. Empty: the node is in no zone.
    pub zones: &'a BTreeSet<ZoneName>,
    /// Accelerators that the node has.
    pub accelerators: &'a [Accelerator],
    /// Which replicas the node may have.
    pub schedulability: Schedulability,
    /// Power or thermal pressure, as the factor by which it slows the node down. At least 1, which
    /// means no pressure.
    pub pressure_factor: f64,
}

/// Which replicas a node may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedulability {
    /// The node keeps its replicas and gets new ones.
    Schedulable,
    /// The node keeps its replicas and gets no new ones, because an operator cordoned it.
    Cordoned,
    /// The node keeps its replicas and gets no new ones, because it is not connected but may return
    /// soon.
    Disconnected,
    /// The node gets no new replicas and keeps each one until a replacement answers, because it has
    /// been disconnected for too long. It may still serve, and may return.
    Lost,
    /// The node keeps its replicas. Because it disconnected too often lately, it gets new ones only
    /// if they are required and fit on no other node.
    Flapping,
    /// The node gets no new replicas and keeps each one until a replacement answers.
    Draining,
    /// The node loses all its replicas, with or without replacements.
    ForceDraining,
}

/// The demand for replicas of a model.
#[derive(Debug, Clone)]
pub struct ModelDemand<'a> {
    /// Name of the model.
    pub name: &'a ModelName,
    /// The model's spec, for its constraints on nodes.
    pub spec: &'a ModelSpec,
    /// The model in whose process this one runs, if it is an adapter.
    pub base: Option<&'a ModelName>,
    /// Whether a replica takes the memory of an accelerator on a node that has one.
    pub uses_accelerator: bool,
    /// Number of replicas that the model should have.
    pub target: u32,
    /// Number of replicas for which idle replicas of other models may be preempted.
    pub required: u32,
    /// Memory of one replica.
    pub memory: ReplicaMemory,
    /// The files that a node needs for the model. `None`: they are on the nodes, or not known yet.
    pub files: Option<DeliveredFiles>,
    /// Nodes that failed to load the model, with the error.
    pub load_failures: &'a BTreeMap<NodeName, String>,
    /// Measured performance of the model, by node.
    pub performance: &'a HashMap<NodeName, MeasuredPerformance>,
}

impl ModelDemand<'_> {
    /// Returns the number of replicas for which others may be preempted, at most the target.
    pub(super) fn required_replicas(&self) -> u32 {
        self.required.min(self.target)
    }

    /// Returns the memory that a replica takes of a pool.
    pub(super) fn needed_memory(&self, pool: MemoryPool) -> Bytes {
        let needed = self.memory.get(pool != MemoryPool::Host);
        needed.unwrap_or_default()
    }
}

/// The memory of one replica of a model, which differs between nodes that compute the model on an
/// accelerator with memory of its own and those that do not. `None`: not known; counts as 0 until a node
/// has measured it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaMemory {
    /// Where it takes memory of the node itself.
    pub host: Option<Bytes>,
    /// Where it takes memory of the node's accelerator.
    pub device: Option<Bytes>,
}

impl ReplicaMemory {
    /// Returns the memory where it is of the accelerator, if `on_device`, or of the node itself.
    #[must_use]
    pub fn get(self, on_device: bool) -> Option<Bytes> {
        match on_device {
            true => self.device,
            false => self.host,
        }
    }

    /// Returns the larger memory.
    #[must_use]
    pub fn largest(self) -> Option<Bytes> {
        self.host.max(self.device)
    }
}

/// The files of a model that controllers deliver to its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveredFiles {
    /// Identifies the files: models with the same ones share them on a node.
    pub digest: Sha256Digest,
    /// Size of all files.
    pub size: Bytes,
}

/// The measured performance of a model on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MeasuredPerformance {
    /// Output tokens per second of a single request. `None`: not measured.
    pub tokens_per_second: Option<f64>,
    /// Energy of an output token, in joules. `None`: not measured.
    pub joules_per_token: Option<f64>,
}

/// A replica that is assigned to a node.
#[derive(Debug, Clone, Copy)]
pub struct CurrentReplica<'a> {
    /// Node of the replica.
    pub node: &'a NodeName,
    /// Model of the replica.
    pub model: &'a ModelName,
    /// Whether the replica answers.
    pub readiness: ReplicaReadiness,
    /// Whether the replica is assigned another revision than the model's target revision.
    pub outdated: bool,
    /// The GPU whose memory it takes, by its index on the node. `None`: it takes none, or that is not known.
    pub gpu: Option<usize>,
    /// Time since the replica's last request. `None`: it is computing requests, or its use is not
    /// known.
    pub idle_for: Option<Duration>,
}

/// A replica that answers with the model's target revision on a node to which it is not assigned.
#[derive(Debug, Clone, Copy)]
pub struct RunningReplica<'a> {
    /// Node of the replica.
    pub node: &'a NodeName,
    /// Model of the replica.
    pub model: &'a ModelName,
    /// Time since the replica's last request. `None`: it is computing requests.
    pub idle_for: Option<Duration>,
}

/// A model and a node that has, or should have, a replica of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// Node of the replica.
    pub node: NodeName,
    /// Model of the replica.
    pub model: ModelName,
}

/// The changes that bring the current replicas to the demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementPlan {
    /// Assignments to add.
    pub assign: BTreeSet<Assignment>,
    /// Assignments to remove.
    pub evict: BTreeSet<Assignment>,
    /// Number of replicas that could not be placed, for each model that misses some.
    pub missing: BTreeMap<ModelName, u32>,
}

impl PlacementPlan {
    /// Returns whether the plan changes no assignment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.assign.is_empty() && self.evict.is_empty()
    }
}
