//! Routing explained: decisions that were made, and those that would be.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flotilla_gateway::{ApiError, RouteBody, read_json};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::decisions::{DecisionLog, DecisionRecord, unix_millis};
use crate::dispatch::Dispatcher;
use crate::fleet::FleetHandle;

/// Set by a controller that asks another one, so that they do not ask each other for ever.
const ASKED_BY: &str = "x-flotilla-asked-by";

/// What routing would do with a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRun {
    #[serde(flatten)]
    pub record: DecisionRecord,
    /// Why the request would be refused, if it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone)]
struct DryRunArgs {
    dispatch: Dispatcher,
    fleet: FleetHandle,
    client: reqwest::Client,
    max_body: usize,
}

/// The routes over what `dispatch` decides. Bodies are of at most `max_body` bytes.
pub(crate) fn router(dispatch: Dispatcher, fleet: FleetHandle, max_body: usize) -> axum::Router {
    let routing = DryRunArgs {
        dispatch,
        fleet,
        client: reqwest::Client::new(),
        max_body,
    };
    axum::Router::new()
        .route("/v1/route", post(dry_run))
        .route("/v1/decisions/{id}", get(decision))
        .with_state(routing)
}

async fn dry_run(
    State(routing): State<DryRunArgs>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DryRun>, ApiError> {
    let body: RouteBody = read_json(body, routing.max_body).await?;
    let (route, input, most) = body.check(&headers)?;
    let (decision, error) = routing.dispatch.dry_run(&route, &input, most).await;
    Ok(Json(DryRun {
        record: DecisionRecord {
            id: None,
            at: unix_millis(),
            decision,
            outcome: None,
        },
        error: error.map(|error| error.to_string()),
    }))
}

async fn decision(
    State(routing): State<DryRunArgs>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(record) = routing.dispatch.decisions().get(&id) {
        return Ok(Json(record).into_response());
    }
    let gone = || {
        ApiError::not_found(
            Some("decision_not_found"),
            format!("There is no decision '{id}': the last ones of each controller are kept."),
        )
    };
    // It may be with another controller.
    let owner = DecisionLog::owner(&id).ok_or_else(gone)?;
    let address = routing
        .fleet
        .peek()
        .controllers
        .get(owner)
        .map(|c| c.http.clone());
    let address = address
        .filter(|_| !headers.contains_key(ASKED_BY))
        .ok_or_else(gone)?;
    let unreachable = |error: reqwest::Error| {
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            "server_error",
            Some("controller_unreachable"),
            format!("The controller that made the decision '{id}' does not answer: {error}."),
        )
    };
    let url = format!("http://{address}/v1/decisions/{id}");
    let asked = routing.client.get(url).header(ASKED_BY, "controller");
    let answer = asked.send().await.map_err(unreachable)?;
    if !answer.status().is_success() {
        return Err(gone());
    }
    let record: DecisionRecord = answer.json().await.map_err(unreachable)?;
    Ok(Json(record).into_response())
}
