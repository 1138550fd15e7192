//! Models and their assignments as the API shows them.

use flotilla_core::NodeName;
use flotilla_core::placement::Plan;
use flotilla_core::spec::Model;
use serde::{Deserialize, Serialize};

use super::nodes::{CountersJson, ModelOnNode};
use crate::fleet::{FleetView, ModelView};

/// A model with how it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelResource {
    #[serde(flatten)]
    pub model: Model,
    pub status: ModelStatus,
}

/// How a model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// `Ready`: all replicas answer. `Partial`: some do. `Pending`: none does yet.
    /// `Failed`: none does, and nodes have failed to run it.
    pub phase: String,
    /// Replicas that answer.
    pub ready: u32,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    pub replicas: Vec<ReplicaStatus>,
    /// Why replicas are missing, if any are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<String>,
}

/// A replica, ready or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub node: String,
    pub phase: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    pub counters: CountersJson,
}

/// One assignment of a model to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignmentStatus {
    pub model: String,
    #[serde(flatten)]
    pub replica: ReplicaStatus,
}

impl ModelResource {
    /// The model of a view. `plan` is what the solver says of the same view.
    pub(super) fn new(model: &ModelView, view: &FleetView, plan: &Plan) -> Self {
        let ready = model.replicas.len() as u32;
        let unplaced = plan.unplaced.get(model.model.name());
        let phase = match ready {
            0 if !model.failures.is_empty() => "Failed",
            0 => "Pending",
            ready if ready < model.model.spec.replicas => "Partial",
            _ => "Ready",
        };
        Self {
            model: model.model.clone(),
            status: ModelStatus {
                phase: phase.into(),
                ready,
                created: model.created,
                replicas: replicas(model, view).collect(),
                unplaced: unplaced.map(ToString::to_string),
            },
        }
    }
}

impl AssignmentStatus {
    /// All assignments of one model.
    pub(super) fn of(model: &ModelView, view: &FleetView) -> Vec<Self> {
        replicas(model, view)
            .map(|replica| Self {
                model: model.model.name().to_string(),
                replica,
            })
            .collect()
    }
}

fn replicas(model: &ModelView, view: &FleetView) -> impl Iterator<Item = ReplicaStatus> {
    model.assigned.iter().map(|node| replica(model, node, view))
}

/// What is known of the replica of `model` on `node`.
fn replica(model: &ModelView, node: &NodeName, view: &FleetView) -> ReplicaStatus {
    let known = view.nodes.get(node).and_then(|node| {
        let reported = node.reported.load();
        let status = reported
            .iter()
            .find(|status| status.name == model.model.name().as_str());
        status.map(ModelOnNode::from)
    });
    let known = known.unwrap_or_else(|| ModelOnNode {
        name: String::new(),
        phase: "Absent".into(),
        problem: String::new(),
        remedy: String::new(),
        progress: String::new(),
        memory: Default::default(),
        counters: CountersJson::default(),
    });
    ReplicaStatus {
        node: node.to_string(),
        phase: known.phase,
        problem: known.problem,
        remedy: known.remedy,
        progress: known.progress,
        counters: known.counters,
    }
}
