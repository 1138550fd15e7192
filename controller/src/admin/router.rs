//! The routes of the admin API.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, put};
use flotilla_dispatch::LatestClassifier;

use super::desired_state::DesiredStateWriter;
use super::state::AdminState;
use super::{artifacts, controllers, models, nodes, tasks};
use crate::artifacts::BlobStore;
use crate::fleet::FleetHandle;
use crate::store::Store;

/// The admin API of the controller with this `id`. Reads come from `fleet`'s view, changes go to
/// `store`, and uploaded files to `blobs`; `classifier` shows whether it is trained on the current tasks.
pub(crate) fn router(
    fleet: FleetHandle,
    store: Arc<dyn Store>,
    blobs: BlobStore,
    classifier: LatestClassifier,
    id: String,
) -> Router {
    let state = AdminState {
        id,
        classifier,
        fleet,
        desired: DesiredStateWriter::new(store),
        blobs,
    };
    Router::new()
        .route("/api/v1/nodes", get(nodes::list))
        .route(
            "/api/v1/nodes/{name}",
            get(nodes::get).delete(nodes::delete),
        )
        .route("/api/v1/nodes/{name}/operation", put(nodes::put_operation))
        .route("/api/v1/controllers", get(controllers::list))
        .route("/api/v1/models", get(models::list))
        .route(
            "/api/v1/models/{name}",
            get(models::get).put(models::put).delete(models::delete),
        )
        .route("/api/v1/assignments", get(models::list_assignments))
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
        .with_state(state)
}
