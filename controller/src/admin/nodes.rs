//! Nodes in the admin API.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use flotilla_core::energy::{EnergySources, PowerRange};
use flotilla_core::node::NodeSpec;
use flotilla_core::spec::API_VERSION;
use flotilla_core::{Bytes, ModelRevision, NodeName};
use flotilla_gateway::{ApiError, ApiPath, ApiQuery, read_json};
use flotilla_proto::v1;
use flotilla_proto::v1::{ModelCounters, ModelPhase, ModelStatus};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{not_found, not_in_view};
use super::resources::{MAX_RESOURCE, ResourceList};
use super::state::AdminState;
use super::watch::{self, WatchQuery};
use crate::fleet::{FleetView, NodeEnrolment, NodeOperationRecord, NodePhase, NodeView};

/// The enrolment of a node that was revoked.
pub const REVOKED: &str = "Revoked";

/// A node in the form of a resource, with its status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeResource {
    /// The same as in YAML.
    pub api_version: String,
    /// `Node`.
    pub kind: String,
    /// Name and labels.
    pub metadata: NodeMetadata,
    /// What the agent reported when it joined.
    pub spec: NodeSpec,
    /// What the agent reported last, and the controller's view of the node.
    pub status: NodeStatus,
}

/// Name and labels of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMetadata {
    /// Name, unique in the fleet.
    pub name: String,
    /// Labels that the agent was started with, which models select nodes by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// State of a node in the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `Joining`, `Ready`, `Suspect` or `Lost`.
    pub phase: String,
    /// Whether the node is cordoned or drained.
    #[serde(default)]
    pub operation: NodeOperationRecord,
    /// Whether the node has lost its link too often lately to get new models.
    #[serde(default)]
    pub flapping: bool,
    /// `Enrolled` or `Revoked`. Missing: the node has not enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<String>,
    /// Whether the node's agent stops: it finishes its requests and accepts no others.
    #[serde(default)]
    pub stopping: bool,
    /// Names of the models that are assigned to the node.
    #[serde(default)]
    pub assigned: Vec<String>,
    /// Models in the node's last report, which says nothing of their load while the node is unreachable.
    pub models: Vec<ModelOnNode>,
    /// Disk space that files of models take. `None` until the node has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUsageJson>,
    /// Power and energy of the node. `None` until the node has reported it, and while it is unreachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<NodeEnergy>,
}

/// Disk space that files of models take on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsageJson {
    /// All files of models.
    pub used: Bytes,
    /// The part of `used` that no model of the node needs. It is freed when the space is needed.
    pub unneeded: Bytes,
    /// The space that there is for files of models now. Missing: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Bytes>,
}

/// Power and energy of a node, with its battery and temperature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnergy {
    /// Power now, in watts.
    pub watts: f32,
    /// Power of the idle node, in watts.
    pub idle_watts: f32,
    /// Power of the node under full load, in watts.
    pub max_watts: f32,
    /// Energy since the agent started, in joules.
    pub joules: f64,
    /// The part of `joules` that is attributed to requests.
    pub attributed_joules: f64,
    /// Where the numbers come from, such as `rapl+nvml` or `estimate`.
    pub source: EnergySources,
    /// Whether all of it is measured. `false` when a part is estimated.
    pub measured: bool,
    /// The smallest step of the meters, in joules.
    pub resolution_joules: f64,
    /// Why a part of the energy is not measured, and what to do about it. Empty when all of it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The battery. `None` when the node has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery: Option<BatteryJson>,
    /// What slows the node down because of heat. Empty when nothing does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub throttle_reason: String,
}

/// Battery of a node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BatteryJson {
    /// Charge, 0 to 1.
    pub charge: f32,
    /// Whether the node runs on the battery.
    pub discharging: bool,
}

impl NodeEnergy {
    fn new(reported: &v1::NodeEnergy, power: PowerRange) -> Self {
        let source = EnergySources::from_bits(reported.sources);
        Self {
            watts: reported.watts,
            idle_watts: reported.idle_watts,
            max_watts: power.max.0,
            joules: reported.joules,
            attributed_joules: reported.attributed_joules,
            source,
            measured: source.is_measured(),
            resolution_joules: reported.resolution_joules,
            hint: reported.hint.clone(),
            battery: reported.battery.map(|battery| BatteryJson {
                charge: battery.charge,
                discharging: battery.discharging,
            }),
            throttle_reason: reported.throttle_reason.clone(),
        }
    }
}

/// A model on a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelOnNode {
    /// Name of the model.
    pub name: String,
    /// `Absent`, `Fetching`, `Loading`, `Ready`, `Draining` or `Failed`; `Unreachable` while this
    /// controller has no link to the node.
    pub phase: String,
    /// Why the model does not load. Empty when it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What to do about `error`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// What is wrong with the model's files although it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Step of loading and its progress, such as `weights 40 %`. Empty when nothing is loading.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// The revision that is being loaded to replace this one, which still serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Box<ModelOnNode>>,
    /// The revision that is served or loaded.
    #[serde(default)]
    pub revision: String,
    /// Memory of the model. Zero while it is not known.
    pub memory: Bytes,
    /// Whether `memory` is memory of one of the node's GPUs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_device: bool,
    /// The number of requests that the model computes at the same time. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// The GPU, by its place in the node's `spec.gpus`. `None`: it is on none, or none was chosen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
    /// Requests and tokens since the model was loaded.
    pub counters: CountersJson,
}

/// Counters of a model on a node. All but `active` and `queued` count since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountersJson {
    /// Requests that are being computed.
    pub active: u32,
    /// Requests that wait on the node.
    pub queued: u32,
    /// Requests that were accepted.
    pub requests: u64,
    /// Requests that were cancelled by the client or the controller.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were not accepted, as the queue was full or they came too late.
    pub refused: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub output_tokens: u64,
    /// Sum of the requests' waiting times on the node, in microseconds.
    #[serde(default)]
    pub wait_us: u64,
    /// Sum of the requests' computing times, in microseconds.
    #[serde(default)]
    pub busy_us: u64,
    /// Energy of the requests, in millijoules.
    #[serde(default)]
    pub millijoules: u64,
}

/// `GET /api/v1/nodes`.
pub(super) async fn list(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    watch::reply(state, &query, |view| {
        ResourceList::new(view, nodes(view).into_iter()).with_notes(view.node_notes())
    })
    .await
}

/// `GET /api/v1/nodes/{name}`.
pub(super) async fn get(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<NodeResource>, ApiError> {
    let view = state.fleet.view();
    let node = view.nodes.get(name.as_str());
    node.map(|node| Json(NodeResource::new(node)))
        .ok_or_else(|| not_in_view(&view, "node", &name))
}

/// `DELETE /api/v1/nodes/{name}`. Replies 409 while the node's agent is linked.
pub(super) async fn delete(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let name = NodeName::new(&name).map_err(|_| not_found("node", &name))?;
    let view = state.fleet.view();
    let node = view
        .nodes
        .get(&name)
        .ok_or_else(|| not_in_view(&view, "node", name.as_str()))?;
    if node.phase == NodePhase::Ready {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("node_is_linked"),
            format!("The node '{name}' is linked: stop its agent first."),
        ));
    }
    let written = state.desired.delete_node(&name).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The query of a node operation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OperationQuery {
    /// Whether to accept a node that has not joined yet, as a restored backup requires. Default: `false`.
    #[serde(default)]
    allow_unknown: bool,
}

/// `PUT /api/v1/nodes/{name}/operation`: cordons, drains or uncordons a node.
pub(super) async fn put_operation(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    ApiQuery(query): ApiQuery<OperationQuery>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let operation: NodeOperationRecord = read_json(body, MAX_RESOURCE).await?;
    let name = NodeName::new(&name).map_err(|_| not_found("node", &name))?;
    let view = state.fleet.view();
    if !query.allow_unknown && !view.nodes.contains_key(&name) {
        return Err(not_in_view(&view, "node", name.as_str()));
    }
    let written = state.desired.set_node_operation(&name, operation).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All nodes of a view.
pub(super) fn nodes(view: &FleetView) -> Vec<NodeResource> {
    let nodes = view.nodes.values();
    nodes.map(|node| NodeResource::new(node)).collect()
}

impl NodeResource {
    /// Describes a node of a view.
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
            spec: record.spec.clone(),
            status: NodeStatus {
                phase: node.phase.as_str().into(),
                operation: node.operation,
                flapping: node.flapping,
                enrolment: match node.enrolment {
                    NodeEnrolment::None => None,
                    NodeEnrolment::Enrolled => Some("Enrolled".to_owned()),
                    NodeEnrolment::Revoked => Some(REVOKED.to_owned()),
                },
                stopping: node.is_stopping(),
                assigned: node.assigned.iter().map(ToString::to_string).collect(),
                models: report
                    .models
                    .iter()
                    .map(|status| ModelOnNode::new(status, node))
                    .collect(),
                disk: report.disk.map(|disk| DiskUsageJson {
                    used: Bytes(disk.used_bytes),
                    unneeded: Bytes(disk.unneeded_bytes),
                    budget: node.disk_budget(),
                }),
                energy: report
                    .energy
                    .as_ref()
                    .filter(|_| node.linked_locally)
                    .map(|reported| NodeEnergy::new(reported, record.spec.power_or_estimate())),
            },
        }
    }
}

/// The phase in the API of a replica whose node is not linked to this controller.
pub const UNREACHABLE: &str = "Unreachable";

impl ModelOnNode {
    /// Describes a model in the last report of a node. What it says of the model's phase and load holds
    /// while the node is linked.
    pub(super) fn new(status: &ModelStatus, node: &NodeView) -> Self {
        let mut model = Self::from(status);
        if !node.linked_locally {
            model.phase = UNREACHABLE.into();
            model.progress = String::new();
            model.replacement = None;
            model.counters.active = 0;
            model.counters.queued = 0;
        }
        model
    }
}

impl From<&ModelStatus> for ModelOnNode {
    fn from(status: &ModelStatus) -> Self {
        let progress = match (status.loading_stage.as_str(), status.loading_progress) {
            ("", _) => String::new(),
            (step, 0.0) => step.to_owned(),
            (step, share) => format!("{step} {:.0} %", share * 100.0),
        };
        Self {
            name: status.name.clone(),
            phase: phase(status.phase()).into(),
            error: status.error.clone(),
            remedy: status.remedy.clone(),
            warnings: status
                .file_defaults
                .as_ref()
                .map(|files| files.warnings.clone())
                .unwrap_or_default(),
            progress,
            replacement: status
                .replacement
                .as_deref()
                .map(|replacement| Box::new(replacement.into())),
            revision: ModelRevision(status.revision).to_string(),
            memory: Bytes(status.memory_bytes),
            on_device: status.on_device,
            gpu: status.gpu,
            concurrency: Some(status.concurrency).filter(|concurrency| *concurrency > 0),
            counters: status.counters.unwrap_or_default().into(),
        }
    }
}

/// Name of a phase in the API.
fn phase(phase: ModelPhase) -> &'static str {
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
