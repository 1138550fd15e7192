//! The audit log in the admin API: what all controllers have recorded.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use flotilla_gateway::{ApiError, ApiQuery, ApiRoutes, Operation};
use flotilla_identity::audit::{AuditRecord, merge};
use flotilla_identity::keys::Action;
use http::{HeaderMap, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::off_thread::off_thread;
use super::other_controllers::{ControllerAnswers, OtherControllers, is_forwarded};
use super::router::JsonObject;
use crate::audit::AuditFiles;

/// The most records of a reply, the newest.
const MAX_RECORDS: usize = 10_000;

#[derive(Clone)]
struct AuditState {
    files: AuditFiles,
    others: OtherControllers,
}

/// The query of the audit log.
#[derive(Deserialize, JsonSchema)]
struct AuditQuery {
    /// The time of the first record, in milliseconds since 1970. Default: 0, all that are kept.
    #[serde(default)]
    since: u64,
}

/// The newest records, the oldest of them first.
#[derive(Serialize, Deserialize)]
struct AuditList {
    items: Vec<AuditRecord>,
    /// Which controllers do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// The route of the audit log that this controller has in `files`, and the `others` have in theirs.
pub(crate) fn router(files: AuditFiles, others: OtherControllers) -> ApiRoutes {
    let operation = Operation::new(
        Action::Administer,
        "get",
        "/api/v1/audit",
        "Returns the audit log: changes and refusals",
    )
    .query::<AuditQuery>()
    .returns::<JsonObject>(200);
    ApiRoutes::new()
        .route(operation, get(list))
        .with_state(AuditState { files, others })
}

/// `GET /api/v1/audit`: the records of all controllers.
async fn list(
    State(state): State<AuditState>,
    ApiQuery(AuditQuery { since }): ApiQuery<AuditQuery>,
    headers: HeaderMap,
) -> Result<Json<AuditList>, ApiError> {
    let files = state.files.clone();
    let own = off_thread(move || files.read(since, MAX_RECORDS)).await?;
    let own = own.map_err(|error| {
        let message = format!("The audit log of the controller cannot be read: {error}.");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        ApiError::new(status, "server_error", Some("disk_failed"), message)
    })?;
    if is_forwarded(&headers) {
        let notes = Vec::new();
        return Ok(Json(AuditList { items: own, notes }));
    }
    let path = format!("/api/v1/audit?since={since}");
    let others = state.others.send_to_all::<AuditList>(Method::GET, &path);
    let ControllerAnswers { answers, notes } = others.await;
    let others = answers.into_iter().map(|list| list.items);
    let items = merge(others.chain([own]), MAX_RECORDS);
    Ok(Json(AuditList { items, notes }))
}
