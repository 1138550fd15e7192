//! Why a node does not get a replica.

use std::collections::BTreeMap;
use std::fmt;

use crate::spec::{Accelerator, Taint};
use crate::{Bytes, NodeName};

/// Why a node cannot take a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnschedulableReason {
    Cordoned,
    /// It is not there at the moment.
    Disconnected,
    Draining,
    Flapping,
    /// It lacks a label that the selector wants.
    NodeSelector {
        key: String,
        value: String,
    },
    /// A taint that the model does not tolerate.
    UntoleratedTaint(Taint),
    /// It is in none of the zones that the model may be in.
    Zone,
    /// It does not compute with what the model needs.
    MissingAccelerator(Accelerator),
    /// The node tried and failed.
    LoadFailed(String),
    /// Too little memory is left.
    InsufficientMemory {
        needed: Bytes,
        free: Bytes,
    },
}

impl UnschedulableReason {
    /// The same for all nodes that are refused for the like of it.
    fn summary(&self) -> String {
        match self {
            Self::Cordoned => "cordoned".into(),
            Self::Disconnected => "away".into(),
            Self::Draining => "draining".into(),
            Self::Flapping => "unsteady".into(),
            Self::NodeSelector { key, value } => format!("without the label {key}={value}"),
            Self::UntoleratedTaint(taint) => format!("with the taint {taint}"),
            Self::Zone => "outside its zones".into(),
            Self::MissingAccelerator(accelerator) => format!("without {accelerator}"),
            Self::LoadFailed(_) => "failed to run it".into(),
            Self::InsufficientMemory { .. } => "with too little memory".into(),
        }
    }
}

impl fmt::Display for UnschedulableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Disconnected => f.write_str("is away"),
            Self::Draining => f.write_str("is being drained"),
            Self::Flapping => {
                f.write_str("came and went too often lately: it takes new models once it is steady")
            }
            Self::NodeSelector { key, value } => {
                write!(
                    f,
                    "does not have the label {key}={value} that the nodeSelector wants"
                )
            }
            Self::UntoleratedTaint(taint) => {
                write!(f, "has the taint {taint} that the model does not tolerate")
            }
            Self::Zone => f.write_str("is in none of the model's zones"),
            Self::MissingAccelerator(accelerator) => write!(f, "has no {accelerator}"),
            Self::LoadFailed(reason) => write!(f, "failed there: {reason}"),
            Self::InsufficientMemory { needed, free } => {
                write!(f, "needs {needed} of memory, {free} free")
            }
        }
    }
}

/// Why a model has too few replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnplacedReplicas {
    /// Replicas without a place.
    pub missing: u32,
    /// Nodes that are there, those with a replica included.
    pub nodes: usize,
    /// Why each node without a replica did not get one.
    pub reasons: BTreeMap<NodeName, UnschedulableReason>,
}

impl fmt::Display for UnplacedReplicas {
    /// In one line, however many nodes there are, as Kubernetes does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas = if self.missing == 1 {
            "replica has"
        } else {
            "replicas have"
        };
        write!(f, "{} {replicas} no place: ", self.missing)?;
        if self.nodes == 0 {
            return f.write_str("no node is there");
        }
        let free = self.nodes - self.reasons.len();
        write!(f, "{free}/{} nodes can have one", self.nodes)?;
        if free > 0 {
            f.write_str(" and do")?;
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for refusal in self.reasons.values() {
            *counts.entry(refusal.summary()).or_default() += 1;
        }
        for (summary, count) in counts {
            write!(f, ", {count} {summary}")?;
        }
        Ok(())
    }
}
