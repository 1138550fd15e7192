//! What the store keeps, as JSON values under the keys of [`keys`](crate::store::keys).

use std::collections::BTreeMap;

use flotilla_core::ModelRevision;
use flotilla_core::artifact::Manifest;
use flotilla_core::energy::PowerRange;
use flotilla_core::quality::{Proportion, Scoring};
use flotilla_core::spec::{Accelerator, Resource, Taint, ValidationErrors};
use flotilla_core::{Bytes, Joules, NodeName, ZoneName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Tells a returning node from another one of the same name.
    pub identity: String,
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// Memory for models.
    pub memory: Bytes,
    /// What its engines compute with.
    #[serde(default)]
    pub accelerators: Vec<Accelerator>,
    pub cores: u32,
    pub cpu: String,
    pub platform: String,
    /// Of the agent's binary.
    pub version: String,
    /// What it draws. `None`: its agent is too old to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerRange>,
}

impl NodeRecord {
    /// What it draws, as far as is known.
    #[must_use]
    pub fn power(&self) -> PowerRange {
        self.power.unwrap_or_else(|| PowerRange::guess(self.cores))
    }
}

/// How well a model was measured to do a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QualityRecord {
    /// The revision of the model that was measured: of another one it says nothing.
    pub revision: ModelRevision,
    /// How its weights were quantised when it was loaded, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    pub scoring: Scoring,
    #[serde(flatten)]
    pub measured: Proportion,
    /// Median time to the end of an answer, in milliseconds.
    pub median_ms: f64,
    /// Mean energy of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// When it was measured, in seconds since 1970.
    pub at: u64,
}

/// What is wished for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesiredRecord {
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// The resource as it was applied.
    pub resource: serde_json::Value,
}

/// The last revision of a model that every replica served.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StableRecord {
    pub resource: serde_json::Value,
    /// Its files as they were then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Manifest>,
}

/// A revision of a model that did not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRevisionRecord {
    pub revision: ModelRevision,
    pub node: NodeName,
    pub problem: String,
}

/// An assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// What the node is to serve.
    pub revision: ModelRevision,
}

/// What people want of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeOperationRecord {
    /// No new models.
    pub cordoned: bool,
    /// Its models go elsewhere.
    pub draining: bool,
    /// Its models leave, whether or not they find another place.
    pub force: bool,
}

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// Where agents reach it, `host:port`.
    pub link: String,
    /// Where clients and other controllers reach it, `host:port`.
    pub http: String,
    /// Of its binary.
    pub version: String,
}

/// How fetching a model's files goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRecord {
    /// Bytes so far.
    pub done: u64,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// Requests that wait on a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRecord {
    pub requests: u32,
}

/// A record's value in the store.
pub(crate) fn encode(record: &impl Serialize) -> Vec<u8> {
    // Records are made of texts and numbers: serializing them cannot fail.
    serde_json::to_vec(record).unwrap_or_default()
}

/// The record in a value of the store.
pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|e| e.to_string())
}

/// What a stored resource says, of the kind that belongs there.
pub(super) fn resource<T>(resource: serde_json::Value) -> Result<T, String>
where
    T: TryFrom<Resource, Error = ValidationErrors>,
{
    let resource = Resource::from_json(resource).and_then(T::try_from);
    resource.map_err(|e| e.to_string())
}
