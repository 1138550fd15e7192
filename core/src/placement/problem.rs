//! What the solver is given and what it gives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::spec::{Accelerator, ModelSpec, Taint};
use crate::{Bytes, ModelName, NodeName, ZoneName};

/// The fleet as the solver sees it. Borrowed: nothing of the fleet is copied for it.
#[derive(Debug, Clone, Default)]
pub struct PlacementProblem<'a> {
    /// The nodes that are there.
    pub nodes: Vec<NodeCapacity<'a>>,
    pub models: Vec<ModelDemand<'a>>,
    /// What is assigned now. Of nodes and models not named above, too.
    pub current: Vec<CurrentReplica<'a>>,
}

/// A node that can take models.
#[derive(Debug, Clone)]
pub struct NodeCapacity<'a> {
    pub name: &'a NodeName,
    /// Memory for models.
    pub memory: Bytes,
    pub labels: &'a BTreeMap<String, String>,
    pub taints: &'a [Taint],
    pub zone: Option<&'a ZoneName>,
    /// What it computes with.
    pub accelerators: &'a [Accelerator],
    pub schedulability: Schedulability,
    /// By which factor it counts as worse than it is, at least 1.
    pub pressure_factor: f64,
}

/// Which replicas a node may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedulability {
    /// New ones.
    Schedulable,
    /// Those it has; somebody cordoned it.
    Cordoned,
    /// Those it has; it is not there at the moment.
    Disconnected,
    /// Those it has; it came back too often lately to be trusted with more, unless something
    /// required has no other place.
    Flapping,
    /// Those it has, until each is ready elsewhere.
    Draining,
    /// None, whether or not they find a place elsewhere.
    ForceDraining,
}

/// A model that wants places.
#[derive(Debug, Clone)]
pub struct ModelDemand<'a> {
    pub name: &'a ModelName,
    /// Filters and spreading are read from here.
    pub spec: &'a ModelSpec,
    /// Replicas there should be now.
    pub target: u32,
    /// Of these, so many may take the place of idle replicas that others can do without.
    pub required: u32,
    /// Memory of one replica; `None` is unknown and counts as nothing until a node has
    /// measured it.
    pub memory: Option<Bytes>,
    /// Nodes that cannot run it, with what they said when they tried.
    pub load_failures: &'a BTreeMap<NodeName, String>,
    /// What it did where it ran, by node.
    pub performance: &'a HashMap<NodeName, MeasuredPerformance>,
}

impl ModelDemand<'_> {
    /// Replicas for which others make room.
    pub(super) fn goal(&self) -> u32 {
        self.required.min(self.target)
    }
}

/// What a model did on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MeasuredPerformance {
    /// Output tokens per second of one request.
    pub tokens_per_second: Option<f64>,
    /// Energy of one output token, in joules.
    pub joules_per_token: Option<f64>,
}

/// A replica that is assigned.
#[derive(Debug, Clone, Copy)]
pub struct CurrentReplica<'a> {
    pub node: &'a NodeName,
    pub model: &'a ModelName,
    /// Whether it answers.
    pub ready: bool,
    /// Whether it serves what its model does not want served any more.
    pub outdated: bool,
    /// For how long nobody has asked it. `None` while somebody does.
    pub idle_for: Option<Duration>,
}

/// A model on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    pub node: NodeName,
    pub model: ModelName,
}

/// What to change so that wish and reality agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementPlan {
    /// New assignments.
    pub assign: BTreeSet<Assignment>,
    /// Assignments that end.
    pub evict: BTreeSet<Assignment>,
    /// Models with fewer replicas than there should be, with how many they miss.
    pub missing: BTreeMap<ModelName, u32>,
}

impl PlacementPlan {
    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.assign.is_empty() && self.evict.is_empty()
    }
}
