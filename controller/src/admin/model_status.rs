//! What the API says of the state of a model.

use std::collections::BTreeMap;

use flotilla_core::Bytes;
use flotilla_core::generate::DefaultValue;
use serde::{Deserialize, Serialize};

use super::nodes::CountersJson;

/// State of a model in the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// One of:
    ///
    /// - `Ready`: all replicas answer, with the revision that is served.
    /// - `Updating`: all replicas answer, and a rollout is under way.
    /// - `Partial`: some replicas answer.
    /// - `Asleep`: no replica exists, as `replicas.min` is 0 and there are no requests.
    /// - `Fetching`: a controller fetches the model's files.
    /// - `Pending`: no replica answers yet.
    /// - `Failed`: no replica answers, and fetching or loading the model has failed.
    pub phase: String,
    /// Replicas that answer.
    pub ready: u32,
    /// When the model was first applied, in seconds since 1970.
    pub created: u64,
    /// Replicas that are assigned to nodes, ready or not.
    #[serde(default)]
    pub assigned: u32,
    /// Memory of one replica. `None` until a node has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// The desired revision.
    #[serde(default)]
    pub revision: String,
    /// Why the stable revision is served instead of the desired one. `None` when the desired one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_reason: Option<String>,
    /// Progress or failure of fetching the model's files. `None` once the controllers have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<String>,
    /// The adapters that name the model as their base: they run in its process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
    /// About how many requests wait for a first replica: each controller's number is rounded down to a
    /// power of two.
    #[serde(default)]
    pub waiting: u32,
    /// Fields of the stored model that this controller does not know, because a later version wrote them:
    /// it ignores them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_fields: Vec<String>,
    /// The model's context length in tokens. `None` if no replica is ready or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// The values that apply where a request names none, of the first ready replica. Empty if none is
    /// ready, or the model does not generate text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<DefaultValue>,
    /// The nodes on which `defaults` or `contextLength` is different, because their files are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defaults_differ_on: Vec<String>,
    /// The assigned replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Why replicas are missing, in one line. `None` when no replica is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced_reason: Option<String>,
    /// What else a person should know: that replicas stay on lost nodes for now, or that a rollout waits
    /// for nodes that have not reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The last failure of a node to load the model, in one line. `None` if none counts now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Nodes that cannot take a missing replica, each with the reason. Empty in lists of models.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unschedulable_nodes: BTreeMap<String, String>,
}

/// A replica that is assigned to a node, ready or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Name of the node.
    pub node: String,
    /// `Absent`, `Fetching`, `Loading`, `Ready`, `Draining` or `Failed`; `Unreachable` while this
    /// controller has no link to the node.
    pub phase: String,
    /// The revision that the node serves or loads. Empty before the node has started.
    #[serde(default)]
    pub revision: String,
    /// Why the model, or the revision that replaces it, does not load. Empty when it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What to do about `error`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// What the last requests said if all of them failed since the replica's last answer, on this
    /// controller. `None`: the last one was answered, or there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_requests: Option<String>,
    /// What is wrong with the model's files although it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Step of loading and its progress, such as `weights 40 %`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Requests and tokens since the model was loaded.
    pub counters: CountersJson,
}
