//! Models and their assignments as the API shows them.

use std::collections::BTreeMap;

use flotilla_core::placement::UnplacedReplicas;
use flotilla_core::spec::Model;
use flotilla_core::{Bytes, NodeName};
use serde::{Deserialize, Serialize};

use super::nodes::{CountersJson, ModelOnNode};
use crate::fleet::{FetchRecord, FleetView, ModelView};

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
    /// `Ready`: all replicas answer, with a revision that can be returned to. `Updating`: they
    /// answer, and change to another revision or have just done so.
    /// `Partial`: some do. `Asleep`: none is needed. `Pending`: none does yet. `Failed`: none
    /// does, and nodes have failed to run it.
    pub phase: String,
    /// Replicas that answer.
    pub ready: u32,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// Replicas there are or should be.
    #[serde(default)]
    pub assigned: u32,
    /// Memory of one replica, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// The revision wished for.
    #[serde(default)]
    pub revision: String,
    /// Why another revision is served, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<String>,
    /// How fetching its files goes, until controllers have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<String>,
    /// Requests that wait for a first replica.
    #[serde(default)]
    pub waiting: u32,
    pub replicas: Vec<ReplicaStatus>,
    /// Why replicas are missing, if any are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<String>,
    /// The same for each node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<String, String>,
}

/// A replica, ready or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub node: String,
    pub phase: String,
    /// The revision it serves or works on.
    #[serde(default)]
    pub revision: String,
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

/// Whether a model has no replica because nobody asks for it.
fn sleeps(model: &ModelView) -> bool {
    model.model.spec.replicas.min == 0 && model.assigned.is_empty() && model.waiting == 0
}

impl ModelResource {
    /// The model of a view. `unplaced` is what the solver says of the same view.
    pub(super) fn new(
        model: &ModelView,
        view: &FleetView,
        unplaced: Option<UnplacedReplicas>,
    ) -> Self {
        let ready = model.replicas.len() as u32;
        let replicas: Vec<_> = replicas(model, view).collect();
        let goal = model.revisions.goal().to_string();
        let failed = |fetch: &FetchRecord| !fetch.error.is_empty();
        let fetch_failed = !model.resolved && model.fetch.as_ref().is_some_and(failed);
        // Until it is known as the one that works nothing could be rolled back to it.
        let settled = model.revisions.stable == Some(model.revisions.goal());
        let updating = !settled || replicas.iter().any(|replica| replica.revision != goal);
        let phase = match ready {
            0 if fetch_failed => "Failed",
            0 if !model.resolved => "Fetching",
            0 if !model.failures.is_empty() => "Failed",
            0 if sleeps(model) => "Asleep",
            0 => "Pending",
            _ if unplaced.is_some() || (ready as usize) < model.assigned.len() => "Partial",
            _ if updating => "Updating",
            _ => "Ready",
        };
        let refusals = unplaced.iter().flat_map(|unplaced| &unplaced.refusals);
        Self {
            model: model.model.clone(),
            status: ModelStatus {
                phase: phase.into(),
                ready,
                created: model.created,
                assigned: model.assigned.len() as u32,
                memory: model.memory,
                revision: model.revisions.wished.to_string(),
                rolled_back: model.condemned.as_ref().map(|condemned| {
                    format!(
                        "revision {} did not load on {}: {}",
                        condemned.revision.to_string(),
                        condemned.node,
                        condemned.error
                    )
                }),
                fetch: model
                    .fetch
                    .as_ref()
                    .filter(|_| !model.resolved)
                    .map(|fetch| {
                        if fetch.error.is_empty() {
                            return format!(
                                "{} fetched by the controller",
                                Bytes(fetch.fetched_bytes)
                            );
                        }
                        format!("{} ({})", fetch.error, fetch.remedy)
                    }),
                waiting: model.waiting,
                replicas,
                refusals: refusals
                    .map(|(node, refusal)| (node.to_string(), refusal.to_string()))
                    .collect(),
                unplaced: unplaced.map(|unplaced| unplaced.to_string()),
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
    model.assigned.keys().map(|node| replica(model, node, view))
}

/// What is known of the replica of `model` on `node`.
fn replica(model: &ModelView, node: &NodeName, view: &FleetView) -> ReplicaStatus {
    let known = view.nodes.get(node).and_then(|node| {
        let report = node.report.load();
        report.model(model.model.name()).map(ModelOnNode::from)
    });
    let Some(known) = known else {
        return ReplicaStatus {
            node: node.to_string(),
            phase: "Absent".into(),
            revision: String::new(),
            problem: String::new(),
            remedy: String::new(),
            progress: String::new(),
            counters: CountersJson::default(),
        };
    };
    // What is wrong with the next one is what people need to know.
    let next = known.next.map(|next| *next).unwrap_or_default();
    let either = |next: String, known: String| if next.is_empty() { known } else { next };
    ReplicaStatus {
        node: node.to_string(),
        phase: known.phase,
        revision: known.revision,
        problem: either(next.problem, known.problem),
        remedy: either(next.remedy, known.remedy),
        progress: either(next.progress, known.progress),
        counters: known.counters,
    }
}
