//! The reasons for which nodes get no replica of a model.

use std::collections::BTreeMap;
use std::fmt;

use super::bases::UnusableBase;
use crate::spec::{Accelerator, Taint};
use crate::{Bytes, ModelName, NodeName};

/// The reason for which a node cannot have a replica of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnschedulableReason {
    /// An operator cordoned the node.
    Cordoned,
    /// The node is not connected.
    Disconnected,
    /// The node has been disconnected for longer than its grace period.
    Lost,
    /// The node is being drained.
    Draining,
    /// The node disconnected too often lately.
    Flapping,
    /// The node lacks a label of the model's node selector.
    NodeSelector {
        /// Key of the label.
        key: String,
        /// Value that the label must have.
        value: String,
    },
    /// The node has this taint, which the model does not tolerate.
    UntoleratedTaint(Taint),
    /// The node is in none of the model's privacy zones.
    Zone,
    /// The node does not have the accelerator that the model needs.
    MissingAccelerator(Accelerator),
    /// The node failed to load the model, with this error.
    LoadFailed(String),
    /// The model is an adapter of a model that cannot be its base, on this node and on any other.
    UnusableBase(UnusableBase),
    /// The model is an adapter, and the node has no replica of its base, which is this model.
    MissingBase(ModelName),
    /// The model is an adapter, and the replica of its base, which is this model, leaves the node.
    LeavingBase(ModelName),
    /// The node has too little free memory.
    InsufficientMemory {
        /// Memory that a replica needs.
        needed: Bytes,
        /// Memory that is free on the node.
        free: Bytes,
    },
    /// The node's accelerator has too little free memory.
    InsufficientDeviceMemory {
        /// Memory that a replica needs.
        needed: Bytes,
        /// Memory that is free on the accelerator.
        free: Bytes,
    },
    /// The node has too little disk space for the model's files.
    InsufficientDisk {
        /// Space that the files need.
        needed: Bytes,
        /// Space that the files of other models leave.
        free: Bytes,
    },
}

impl UnschedulableReason {
    /// Returns a short text that is the same for all nodes with this kind of reason.
    fn summary(&self) -> String {
        match self {
            Self::Cordoned => "cordoned".into(),
            Self::Disconnected => "disconnected".into(),
            Self::Lost => "lost".into(),
            Self::Draining => "draining".into(),
            Self::Flapping => "flapping".into(),
            Self::NodeSelector { key, value } => format!("without the label {key}={value}"),
            Self::UntoleratedTaint(taint) => format!("with the taint {taint}"),
            Self::Zone => "outside its privacy zones".into(),
            Self::MissingAccelerator(accelerator) => format!("without {accelerator}"),
            Self::LoadFailed(_) => "failed to load it".into(),
            Self::UnusableBase(problem) => format!("unsuitable: {problem}"),
            Self::MissingBase(base) => format!("without its base {base}"),
            Self::LeavingBase(base) => format!("that its base {base} leaves"),
            Self::InsufficientMemory { .. } => "with too little memory".into(),
            Self::InsufficientDeviceMemory { .. } => "with too little device memory".into(),
            Self::InsufficientDisk { .. } => "with too little disk space".into(),
        }
    }
}

impl fmt::Display for UnschedulableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Disconnected => f.write_str("is not connected"),
            Self::Lost => {
                f.write_str("is lost: it has not been connected for longer than its grace")
            }
            Self::Draining => f.write_str("is being drained"),
            Self::Flapping => f.write_str(
                "disconnected too often lately: it gets new models once it has stayed connected",
            ),
            Self::NodeSelector { key, value } => {
                write!(
                    f,
                    "does not have the label {key}={value} of the nodeSelector"
                )
            }
            Self::UntoleratedTaint(taint) => {
                write!(f, "has the taint {taint} that the model does not tolerate")
            }
            Self::Zone => f.write_str("is in none of the model's privacy zones"),
            Self::MissingAccelerator(accelerator) => write!(f, "has no {accelerator}"),
            Self::LoadFailed(reason) => write!(f, "failed to load it: {reason}"),
            Self::UnusableBase(problem) => write!(f, "cannot have it: {problem}"),
            Self::MissingBase(base) => write!(f, "does not run its base {base}"),
            Self::LeavingBase(base) => write!(f, "is about to lose its base {base}"),
            Self::InsufficientMemory { needed, free } => {
                write!(f, "needs {needed} of memory, {free} free")
            }
            Self::InsufficientDeviceMemory { needed, free } => {
                write!(f, "needs {needed} of device memory, {free} free")
            }
            Self::InsufficientDisk { needed, free } => {
                write!(f, "needs {needed} of disk space for its files, {free} free")
            }
        }
    }
}

/// The replicas of a model that could not be placed, with a reason per node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnplacedReplicas {
    /// Number of replicas that could not be placed.
    pub missing: u32,
    /// Number of these that stay on draining or lost nodes meanwhile.
    pub leaving: u32,
    /// Number of nodes, including those with a replica.
    pub nodes: usize,
    /// The reason of each node without a replica.
    pub reasons: BTreeMap<NodeName, UnschedulableReason>,
}

impl fmt::Display for UnplacedReplicas {
    /// Writes one line that counts nodes per reason, as Kubernetes does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas = if self.missing == 1 {
            "replica"
        } else {
            "replicas"
        };
        write!(f, "{} {replicas} ", self.missing)?;
        let all_stay = self.leaving == self.missing;
        match self.leaving {
            0 => f.write_str("cannot be placed: ")?,
            1 if all_stay => {
                f.write_str("has no other place and stays on a node that it should leave: ")?;
            }
            _ if all_stay => {
                f.write_str("have no other place and stay on nodes that they should leave: ")?;
            }
            1 => {
                f.write_str("cannot be placed (1 of them stays on a node that it should leave): ")?
            }
            leaving => write!(
                f,
                "cannot be placed ({leaving} of them stay on nodes that they should leave): "
            )?,
        }
        if self.nodes == 0 {
            return f.write_str("the fleet has no nodes");
        }
        let mut reasons = self.reasons.values();
        if let Some(UnschedulableReason::UnusableBase(problem)) = reasons.next() {
            return problem.fmt(f);
        }
        let suitable = self.nodes - self.reasons.len();
        write!(f, "{suitable}/{} nodes are suitable", self.nodes)?;
        if suitable > 0 {
            f.write_str(" and have one")?;
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for reason in self.reasons.values() {
            *counts.entry(reason.summary()).or_default() += 1;
        }
        for (summary, count) in counts {
            write!(f, ", {count} {summary}")?;
        }
        // More are missing than could be placed if all other nodes were suitable.
        if self.missing as usize > self.reasons.len() {
            f.write_str("; a node holds at most one replica of a model")?;
        }
        Ok(())
    }
}
