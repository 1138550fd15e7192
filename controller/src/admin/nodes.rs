//! Nodes as the API shows them.

use std::collections::BTreeMap;

use flotilla_core::energy::{EnergySources, PowerRange};
use flotilla_core::spec::{API_VERSION, Accelerator, Taint};
use flotilla_core::{Bytes, ModelRevision, ZoneName};
use flotilla_proto::v1;
use flotilla_proto::v1::{ModelCounters, ModelPhase, ModelStatus};
use serde::{Deserialize, Serialize};

use crate::fleet::{NodeOperationRecord, NodeView};

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeResource {
    pub api_version: String,
    pub kind: String,
    pub metadata: NodeMetadata,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMetadata {
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Bytes for models.
    pub memory: Bytes,
    /// What its engines compute with.
    #[serde(default)]
    pub accelerators: Vec<Accelerator>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    pub cores: u32,
    pub cpu: String,
    pub platform: String,
    /// Of the agent.
    pub version: String,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `Joining`, `Ready`, `Suspect` or `Lost`.
    pub phase: String,
    /// What people want of it.
    #[serde(default)]
    pub order: NodeOperationRecord,
    /// Whether it has come and gone too often lately to be given new models.
    #[serde(default)]
    pub unsteady: bool,
    /// What it is to run.
    #[serde(default)]
    pub assigned: Vec<String>,
    /// What it reported last.
    pub models: Vec<ModelOnNode>,
    /// What it draws, once it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<NodeEnergy>,
}

/// What a node draws, and how it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnergy {
    /// Now, idle, and with all it computes with at work.
    pub watts: f32,
    pub idle_watts: f32,
    pub max_watts: f32,
    /// Since its agent started: all, and what went to requests.
    pub joules: f64,
    pub attributed_joules: f64,
    pub source: EnergySources,
    /// Whether no part is estimated.
    pub measured: bool,
    /// The smallest step that can be told.
    pub resolution_joules: f64,
    /// Why nothing better is measured, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery: Option<BatteryJson>,
    /// What slows it down by heat.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub throttled: String,
}

/// A node's battery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BatteryJson {
    /// How full, 0 to 1.
    pub charge: f32,
    /// Whether the node lives off it.
    pub discharging: bool,
}

impl NodeEnergy {
    fn new(told: &v1::NodeEnergy, power: PowerRange) -> Self {
        let source = EnergySources::from_bits(told.sources);
        Self {
            watts: told.watts,
            idle_watts: told.idle_watts,
            max_watts: power.max.0,
            joules: told.joules,
            attributed_joules: told.attributed_joules,
            source,
            measured: source.is_measured(),
            resolution_joules: told.resolution_joules,
            hint: told.hint.clone(),
            battery: told.battery.map(|battery| BatteryJson {
                charge: battery.charge,
                discharging: battery.discharging,
            }),
            throttled: told.throttled.clone(),
        }
    }
}

/// A model on a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelOnNode {
    pub name: String,
    pub phase: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// What is being done while loading, with how far: `weights 40 %`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// What is to take its place, while it still serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Box<ModelOnNode>>,
    /// The revision served or worked on.
    #[serde(default)]
    pub revision: String,
    /// Bytes it takes, where known.
    pub memory: Bytes,
    pub counters: CountersJson,
}

/// What a model on a node did since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountersJson {
    pub active: u32,
    pub queued: u32,
    pub requests: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub refused: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    /// Microseconds that requests waited on the node, all together.
    #[serde(default)]
    pub wait_us: u64,
    /// Microseconds that requests were computed, all together.
    #[serde(default)]
    pub busy_us: u64,
    /// Energy of its requests, in millijoules.
    #[serde(default)]
    pub millijoules: u64,
}

impl NodeResource {
    /// The node of a view.
    #[must_use]
    pub fn new(node: &NodeView) -> Self {
        let record = &node.record;
        let report = node.report.load();
        Self {
            api_version: API_VERSION.into(),
            kind: "Node".into(),
            metadata: NodeMetadata {
                name: node.name.to_string(),
                labels: record.labels.clone(),
            },
            spec: NodeSpec {
                memory: record.memory,
                accelerators: record.accelerators.clone(),
                taints: record.taints.clone(),
                zone: record.zone.clone(),
                cores: record.cores,
                cpu: record.cpu.clone(),
                platform: record.platform.clone(),
                version: record.version.clone(),
            },
            status: NodeStatus {
                phase: node.phase.as_str().into(),
                order: node.order,
                unsteady: !node.steady,
                assigned: node.assigned.iter().map(ToString::to_string).collect(),
                models: report.models.iter().map(Into::into).collect(),
                energy: report
                    .energy
                    .as_ref()
                    .map(|told| NodeEnergy::new(told, record.power())),
            },
        }
    }
}

impl From<&ModelStatus> for ModelOnNode {
    fn from(status: &ModelStatus) -> Self {
        let progress = match (status.step.as_str(), status.progress) {
            ("", _) => String::new(),
            (step, 0.0) => step.to_owned(),
            (step, part) => format!("{step} {:.0} %", part * 100.0),
        };
        Self {
            name: status.name.clone(),
            phase: phase(status.phase()).into(),
            problem: status.problem.clone(),
            remedy: status.remedy.clone(),
            progress,
            next: status.next.as_deref().map(|next| Box::new(next.into())),
            revision: ModelRevision(status.revision).to_string(),
            memory: Bytes(status.memory),
            counters: status.counters.unwrap_or_default().into(),
        }
    }
}

/// A phase's name for people.
pub(super) fn phase(phase: ModelPhase) -> &'static str {
    match phase {
        ModelPhase::Absent => "Absent",
        ModelPhase::Fetching => "Fetching",
        ModelPhase::Loading => "Loading",
        ModelPhase::Ready => "Ready",
        ModelPhase::Draining => "Draining",
        ModelPhase::Failed => "Failed",
    }
}

impl From<ModelCounters> for CountersJson {
    fn from(counters: ModelCounters) -> Self {
        Self {
            active: counters.active,
            queued: counters.queued,
            requests: counters.requests,
            cancelled: counters.cancelled,
            failed: counters.failed,
            refused: counters.refused,
            prompt_tokens: counters.prompt_tokens,
            output_tokens: counters.output_tokens,
            wait_us: counters.wait_us,
            busy_us: counters.busy_us,
            millijoules: counters.millijoules,
        }
    }
}
