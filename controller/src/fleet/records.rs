//! The records in the store: JSON values under the keys of [`keys`](crate::store::keys).

use flotilla_core::ModelRevision;
use flotilla_core::artifact::Manifest;
use flotilla_core::node::NodeSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The static description of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// A random id that the agent keeps in its data directory. It distinguishes a node that
    /// returns from another node of the same name.
    pub identity: String,
    /// The labels that a model's node selector matches.
    pub labels: BTreeMap<String, String>,
    /// The hardware and the scheduling attributes of the node.
    #[serde(flatten)]
    pub spec: NodeSpec,
}

#[cfg(test)]
impl NodeRecord {
    /// A node with 1 GiB of memory and two cores.
    pub(crate) fn example() -> Self {
        Self {
            identity: "i".into(),
            labels: BTreeMap::new(),
            spec: NodeSpec {
                memory: flotilla_core::Bytes(1 << 30),
                gpus: Vec::new(),
                disk: None,
                accelerators: Vec::new(),
                taints: Vec::new(),
                zones: std::collections::BTreeSet::new(),
                cores: 2,
                cpu: "test".into(),
                platform: "test".into(),
                version: "0".into(),
                power: None,
            },
        }
    }
}

/// The desired state of a model, a task or the router.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesiredRecord {
    /// When the resource was first applied, in seconds since 1970.
    pub created: u64,
    /// The resource as it was applied last.
    pub resource: serde_json::Value,
}

/// The last revision of a model that all replicas served.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StableRecord {
    /// The model resource of that revision.
    pub resource: serde_json::Value,
    /// The manifest of that revision. `None`: the files are on the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

/// A revision of a model that failed to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRevisionRecord {
    /// The revision.
    pub revision: ModelRevision,
    /// Why, such as `it did not load on n1: …` or `7 of its 9 requests failed`.
    pub reason: String,
}

/// The assignment of a model to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// The revision that the node is to serve.
    pub revision: ModelRevision,
}

/// The operation on a node, set by an operator: cordon or drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeOperationRecord {
    /// Whether the node gets no new models.
    pub cordoned: bool,
    /// Whether the node's models move to other nodes.
    pub draining: bool,
    /// Whether a drain removes models even if they have no other node to run on.
    pub force: bool,
}

/// A running controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// The address for agents, `host:port`.
    pub link: String,
    /// The address for clients and other controllers, `host:port`.
    pub http: String,
    /// The version of the controller.
    pub version: String,
}

/// The link of a node to a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkRecord {
    /// A random id of the agent's process. Empty: not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// The address that the agent dialled from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
}

impl LinkRecord {
    /// Whether two links are of different processes, as far as both say which they are of.
    #[must_use]
    pub fn is_other_process(&self, other: &Self) -> bool {
        !self.process.is_empty() && !other.process.is_empty() && self.process != other.process
    }
}

/// The progress of fetching a model's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchRecord {
    /// The number of bytes fetched so far.
    pub fetched_bytes: u64,
    /// The error of the last attempt. Empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What an operator can do about the error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// The number of requests for a model in a controller's pending queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRecord {
    /// The number of requests.
    pub requests: u32,
}

/// Encodes a record as JSON.
pub(crate) fn encode(record: &impl Serialize) -> Vec<u8> {
    // Records consist of texts and numbers, so that serializing them cannot fail.
    serde_json::to_vec(record).unwrap_or_default()
}
