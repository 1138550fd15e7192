//! The API behind the CLI, under `/api/v1`: what is wished for, what is, and why.
//!
//! It is HTTP with JSON on the port that also serves the OpenAI API, so that one address
//! (behind an ingress, say) is all a user needs. Resources have the form of their YAML plus
//! a `status`; errors have OpenAI's shape.

mod artifacts;
mod controllers;
pub(crate) mod decisions;
pub(crate) mod live;
mod models;
mod nodes;
mod tasks;
mod watch;
mod wish;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use flotilla_core::spec::{ModelSource, Resource};
use flotilla_core::{ModelName, NodeName};
use flotilla_gateway::{ApiError, read_json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::artifacts::BlobStore;
use crate::fleet::{FleetHandle, FleetView, NodeOperationRecord};
use crate::reconcile;
use crate::store::{Store, StoreError, StoreRevision};
pub use crate::traffic::{
    LatencyPercentiles, MeteredEnergy, RequestSummary, TrafficPoint, UsageTotal, UsageTotals,
};
use crate::trainer::LatestClassifier;
pub use artifacts::{ArtifactResource, Missing};
pub use controllers::ControllerResource;
pub use decisions::DryRun;
pub use models::{AssignmentStatus, ModelResource, ModelStatus, ReplicaStatus};
pub use nodes::{ModelOnNode, NodeEnergy, NodeResource, NodeSpec, NodeStatus};
pub use tasks::{ModelOfTask, Quality, RouterResource, TaskResource, TaskStatus};
use watch::WatchQuery;
pub use wish::{ApplyResult, DesiredStateWriter};

/// Largest resource, in bytes.
const MAX_RESOURCE: usize = 1 << 20;

/// Models of a list that are told why they miss replicas: each costs a look at all nodes.
const EXPLAINED: usize = 20;

/// Longest an answer waits until this controller's own watch of the store has what it wrote.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct AdminState {
    /// This controller.
    id: String,
    fleet: FleetHandle,
    wish: DesiredStateWriter,
    blobs: BlobStore,
    newest: LatestClassifier,
}

impl AdminState {
    /// Ends a change of the wish: whoever made it finds it in whatever this controller answers
    /// from here on.
    async fn see(&self, written: Result<StoreRevision, StoreError>) -> Result<(), ApiError> {
        let revision = written.map_err(failed)?;
        // Late is not lost: it is written, and comes when the watch does.
        let _ = tokio::time::timeout(SEEN_WITHIN, self.fleet.wait_for_revision(revision)).await;
        Ok(())
    }

    /// Ends a deletion: what was not there is not found.
    async fn deleted(
        &self,
        kind: &str,
        name: &str,
        deleted: Result<Option<StoreRevision>, StoreError>,
    ) -> Result<StatusCode, ApiError> {
        let revision = deleted.map_err(failed)?;
        let revision = revision.ok_or_else(|| unknown(kind, name))?;
        self.see(Ok(revision)).await?;
        Ok(StatusCode::NO_CONTENT)
    }

    /// Makes the wish for a resource be this one, and says what that did.
    async fn apply(&self, resource: &Resource) -> Result<Response, ApiError> {
        let (applied, revision) = self.wish.apply(resource).await.map_err(failed)?;
        self.see(Ok(revision)).await?;
        let status = match applied {
            ApplyResult::Created => StatusCode::CREATED,
            ApplyResult::Changed | ApplyResult::Unchanged => StatusCode::OK,
        };
        #[derive(Serialize)]
        struct AdminReply {
            applied: ApplyResult,
        }
        Ok((status, Json(AdminReply { applied })).into_response())
    }
}

/// Reads the resource of the kind and name that the path says.
async fn read_resource(kind: &str, name: &str, body: Body) -> Result<Resource, ApiError> {
    let value = read_json(body, MAX_RESOURCE).await?;
    let resource =
        Resource::from_json(value).map_err(|faults| ApiError::invalid(None, faults.to_string()))?;
    if resource.kind() != kind {
        return Err(ApiError::invalid(
            Some("kind".into()),
            format!(
                "The resource is a {}, the path is of a {kind}.",
                resource.kind()
            ),
        ));
    }
    if resource.name() != name {
        return Err(ApiError::invalid(
            Some("metadata.name".into()),
            format!(
                "The resource is named '{}', the path '{name}'.",
                resource.name()
            ),
        ));
    }
    Ok(resource)
}

/// A list of resources.
#[derive(Debug, Serialize)]
struct ResourceList<T> {
    items: Vec<T>,
    /// What whoever reads it should know: that changes wait, say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// What whoever reads of the fleet should know.
fn notes(view: &FleetView) -> Vec<String> {
    view.store_problem.clone().into_iter().collect()
}

impl<T> ResourceList<T> {
    fn new(view: &FleetView, items: impl Iterator<Item = T>) -> Self {
        Self {
            items: items.collect(),
            notes: notes(view),
        }
    }
}

/// The API over `fleet`, `store`, `blobs` and the `newest` classifier, of the controller `id`.
pub(crate) fn router(
    fleet: FleetHandle,
    store: Arc<dyn Store>,
    blobs: BlobStore,
    newest: LatestClassifier,
    id: String,
) -> Router {
    let admin = AdminState {
        id,
        newest,
        fleet,
        wish: DesiredStateWriter::new(store),
        blobs,
    };
    Router::new()
        .route("/api/v1/nodes", get(list_nodes))
        .route("/api/v1/nodes/{name}", get(get_node).delete(delete_node))
        .route("/api/v1/nodes/{name}/order", put(order_node))
        .route("/api/v1/controllers", get(list_controllers))
        .route("/api/v1/models", get(list_models))
        .route(
            "/api/v1/models/{name}",
            get(get_model).put(put_model).delete(delete_model),
        )
        .route("/api/v1/tasks", get(tasks::list))
        .route(
            "/api/v1/tasks/{name}",
            get(tasks::get).put(tasks::put).delete(tasks::delete),
        )
        .route(
            "/api/v1/tasks/{name}/quality/{model}",
            put(tasks::put_quality),
        )
        .route("/api/v1/routers", get(tasks::list_routers))
        .route(
            "/api/v1/routers/{name}",
            get(tasks::get_router)
                .put(tasks::put_router)
                .delete(tasks::delete_router),
        )
        .route("/api/v1/artifacts", get(artifacts::list))
        .route("/api/v1/manifests", get(artifacts::manifests))
        .route(
            "/api/v1/artifacts/{name}",
            put(artifacts::put).delete(artifacts::delete),
        )
        .route(
            "/api/v1/blobs/{sha256}",
            get(artifacts::get_blob).put(artifacts::put_blob),
        )
        .route("/api/v1/assignments", get(list_assignments))
        .with_state(admin)
}

async fn list_nodes(State(admin): State<AdminState>, Query(watch): Query<WatchQuery>) -> Response {
    watch::answer(admin.fleet, &watch, |view| {
        ResourceList::new(
            view,
            view.nodes.values().map(|node| NodeResource::new(node)),
        )
    })
}

async fn get_node(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<NodeResource>, ApiError> {
    let view = admin.fleet.view();
    let node = view.nodes.get(name.as_str());
    node.map(|node| Json(NodeResource::new(node)))
        .ok_or_else(|| unknown("node", &name))
}

async fn delete_node(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = NodeName::new(&name).map_err(|_| unknown("node", &name))?;
    let view = admin.fleet.view();
    let node = view
        .nodes
        .get(&name)
        .ok_or_else(|| unknown("node", name.as_str()))?;
    if node.phase == crate::fleet::NodePhase::Ready {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("node_is_linked"),
            format!("The node '{name}' is linked: stop its agent first."),
        ));
    }
    admin.see(admin.wish.forget_node(&name).await).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct Ahead {
    /// The node may be one that has not joined yet.
    #[serde(default)]
    ahead: bool,
}

async fn order_node(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
    Query(Ahead { ahead }): Query<Ahead>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let order: NodeOperationRecord = read_json(body, MAX_RESOURCE).await?;
    let name = NodeName::new(&name).map_err(|_| unknown("node", &name))?;
    if !ahead && !admin.fleet.peek().nodes.contains_key(&name) {
        return Err(unknown("node", name.as_str()));
    }
    admin.see(admin.wish.order_node(&name, order).await).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_controllers(
    State(admin): State<AdminState>,
    Query(watch): Query<WatchQuery>,
) -> Response {
    watch::answer(admin.fleet, &watch, move |view| {
        ResourceList::new(view, controllers(view, &admin.id).into_iter())
    })
}

/// The controllers, as the one with the id `this` knows them.
fn controllers(view: &FleetView, this: &str) -> Vec<ControllerResource> {
    let controllers = view.controllers.iter();
    controllers
        .map(|(id, record)| ControllerResource {
            id: id.clone(),
            leads: view.leader.as_ref() == Some(id),
            this: *id == this,
            record: record.clone(),
        })
        .collect()
}

async fn list_models(State(admin): State<AdminState>, Query(watch): Query<WatchQuery>) -> Response {
    watch::answer(admin.fleet, &watch, |view| {
        ResourceList::new(view, models_as_listed(view).into_iter())
    })
}

/// The models, each told in short.
fn models_as_listed(view: &FleetView) -> Vec<ModelResource> {
    let unplaced: BTreeMap<_, _> = reconcile::missing(view)
        .into_iter()
        .take(EXPLAINED)
        .filter_map(|name| Some((name.clone(), reconcile::explain(view, &name)?)))
        .collect();
    let items = view.models.iter().map(|(name, model)| {
        let mut resource = ModelResource::new(model, view, unplaced.get(name).cloned());
        // One line is enough in a list.
        resource.status.refusals.clear();
        resource
    });
    items.collect()
}

async fn get_model(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<ModelResource>, ApiError> {
    let view = admin.fleet.view();
    let Some(model) = view.models.get(name.as_str()) else {
        return Err(unknown("model", &name));
    };
    let unplaced = reconcile::explain(&view, model.model.name());
    Ok(Json(ModelResource::new(model, &view, unplaced)))
}

async fn put_model(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let resource = read_resource("Model", &name, body).await?;
    if let Resource::Model(model) = &resource
        && let Some(ModelSource::Path(path) | ModelSource::ControllerPath(path)) =
            &model.spec.source
        && path.is_relative()
    {
        return Err(ApiError::invalid(
            Some("spec.source".into()),
            format!("The path '{}' must be absolute.", path.display()),
        ));
    }
    admin.apply(&resource).await
}

async fn delete_model(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = ModelName::new(&name).map_err(|_| unknown("model", &name))?;
    let deleted = admin.wish.delete_model(&name).await;
    admin.deleted("model", name.as_str(), deleted).await
}

async fn list_assignments(
    State(admin): State<AdminState>,
    Query(watch): Query<WatchQuery>,
) -> Response {
    watch::answer(admin.fleet, &watch, |view| {
        let models = view.models.values();
        ResourceList::new(
            view,
            models.flat_map(|model| AssignmentStatus::of(model, view)),
        )
    })
}

fn unknown(kind: &str, name: &str) -> ApiError {
    ApiError::not_found(None, format!("There is no {kind} '{name}'."))
}

fn failed(error: StoreError) -> ApiError {
    let (status, code) = match error {
        StoreError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    ApiError::new(status, "server_error", Some(code), error.to_string())
}
