//! The words of the placement problem.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{Bytes, ModelName, NodeName};

/// A node that may be given models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCapacity {
    pub name: NodeName,
    /// Memory for models.
    pub memory: Bytes,
}

/// A model that wants a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDemand {
    pub name: ModelName,
    pub replicas: u32,
    /// Memory of one replica; `None` is unknown and counts as nothing until a node has
    /// measured it.
    pub memory: Option<Bytes>,
    /// Nodes that cannot run it, with what they said when they tried.
    pub refused_by: BTreeMap<NodeName, String>,
}

/// A model on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    pub node: NodeName,
    pub model: ModelName,
}

/// What to change so that wish and reality agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// New assignments.
    pub assign: BTreeSet<Assignment>,
    /// Assignments that end.
    pub evict: BTreeSet<Assignment>,
    /// Models with fewer replicas placed than wished.
    pub unplaced: BTreeMap<ModelName, Unplaced>,
}

/// Why a model has too few replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// Replicas without a place.
    pub missing: u32,
    /// Why each node without a replica did not get one.
    pub refusals: BTreeMap<NodeName, Refusal>,
}

/// Why a node cannot take a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Too little memory is left.
    Memory { needed: Bytes, free: Bytes },
    /// The node tried and failed.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { needed, free } => {
                write!(f, "needs {needed} of memory, {free} free")
            }
            Self::Failed(reason) => write!(f, "failed there: {reason}"),
        }
    }
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas = if self.missing == 1 {
            "replica has"
        } else {
            "replicas have"
        };
        write!(f, "{} {replicas} no place", self.missing)?;
        if self.refusals.is_empty() {
            return f.write_str(": every ready node already has one, or no node is ready");
        }
        for (i, (node, refusal)) in self.refusals.iter().enumerate() {
            write!(f, "{} {node} {refusal}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}
