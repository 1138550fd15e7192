//! Models and their assignments in the admin API.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use flotilla_core::placement::UnplacedReplicas;
use flotilla_core::spec::Model;
use flotilla_core::{Bytes, ModelName, NodeName};
use flotilla_gateway::{ApiError, ApiPath, ApiQuery};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::errors::{not_found, not_in_view};
use super::model_conditions;
use super::model_status::{ModelStatus, ReplicaStatus};
use super::nodes::{CountersJson, ModelOnNode, UNREACHABLE};
use super::off_thread::off_thread;
use super::reported_defaults::ReportedDefaults;
use super::resources::{ResourceList, read_resource};
use super::state::AdminState;
use super::watch::{self, WatchQuery};
use crate::fleet::{FetchRecord, FleetView, ModelView};
use crate::reconcile;

/// A model in the form of its YAML, with its status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelResource {
    /// The model as it was applied.
    #[serde(flatten)]
    pub model: Model,
    /// Its state in the fleet.
    pub status: ModelStatus,
}

/// The assignment of a model to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignmentStatus {
    /// Name of the model.
    pub model: String,
    /// The replica on the node.
    #[serde(flatten)]
    pub replica: ReplicaStatus,
}

/// `GET /api/v1/models`.
pub(super) async fn list(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    watch::reply(state, &query, |view| {
        ResourceList::new(view, models(view).into_iter())
    })
    .await
}

/// `GET /api/v1/models/{name}`.
pub(super) async fn get(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<ModelResource>, ApiError> {
    let view = state.fleet.view();
    off_thread(move || {
        let model = view.models.get(name.as_str());
        let model = model.ok_or_else(|| not_in_view(&view, "model", &name))?;
        let unplaced = reconcile::explain(&view, model.endpoints.model.name());
        Ok(Json(ModelResource::new(model, &view, unplaced)))
    })
    .await?
}

/// `PUT /api/v1/models/{name}`.
pub(super) async fn put(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let (resource, document) = read_resource("Model", &name, body).await?;
    state.apply(&resource, &document).await
}

/// `DELETE /api/v1/models/{name}`.
pub(super) async fn delete(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let name = ModelName::new(&name).map_err(|_| not_found("model", &name))?;
    let deleted = state.desired.delete_model(&name).await;
    state.finish_deletion("model", name.as_str(), deleted).await
}

/// `GET /api/v1/assignments`.
pub(super) async fn list_assignments(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    watch::reply(state, &query, |view| {
        let models = view.models.values();
        ResourceList::new(
            view,
            models.flat_map(|model| AssignmentStatus::of_model(model, view)),
        )
    })
    .await
}

/// All models of a view as a list shows them: without the reason of each node.
pub(super) fn models(view: &FleetView) -> Vec<ModelResource> {
    let unplaced = reconcile::unplaced(view);
    let items = view.models.iter().map(|(name, model)| {
        let mut resource = ModelResource::new(model, view, unplaced.get(name).cloned());
        resource.status.unschedulable_nodes.clear();
        resource
    });
    items.collect()
}

/// Whether a model has no replica because it receives no requests.
fn is_asleep(model: &ModelView) -> bool {
    model.endpoints.model.spec.replicas.min == 0 && model.assigned.is_empty() && model.waiting == 0
}

impl ModelResource {
    /// Describes a model of a view. `unplaced` is the solver's explanation of missing replicas for
    /// the same view.
    pub(super) fn new(
        model: &ModelView,
        view: &FleetView,
        unplaced: Option<UnplacedReplicas>,
    ) -> Self {
        let ready = model.endpoints.replicas().len() as u32;
        let replicas: Vec<_> = replicas(model, view).collect();
        let target_revision = model.endpoints.revisions.target().to_string();
        let failed = |fetch: &FetchRecord| !fetch.error.is_empty();
        let fetch_failed = !model.loadable && model.fetch.as_ref().is_some_and(failed);
        let updating = replicas
            .iter()
            .any(|replica| replica.revision != target_revision);
        let phase = match ready {
            0 if fetch_failed => "Failed",
            0 if !model.loadable => "Fetching",
            0 if !model.failures.is_empty() => "Failed",
            0 if is_asleep(model) => "Asleep",
            0 => "Pending",
            _ if unplaced.is_some() || (ready as usize) < model.assigned.len() => "Partial",
            _ if updating => "Updating",
            _ => "Ready",
        };
        let defaults = ReportedDefaults::of_model(model, view);
        let unschedulable = unplaced.iter().flat_map(|unplaced| &unplaced.reasons);
        Self {
            model: model.endpoints.model.clone(),
            status: ModelStatus {
                phase: phase.into(),
                ready,
                created: model.endpoints.created,
                assigned: model.assigned.len() as u32,
                memory: model.memory.largest(),
                revision: model.endpoints.revisions.desired.to_string(),
                rollback_reason: model
                    .failed_revision
                    .as_ref()
                    .map(|failed| format!("revision {}: {}", failed.revision, failed.reason)),
                fetch: model
                    .fetch
                    .as_ref()
                    .filter(|fetch| !model.loadable || failed(fetch))
                    .map(|fetch| {
                        if fetch.error.is_empty() {
                            return format!(
                                "{} fetched by the controller",
                                Bytes(fetch.fetched_bytes)
                            );
                        }
                        format!("{} ({})", fetch.error, fetch.remedy)
                    }),
                adapters: view
                    .adapters_of(model.endpoints.model.name())
                    .map(ModelName::to_string)
                    .collect(),
                waiting: model.waiting,
                ignored_fields: model.ignored_fields.clone(),
                context_length: defaults.context_length,
                defaults: defaults.values,
                defaults_differ_on: defaults.differing_nodes,
                replicas,
                unschedulable_nodes: unschedulable
                    .map(|(node, reason)| (node.to_string(), reason.to_string()))
                    .collect(),
                unplaced_reason: unplaced.map(|unplaced| unplaced.to_string()),
                notes: model_conditions::notes(model, view),
                last_error: model_conditions::last_error(model),
            },
        }
    }
}

impl AssignmentStatus {
    /// All assignments of one model.
    fn of_model(model: &ModelView, view: &FleetView) -> Vec<Self> {
        replicas(model, view)
            .map(|replica| Self {
                model: model.endpoints.model.name().to_string(),
                replica,
            })
            .collect()
    }
}

fn replicas(model: &ModelView, view: &FleetView) -> impl Iterator<Item = ReplicaStatus> {
    model.assigned.keys().map(|node| replica(model, node, view))
}

/// State of the replica of `model` on `node`, from the node's last report.
fn replica(model: &ModelView, node: &NodeName, view: &FleetView) -> ReplicaStatus {
    let node_view = view.nodes.get(node);
    let reported = node_view.and_then(|node| {
        let report = node.report.load();
        let status = report.model(model.endpoints.model.name())?;
        Some(ModelOnNode::new(status, node))
    });
    let Some(reported) = reported else {
        let is_reachable = node_view.is_none_or(|node| node.linked_locally);
        return ReplicaStatus {
            node: node.to_string(),
            phase: if is_reachable { "Absent" } else { UNREACHABLE }.into(),
            revision: String::new(),
            error: String::new(),
            remedy: String::new(),
            failing_requests: None,
            warnings: Vec::new(),
            progress: String::new(),
            counters: CountersJson::default(),
        };
    };
    // An error of the revision that is being loaded matters more than one of the current revision.
    let replacement = reported.replacement.map(|next| *next).unwrap_or_default();
    let first = |next: String, current: String| if next.is_empty() { current } else { next };
    ReplicaStatus {
        node: node.to_string(),
        phase: reported.phase,
        revision: reported.revision,
        error: first(replacement.error, reported.error),
        remedy: first(replacement.remedy, reported.remedy),
        failing_requests: model_conditions::failing_requests(model, node),
        warnings: reported.warnings,
        progress: first(replacement.progress, reported.progress),
        counters: reported.counters,
    }
}
