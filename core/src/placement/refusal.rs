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
    Away,
    Draining,
    Unsteady,
    /// It lacks a label that the selector wants.
    Selector {
        key: String,
        wanted: String,
    },
    /// A taint that the model does not tolerate.
    Taint(Taint),
    /// It is in none of the zones that the model may be in.
    Zone,
    /// It does not compute with what the model needs.
    Accelerator(Accelerator),
    /// The node tried and failed.
    Failed(String),
    /// Too little memory is left.
    Memory {
        needed: Bytes,
        free: Bytes,
    },
}

impl UnschedulableReason {
    /// The same for all nodes that are refused for the like of it.
    fn summary(&self) -> String {
        match self {
            Self::Cordoned => "cordoned".into(),
            Self::Away => "away".into(),
            Self::Draining => "draining".into(),
            Self::Unsteady => "unsteady".into(),
            Self::Selector { key, wanted } => format!("without the label {key}={wanted}"),
            Self::Taint(taint) => format!("with the taint {taint}"),
            Self::Zone => "outside its zones".into(),
            Self::Accelerator(accelerator) => format!("without {accelerator}"),
            Self::Failed(_) => "failed to run it".into(),
            Self::Memory { .. } => "with too little memory".into(),
        }
    }
}

impl fmt::Display for UnschedulableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Away => f.write_str("is away"),
            Self::Draining => f.write_str("is being drained"),
            Self::Unsteady => {
                f.write_str("came and went too often lately: it takes new models once it is steady")
            }
            Self::Selector { key, wanted } => {
                write!(
                    f,
                    "does not have the label {key}={wanted} that the nodeSelector wants"
                )
            }
            Self::Taint(taint) => {
                write!(f, "has the taint {taint} that the model does not tolerate")
            }
            Self::Zone => f.write_str("is in none of the model's zones"),
            Self::Accelerator(accelerator) => write!(f, "has no {accelerator}"),
            Self::Failed(reason) => write!(f, "failed there: {reason}"),
            Self::Memory { needed, free } => write!(f, "needs {needed} of memory, {free} free"),
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
    pub refusals: BTreeMap<NodeName, UnschedulableReason>,
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
        let free = self.nodes - self.refusals.len();
        write!(f, "{free}/{} nodes can have one", self.nodes)?;
        if free > 0 {
            f.write_str(" and do")?;
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for refusal in self.refusals.values() {
            *counts.entry(refusal.summary()).or_default() += 1;
        }
        for (summary, count) in counts {
            write!(f, ", {count} {summary}")?;
        }
        Ok(())
    }
}
