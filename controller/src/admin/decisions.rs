//! Why a request is routed as it is: recorded decisions with the feedback on them, and dry runs of new ones.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flotilla_core::access::AccessScope;
use flotilla_core::dataset::Feedback;
use flotilla_core::generate::RequestError;
use flotilla_dispatch::{DecisionLog, DecisionRecord, Dispatcher, FeedbackError};
use flotilla_gateway::{
    ApiError, ApiPath, ApiRoutes, Caller, Operation, RouteBody, RouteQuery, read_json,
};
use flotilla_identity::keys::Action;
use flotilla_telemetry::clock::unix_millis;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::node_rejections::add_node_rejections;
use super::off_thread::off_thread;
use super::other_controllers::{OtherControllers, is_forwarded, unreachable_owner};
use super::router::JsonObject;

/// Largest body of feedback, in bytes.
const MAX_FEEDBACK: usize = 16 << 10;
/// The `retry-after` of feedback that finds the queue to the disk full.
const FEEDBACK_RETRY_AFTER: Duration = Duration::from_secs(1);

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
    others: OtherControllers,
    max_body: usize,
}

/// The routes for decisions of `dispatcher` and of the `others`. `max_body` is the largest request body in
/// bytes.
pub(crate) fn router(
    dispatcher: Dispatcher,
    others: OtherControllers,
    max_body: usize,
) -> ApiRoutes {
    let state = DecisionsState {
        dispatcher,
        others,
        max_body,
    };
    let dry_run_operation = Operation::new(
        Action::Infer,
        "post",
        "/v1/route",
        "Returns how a request would be routed, without sending it",
    )
    .body::<RouteBody>()
    .returns::<JsonObject>(200)
    .errors(&[404]);
    // The record of a decision has the last message of its prompt where prompts are recorded.
    let get_operation = Operation::new(
        Action::Read,
        "get",
        "/v1/decisions/{id}",
        "Returns a recorded decision",
    )
    .returns::<JsonObject>(200)
    .errors(&[404, 502]);
    let feedback_operation = Operation::new(
        Action::Infer,
        "post",
        "/v1/decisions/{id}/feedback",
        "Keeps the prompt of an answered request with what the client says about it",
    )
    .body::<Feedback>()
    .returns_nothing(204)
    .errors(&[404, 409, 502, 503]);
    ApiRoutes::new()
        .route(dry_run_operation, post(dry_run))
        .route(get_operation, get(get_decision))
        .route(feedback_operation, post(give_feedback))
        .with_state(state)
}

/// `POST /v1/route`.
async fn dry_run(
    State(state): State<DecisionsState>,
    caller: Caller,
    body: Body,
) -> Result<Json<DryRunResult>, ApiError> {
    let body: RouteBody = read_json(body, state.max_body).await?;
    let RouteQuery {
        route,
        input,
        max_tokens,
    } = body.validate(&caller)?;
    let dry_run = state.dispatcher.dry_run(&route, &input, max_tokens).await;
    let view = state.others.fleet.view();
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
    let Some(owner) = owner_address(&state, &id, &headers) else {
        return Err(missing(&id));
    };
    let unreachable = |error: reqwest::Error| unreachable_owner(&id, &error);
    let path = format!("/v1/decisions/{id}");
    let no_body = None::<&()>;
    let response = state.others.forward(&owner, Method::GET, &path, no_body);
    let response = response.await.map_err(unreachable)?;
    if !response.status().is_success() {
        return Err(missing(&id));
    }
    let record: DecisionRecord = response.json().await.map_err(unreachable)?;
    Ok(Json(record).into_response())
}

/// `POST /v1/decisions/{id}/feedback`. Feedback on a decision of another controller is sent there, where the
/// prompt is held.
async fn give_feedback(
    State(state): State<DecisionsState>,
    ApiPath(id): ApiPath<String>,
    caller: Caller,
    body: Body,
) -> Result<Response, ApiError> {
    let feedback: Feedback = read_json(body, MAX_FEEDBACK).await?;
    check_feedback_scope(&caller.principal.scope, &feedback)?;
    let Some(owner) = owner_address(&state, &id, &caller.headers) else {
        let given = state.dispatcher.give_feedback(&id, feedback);
        given.map_err(|error| feedback_failure(&error))?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let unreachable = |error: reqwest::Error| unreachable_owner(&id, &error);
    let path = format!("/v1/decisions/{id}/feedback");
    let body = Some(&feedback);
    let response = state.others.forward(&owner, Method::POST, &path, body);
    let response = response.await.map_err(unreachable)?;
    // The owner says what is wrong, in the form of this API.
    let mut reply = response.status().into_response();
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            reply.headers_mut().insert(name, value.clone());
        }
    }
    let body = response.bytes().await.map_err(unreachable)?;
    *reply.body_mut() = body.into();
    Ok(reply)
}

/// Checks feedback against what the requests of its sender may use.
///
/// # Errors
/// 409 for a sender that is held to privacy zones, of which nothing is kept, and 403 for a task outside its scope.
fn check_feedback_scope(scope: &AccessScope, feedback: &Feedback) -> Result<(), ApiError> {
    if scope.zones.is_some() {
        return Err(feedback_failure(&FeedbackError::HeldToZones));
    }
    match feedback {
        Feedback::Task(task) if !scope.allows_task(task) => {
            Err(RequestError::task_outside_scope(task).into())
        }
        _ => Ok(()),
    }
}

/// The address of the other controller that made a decision. `None` if it is this one, if the controller is
/// not known, and where the request was forwarded already.
fn owner_address(state: &DecisionsState, id: &str, headers: &HeaderMap) -> Option<String> {
    if is_forwarded(headers) {
        return None;
    }
    let owner = DecisionLog::owner(id)?;
    let address = state.others.address(owner);
    address.filter(|_| owner != state.others.id)
}

/// The 404 for a decision that is not recorded.
fn missing(id: &str) -> ApiError {
    let error = FeedbackError::DecisionNotFound(id.into());
    feedback_failure(&error)
}

/// The error reply to feedback that is not kept.
fn feedback_failure(error: &FeedbackError) -> ApiError {
    let message = error.to_string();
    let conflict = |code, message| {
        let kind = "invalid_request_error";
        ApiError::new(StatusCode::CONFLICT, kind, Some(code), message)
    };
    match error {
        FeedbackError::DecisionNotFound(_) => {
            ApiError::not_found(Some("decision_not_found"), message)
        }
        FeedbackError::PromptNotHeld(_) => ApiError::not_found(Some("prompt_not_held"), message),
        FeedbackError::NoTask(_) | FeedbackError::NotLearning(_) => {
            conflict("not_learning", message)
        }
        FeedbackError::HeldToZones => conflict("held_to_zones", message),
        FeedbackError::TaskNotFound(_) => ApiError::invalid(Some("task".into()), message),
        FeedbackError::Overloaded => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded_error",
            Some("overloaded"),
            message,
        )
        .with_retry_after(FEEDBACK_RETRY_AFTER),
    }
}
