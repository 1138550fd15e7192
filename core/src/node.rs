//! The static description of a node.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::energy::PowerRange;
use crate::spec::{Accelerator, Taint};
use crate::{Bytes, ZoneName};

/// The hardware and the scheduling attributes of a node. Its agent reports them when it joins, the
/// store keeps them, and the API returns them; the placement decides by them and by the labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The memory available to models.
    pub memory: Bytes,
    /// The disk space for the files of models. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// The GPUs that have memory of their own. A model is on one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<NodeGpu>,
    /// The devices that the node's engines compute on.
    #[serde(default)]
    pub accelerators: Vec<Accelerator>,
    /// The taints that keep models without a matching toleration off the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// The privacy zones of the node. Empty: it is in no zone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub zones: BTreeSet<ZoneName>,
    /// The number of logical CPU cores.
    pub cores: u32,
    /// The model name of the CPU.
    pub cpu: String,
    /// The architecture and operating system, for example `x86_64-linux`.
    pub platform: String,
    /// The version of the agent.
    pub version: String,
    /// The power draw. `None`: the agent is too old to report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerRange>,
}

/// A GPU with memory of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGpu {
    /// The unique id that its driver gives it.
    pub uuid: String,
    /// The name of its kind.
    pub name: String,
    /// The memory available to models.
    pub memory: Bytes,
}

impl NodeSpec {
    /// Returns the power draw, estimated from the number of cores if the agent does not report it.
    #[must_use]
    pub fn power_or_estimate(&self) -> PowerRange {
        self.power
            .unwrap_or_else(|| PowerRange::estimate(self.cores))
    }
}

/// The names of zones as people read them, in order: `clinic, lab`. Empty without zones.
#[must_use]
pub fn join_zones(zones: &BTreeSet<ZoneName>) -> String {
    let names: Vec<&str> = zones.iter().map(ZoneName::as_str).collect();
    names.join(", ")
}
