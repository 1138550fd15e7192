//! The routes of the admin API.

use std::sync::Arc;

use axum::routing::{delete, get, post, put};
use flotilla_core::spec::{Model, Task};
use flotilla_gateway::{ApiRoutes, Operation};
use flotilla_identity::authority::FleetSecret;
use flotilla_identity::keys::Action;
use schemars::JsonSchema;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::desired_state::DesiredStateWriter;
use super::state::{AdminState, TrainedClassifiers};
use super::watch::WatchQuery;
use super::{
    artifacts, batch, classifier, controllers, enrolments, fleet, join_tokens, keys, models, nodes,
    tasks,
};
use crate::artifacts::{BlobStore, Uploads};
use crate::fleet::FleetHandle;
use crate::store::Store;

/// The admin API of the controller with this `id`. Reads come from `fleet`'s view, changes go to
/// `store`, and uploaded files to `blobs`; `classifiers` show whether they are trained on the current tasks.
/// Watched lists end with `drain`.
pub(crate) fn router(
    fleet: FleetHandle,
    store: Arc<dyn Store>,
    blobs: BlobStore,
    classifiers: TrainedClassifiers,
    id: String,
    secret: Option<FleetSecret>,
    drain: CancellationToken,
) -> ApiRoutes {
    let state = AdminState {
        id,
        secret,
        drain,
        classifier: classifiers.classifier,
        encoder: classifiers.encoder,
        fleet,
        desired: DesiredStateWriter::new(store),
        blobs,
        uploads: Uploads::new(),
    };
    ApiRoutes::new()
        .merge(resource_routes())
        .merge(batch_routes())
        .merge(status_routes())
        .merge(artifact_routes())
        .merge(access_routes())
        .merge(keys::routes())
        .with_state(state)
}

/// The routes of models, tasks and routers.
fn resource_routes() -> ApiRoutes<AdminState> {
    ApiRoutes::new()
        .route(
            list("/api/v1/models", "Lists the models"),
            get(models::list),
        )
        .route(
            read("/api/v1/models/{name}", "Returns a model"),
            get(models::get),
        )
        .route(
            write::<Model>("/api/v1/models/{name}", "Applies a model"),
            put(models::put),
        )
        .route(
            remove("/api/v1/models/{name}", "Deletes a model"),
            delete(models::delete),
        )
        .route(list("/api/v1/tasks", "Lists the tasks"), get(tasks::list))
        .route(
            read("/api/v1/tasks/{name}", "Returns a task"),
            get(tasks::get),
        )
        .route(
            write::<Task>("/api/v1/tasks/{name}", "Applies a task"),
            put(tasks::put),
        )
        .route(
            remove("/api/v1/tasks/{name}", "Deletes a task"),
            delete(tasks::delete),
        )
        .route(
            Operation::new(
                Action::Operate,
                "put",
                "/api/v1/tasks/{name}/quality/{model}",
                "Sets the measured quality of a model for a task",
            )
            .body::<JsonObject>()
            .returns_nothing(204)
            .errors(&[404, 409, 503, 507]),
            put(tasks::put_quality),
        )
        .route(
            list("/api/v1/routers", "Lists the router"),
            get(tasks::list_routers),
        )
        .route(
            read("/api/v1/routers/{name}", "Returns the router"),
            get(tasks::get_router),
        )
        .route(
            write::<flotilla_core::spec::Router>("/api/v1/routers/{name}", "Applies the router"),
            put(tasks::put_router),
        )
        .route(
            remove("/api/v1/routers/{name}", "Deletes the router"),
            delete(tasks::delete_router),
        )
        .route(
            Operation::new(
                Action::Read,
                "get",
                "/api/v1/classifier",
                "Returns the state of the classifier of tasks, and how well it distinguishes them",
            )
            .returns::<classifier::ClassifierStatus>(200),
            get(classifier::get),
        )
}

/// The routes of changes of many resources at once.
fn batch_routes() -> ApiRoutes<AdminState> {
    ApiRoutes::new()
        .route(
            Operation::new(
                Action::Operate,
                "post",
                "/api/v1/apply",
                "Applies many resources",
            )
            .body::<batch::ApplyBatch>()
            .returns::<JsonObject>(200)
            .errors(&[409, 503, 507]),
            post(batch::apply),
        )
        .route(
            Operation::new(
                Action::Operate,
                "post",
                "/api/v1/delete",
                "Deletes many resources",
            )
            .body::<batch::DeleteBatch>()
            .returns::<batch::DeleteBatchReply>(200)
            .errors(&[409, 503, 507]),
            post(batch::delete),
        )
}

/// The routes of what is observed: nodes, controllers and assignments.
fn status_routes() -> ApiRoutes<AdminState> {
    ApiRoutes::new()
        .route(list("/api/v1/nodes", "Lists the nodes"), get(nodes::list))
        .route(
            read("/api/v1/nodes/{name}", "Returns a node"),
            get(nodes::get),
        )
        .route(
            remove("/api/v1/nodes/{name}", "Deletes a node that is not linked"),
            delete(nodes::delete),
        )
        .route(
            Operation::new(
                Action::Operate,
                "put",
                "/api/v1/nodes/{name}/operation",
                "Cordons, drains or uncordons a node",
            )
            .query::<nodes::OperationQuery>()
            .body::<JsonObject>()
            .returns_nothing(204)
            .errors(&[404, 409, 503, 507]),
            put(nodes::put_operation),
        )
        .route(
            Operation::new(
                Action::Read,
                "get",
                "/api/v1/fleet",
                "Returns the identity of the fleet",
            )
            .returns::<fleet::FleetIdentity>(200)
            .errors(&[503]),
            get(fleet::get),
        )
        .route(
            Operation::new(
                Action::Administer,
                "put",
                "/api/v1/fleet",
                "Gives the fleet the id of one that is restored",
            )
            .body::<fleet::NewFleetId>()
            .returns_nothing(204)
            .errors(&[409, 503, 507]),
            put(fleet::put),
        )
        .route(
            list("/api/v1/controllers", "Lists the controllers"),
            get(controllers::list),
        )
        .route(
            list(
                "/api/v1/assignments",
                "Lists which node should run which model",
            ),
            get(models::list_assignments),
        )
}

/// The routes of who belongs to the fleet: join tokens, enrolments and the authority.
fn access_routes() -> ApiRoutes<AdminState> {
    let administer =
        |method, path, summary| Operation::new(Action::Administer, method, path, summary);
    ApiRoutes::new()
        .route(
            administer("get", "/api/v1/tokens", "Lists the join tokens")
                .query::<WatchQuery>()
                .returns::<ResourceListSchema>(200)
                .returns_raw(200, "application/x-ndjson"),
            get(join_tokens::list),
        )
        .route(
            administer("post", "/api/v1/tokens", "Creates a join token")
                .body::<join_tokens::NewJoinToken>()
                .returns::<join_tokens::CreatedJoinToken>(201)
                .errors(&[409, 503, 507]),
            post(join_tokens::post),
        )
        .route(
            administer("delete", "/api/v1/tokens/{id}", "Deletes a join token")
                .returns_nothing(204)
                .errors(&[404, 409, 503, 507]),
            delete(join_tokens::delete),
        )
        .route(
            administer(
                "post",
                "/api/v1/nodes/{name}/revoke",
                "Revokes the enrolment of a node and cuts its links",
            )
            .returns_nothing(204)
            .errors(&[404, 409, 503, 507]),
            post(enrolments::revoke),
        )
        .route(
            administer(
                "get",
                "/api/v1/enrolments",
                "Returns the nodes that have enrolled",
            )
            .returns::<JsonObject>(200)
            .errors(&[503]),
            get(enrolments::list),
        )
        .route(
            administer(
                "put",
                "/api/v1/enrolments/{name}",
                "Restores the enrolment of a node",
            )
            .body::<JsonObject>()
            .returns_nothing(204)
            .errors(&[404, 409, 503, 507]),
            put(enrolments::put),
        )
        .route(
            administer(
                "get",
                "/api/v1/authority",
                "Returns the fleet's certificate authority, with its private key encrypted, or null",
            )
            .returns::<Option<JsonObject>>(200)
            .errors(&[503]),
            get(enrolments::get_authority),
        )
        .route(
            administer(
                "put",
                "/api/v1/authority",
                "Restores the fleet's certificate authority",
            )
            .body::<JsonObject>()
            .returns_nothing(204)
            .errors(&[409, 503, 507]),
            put(enrolments::put_authority),
        )
}

/// The routes of uploaded files of models.
fn artifact_routes() -> ApiRoutes<AdminState> {
    ApiRoutes::new()
        .route(
            list("/api/v1/artifacts", "Lists the artifacts"),
            get(artifacts::list),
        )
        .route(
            Operation::new(
                Action::Read,
                "get",
                "/api/v1/manifests",
                "Returns the manifests of all artifacts",
            )
            .returns::<Vec<Value>>(200),
            get(artifacts::manifests),
        )
        .route(
            Operation::new(
                Action::Operate,
                "put",
                "/api/v1/artifacts/{name}",
                "Publishes an artifact",
            )
            .query::<artifacts::PublishQuery>()
            .body::<JsonObject>()
            .returns::<MissingFilesSchema>(201)
            .returns::<MissingFilesSchema>(202)
            .errors(&[409, 503, 507]),
            put(artifacts::put),
        )
        .route(
            remove(
                "/api/v1/artifacts/{name}",
                "Deletes an artifact that no model uses",
            ),
            delete(artifacts::delete),
        )
        .route(
            Operation::new(
                Action::Read,
                "get",
                "/api/v1/blobs/{sha256}",
                "Returns a file by its digest",
            )
            .returns_raw(200, OCTETS)
            .errors(&[404]),
            get(artifacts::get_blob),
        )
        .route(
            Operation::new(
                Action::Operate,
                "put",
                "/api/v1/blobs/{sha256}",
                "Stores a file under its digest",
            )
            .raw_body(OCTETS)
            .returns_nothing(201)
            .errors(&[404, 413, 429, 507]),
            put(artifacts::put_blob),
        )
}

/// The content type of files.
const OCTETS: &str = "application/octet-stream";

/// A JSON object whose fields this description leaves open: the resources with their status, as
/// `docs/reference/http-api.md` and the reference of resources describe them.
pub(crate) type JsonObject = serde_json::Map<String, Value>;

/// A list of resources.
#[derive(JsonSchema)]
#[schemars(rename = "ResourceList")]
#[expect(dead_code, reason = "only its schema is used")]
struct ResourceListSchema {
    items: Vec<JsonObject>,
    /// Conditions that make the list less than current.
    #[schemars(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<String>>,
}

/// What applying a resource did: `created`, `changed` or `unchanged`.
#[derive(JsonSchema)]
#[schemars(rename = "ApplyReply")]
#[expect(dead_code, reason = "only its schema is used")]
struct ApplyReplySchema {
    result: String,
}

/// The digests of the files that must be uploaded before an artifact can be published.
#[derive(JsonSchema)]
#[schemars(rename = "MissingFiles")]
#[expect(dead_code, reason = "only its schema is used")]
struct MissingFilesSchema {
    missing: Vec<String>,
}

fn list(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Action::Read, "get", path, summary)
        .query::<WatchQuery>()
        .returns::<ResourceListSchema>(200)
        .returns_raw(200, "application/x-ndjson")
}

fn read(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Action::Read, "get", path, summary)
        .returns::<JsonObject>(200)
        .errors(&[404])
}

fn write<T: JsonSchema>(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Action::Operate, "put", path, summary)
        .body::<T>()
        .returns::<ApplyReplySchema>(200)
        .returns::<ApplyReplySchema>(201)
        .errors(&[409, 503, 507])
}

fn remove(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Action::Operate, "delete", path, summary)
        .returns_nothing(204)
        .errors(&[404, 409, 503, 507])
}
