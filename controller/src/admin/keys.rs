//! API keys in the admin API: created, listed, revoked, and given back by a restore.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json};
use flotilla_core::access::AccessScope;
use flotilla_gateway::{ApiError, ApiPath, ApiRoutes, Caller, Operation, read_json};
use flotilla_identity::keys::{Action, KeyError, KeyId, KeyRecord, NewKey};
use flotilla_telemetry::clock::unix_seconds;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resources::{MAX_RESOURCE, ResourceList};
use super::router::JsonObject;
use super::state::AdminState;
use super::watch::wait_until_synced;
use crate::audit::ChangedObjects;

/// A key that was just created: the only time that its secret is shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct CreatedKey {
    /// The whole key, with its secret.
    pub key: String,
    /// What the fleet has stored of it.
    #[serde(flatten)]
    pub record: KeyRecord,
}

/// Who sends a request.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct PrincipalResource {
    /// The sender, such as `key ci (0123456789ab)`, or `open` where the fleet requires no keys.
    pub name: String,
    /// The role: `inference`, `viewer`, `operator` or `admin`.
    pub role: String,
    /// What requests to models may use.
    pub scope: AccessScope,
}

/// `GET /api/v1/whoami`.
async fn whoami(Caller { principal, .. }: Caller) -> Json<PrincipalResource> {
    Json(PrincipalResource {
        name: principal.subject.to_string(),
        role: principal.role.to_string(),
        scope: AccessScope::clone(&principal.scope),
    })
}

/// The routes of keys.
pub(super) fn routes() -> ApiRoutes<AdminState> {
    let operation =
        |method, path, summary| Operation::new(Action::Administer, method, path, summary);
    let whoami_operation = Operation::new(
        Action::Identified,
        "get",
        "/api/v1/whoami",
        "Returns who sends the request",
    );
    ApiRoutes::new()
        .route(
            whoami_operation.returns::<PrincipalResource>(200),
            get(whoami),
        )
        .route(
            operation(
                "get",
                "/api/v1/keys",
                "Lists the API keys, without their secrets",
            )
            .returns::<JsonObject>(200)
            .errors(&[503]),
            get(list),
        )
        .route(
            operation(
                "post",
                "/api/v1/keys",
                "Creates an API key, and returns it once",
            )
            .body::<JsonObject>()
            .returns::<JsonObject>(201)
            .errors(&[409, 503, 507]),
            post(create),
        )
        .route(
            operation(
                "put",
                "/api/v1/keys/{id}",
                "Restores the record of an API key",
            )
            .body::<JsonObject>()
            .returns_nothing(204)
            .errors(&[409, 503, 507]),
            put(restore),
        )
        .route(
            operation("delete", "/api/v1/keys/{id}", "Revokes an API key")
                .returns_nothing(204)
                .errors(&[404, 503, 507]),
            delete(revoke),
        )
}

/// `GET /api/v1/keys`.
async fn list(State(state): State<AdminState>) -> Result<Response, ApiError> {
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    let items = view.keys.values().map(Arc::as_ref);
    Ok(Json(ResourceList::new(&view, items)).into_response())
}

/// `POST /api/v1/keys`.
async fn create(State(state): State<AdminState>, body: Body) -> Result<Response, ApiError> {
    let new: NewKey = read_json(body, MAX_RESOURCE).await?;
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    if view.keys.values().any(|key| key.name == new.name) {
        let message = format!(
            "There is a key '{}' already: revoke it first, or choose another name.",
            new.name
        );
        let (status, code) = (StatusCode::CONFLICT, Some("conflict"));
        return Err(ApiError::new(
            status,
            "invalid_request_error",
            code,
            message,
        ));
    }
    let (text, record) = new.generate(unix_seconds()).map_err(not_created)?;
    let written = state.desired.put_key(&record).await;
    state.finish(written).await?;
    let key = text.expose();
    // Nothing between the controller and the client may keep the secret.
    let headers = [(CACHE_CONTROL, "no-store")];
    let changed = Extension(ChangedObjects(vec![format!("key/{}", record.id)]));
    let created = CreatedKey { key, record };
    Ok((StatusCode::CREATED, headers, changed, Json(created)).into_response())
}

fn not_created(error: KeyError) -> ApiError {
    let field = match &error {
        KeyError::NameIsId(_) => "name",
        KeyError::ScopeOfRole(_) | KeyError::EmptyScope(_) => "scope",
        KeyError::Expired => "expires",
        KeyError::NoRandomness => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return ApiError::new(status, "server_error", None, error.to_string());
        }
    };
    ApiError::invalid(Some(field.into()), error.to_string())
}

/// `PUT /api/v1/keys/{id}`.
async fn restore(
    State(state): State<AdminState>,
    ApiPath(id): ApiPath<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let record: KeyRecord = read_json(body, MAX_RESOURCE).await?;
    if record.id.as_str() != id {
        let message = format!("The record is that of the key '{}'.", record.id);
        return Err(ApiError::invalid(Some("id".into()), message));
    }
    let written = state.desired.put_key(&record).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/keys/{id}`.
async fn revoke(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let id: KeyId = name
        .parse()
        .map_err(|_| super::errors::not_found("key", &name))?;
    let deleted = state.desired.delete_key(&id).await;
    state.finish_deletion("key", &name, deleted).await
}
