//! Which path leads where.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use flotilla_core::TaskName;
use flotilla_telemetry::trace::Tracer;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::Serialize;
use tower::layer::layer_fn;

use crate::chat::{ChatBody, json_response};
use crate::completions::CompletionBody;
use crate::embeddings::EmbeddingBody;
use crate::traced::TraceService;
use crate::{ApiError, Backend, ServedBy, body, chat, completions, embeddings, models};

/// What a request may be at most.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Size of a request's body in bytes.
    pub max_body_bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
        }
    }
}

#[derive(Clone)]
struct GatewayState<B> {
    backend: B,
    limits: RequestLimits,
}

/// The OpenAI-compatible API over `backend`, with `/healthz` and `/readyz`. Anything else is
/// answered 404 in OpenAI's shape. Requests that are sampled are traced by `tracer`.
pub fn router<B: Backend>(backend: B, limits: RequestLimits, tracer: Tracer) -> Router {
    let app = GatewayState { backend, limits };
    let only = |route: MethodRouter<GatewayState<B>>| route.fallback(wrong_method);
    let mut inference = Router::new()
        .route("/v1/chat/completions", only(post(chat_completions)))
        .route("/v1/completions", only(post(text_completions)))
        .route("/v1/embeddings", only(post(create_embeddings)));
    if tracer.is_enabled() {
        inference = inference.route_layer(layer_fn(move |inner| TraceService {
            tracer: tracer.clone(),
            inner,
        }));
    }
    inference
        .route("/v1/models", only(get(list_models)))
        .route("/v1/models/{name}", only(get(get_model)))
        .route("/healthz", only(get(async || "ok\n")))
        .route("/readyz", only(get(ready)))
        .fallback(wrong_path)
        .with_state(app)
}

/// Says on the response who answered, what for, and how many were asked.
pub(crate) fn tag(response: &mut Response, by: &ServedBy) {
    const MODEL: HeaderName = HeaderName::from_static("x-flotilla-model");
    const NODE: HeaderName = HeaderName::from_static("x-flotilla-node");
    const ATTEMPTS: HeaderName = HeaderName::from_static("x-flotilla-attempts");
    const TASK: HeaderName = HeaderName::from_static("x-flotilla-task");
    let attempts = HeaderValue::from(by.attempts);
    response.headers_mut().insert(ATTEMPTS, attempts);
    let named = [
        (MODEL, Some(by.model.as_str())),
        (TASK, by.task.as_ref().map(TaskName::as_str)),
        (NODE, Some(by.node.as_str())),
        (DECISION, Some(by.decision_id.as_str())),
    ];
    for (name, value) in named {
        // Names are made of characters that headers may hold.
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// Under which name a decision is on record.
pub(crate) const DECISION: HeaderName = HeaderName::from_static("x-flotilla-decision");

async fn chat_completions<B: Backend>(
    State(app): State<GatewayState<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (chat, sampling) = body::read_two::<ChatBody, _>(body, app.limits.max_body_bytes).await?;
    let include_usage = chat.include_usage();
    let request = chat.check(sampling, &headers)?;
    chat::answer(&app.backend, request, include_usage).await
}

async fn text_completions<B: Backend>(
    State(app): State<GatewayState<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (completion, sampling) =
        body::read_two::<CompletionBody, _>(body, app.limits.max_body_bytes).await?;
    completions::answer(&app.backend, completion.check(sampling, &headers)?).await
}

async fn create_embeddings<B: Backend>(
    State(app): State<GatewayState<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body: EmbeddingBody = body::read_json(body, app.limits.max_body_bytes).await?;
    embeddings::answer(&app.backend, body, &headers).await
}

async fn list_models<B: Backend>(State(app): State<GatewayState<B>>) -> Response {
    models::list(&app.backend)
}

async fn get_model<B: Backend>(
    State(app): State<GatewayState<B>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    models::get(&app.backend, &name)
}

async fn ready<B: Backend>(State(app): State<GatewayState<B>>) -> Response {
    #[derive(Serialize)]
    struct ReadyJson {
        ready: bool,
        notes: Vec<String>,
    }
    let readiness = app.backend.readiness();
    let mut response = json_response(&ReadyJson {
        ready: readiness.ready,
        notes: readiness.notes,
    });
    if !readiness.ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn wrong_path(uri: Uri) -> Response {
    ApiError::not_found(None, format!("There is nothing at '{}'.", uri.path())).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        Some("method_not_allowed"),
        format!("'{}' does not take the method {method}.", uri.path()),
    )
    .into_response()
}
