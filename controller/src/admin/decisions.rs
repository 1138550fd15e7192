//! Why a request is routed as it is: recorded decisions, and dry runs of new ones.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flotilla_dispatch::{DecisionLog, DecisionRecord, Dispatcher};
use flotilla_gateway::{ApiError, ApiPath, ApiRoutes, Operation, RouteBody, RouteQuery, read_json};
use flotilla_telemetry::clock::unix_millis;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::node_rejections::add_node_rejections;
use super::off_thread::off_thread;
use super::router::JsonObject;
use crate::fleet::FleetHandle;

/// Marks a request that another controller has forwarded. It is not forwarded again, so that two
/// controllers do not send it back and forth.
const FORWARDED_BY: &str = "x-flotilla-forwarded-by";

/// The reply to `POST /v1/route`: how a request would be routed now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRunResult {
    /// The decision. It has no id, as it is not recorded.
    #[serde(flatten)]
    pub record: DecisionRecord,
    /// The error that the request would receive. `None` when it would be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone)]
struct DecisionsState {
    dispatcher: Dispatcher,
    fleet: FleetHandle,
    client: reqwest::Client,
    max_body: usize,
}

/// The routes for decisions of `dispatcher`; `client` reaches other controllers. `max_body` is the largest request body in bytes.
pub(crate) fn router(
    dispatcher: Dispatcher,
    fleet: FleetHandle,
    client: reqwest::Client,
    max_body: usize,
) -> ApiRoutes {
    let state = DecisionsState {
        dispatcher,
        fleet,
        client,
        max_body,
    };
    let dry_run_operation = Operation::new(
        "post",
        "/v1/route",
        "Returns how a request would be routed, without sending it",
    )
    .body::<RouteBody>()
    .returns::<JsonObject>(200)
    .errors(&[404]);
    let get_operation = Operation::new("get", "/v1/decisions/{id}", "Returns a recorded decision")
        .returns::<JsonObject>(200)
        .errors(&[404, 502]);
    ApiRoutes::new()
        .route(dry_run_operation, post(dry_run))
        .route(get_operation, get(get_decision))
        .with_state(state)
}

/// `POST /v1/route`.
async fn dry_run(
    State(state): State<DecisionsState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DryRunResult>, ApiError> {
    let body: RouteBody = read_json(body, state.max_body).await?;
    let RouteQuery {
        route,
        input,
        max_tokens,
    } = body.validate(&headers)?;
    let dry_run = state.dispatcher.dry_run(&route, &input, max_tokens).await;
    let view = state.fleet.view();
    let (models, zones, mut decision) = (dry_run.models, dry_run.zones, dry_run.decision);
    let decision = off_thread(move || {
        add_node_rejections(&view, &models, zones.as_ref(), &mut decision);
        decision
    })
    .await?;
    Ok(Json(DryRunResult {
        record: DecisionRecord {
            id: None,
            at: unix_millis(),
            decision,
            outcome: None,
        },
        error: dry_run.error.map(|error| error.to_string()),
    }))
}

/// `GET /v1/decisions/{id}`. A decision of another controller is fetched from there.
async fn get_decision(
    State(state): State<DecisionsState>,
    ApiPath(id): ApiPath<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(record) = state.dispatcher.decisions().get(&id) {
        return Ok(Json(record).into_response());
    }
    let missing = || {
        ApiError::not_found(
            Some("decision_not_found"),
            format!(
                "There is no decision '{id}': each controller keeps its last ones only, until it stops."
            ),
        )
    };
    let owner = DecisionLog::owner(&id).ok_or_else(missing)?;
    let address = state
        .fleet
        .peek()
        .controllers
        .get(owner)
        .map(|c| c.http.clone());
    let address = address
        .filter(|_| !headers.contains_key(FORWARDED_BY))
        .ok_or_else(missing)?;
    let unreachable = |error: reqwest::Error| {
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            "server_error",
            Some("controller_unreachable"),
            format!("The controller that made the decision '{id}' does not answer: {error}."),
        )
    };
    let url = format!("http://{address}/v1/decisions/{id}");
    let request = state.client.get(url).header(FORWARDED_BY, "controller");
    let response = request.send().await.map_err(unreachable)?;
    if !response.status().is_success() {
        return Err(missing());
    }
    let record: DecisionRecord = response.json().await.map_err(unreachable)?;
    Ok(Json(record).into_response())
}
