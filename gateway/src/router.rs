//! The routes of the API.

use std::any::Any;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use flotilla_telemetry::trace::Tracer;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;
use tower::layer::layer_fn;
use tower_http::catch_panic::CatchPanicLayer;

use crate::chat::ChatBody;
use crate::completions::CompletionBody;
use crate::embeddings::EmbeddingBody;
use crate::json_body::{read_json, read_json_pair};
use crate::json_response::json_response;
use crate::trace_service::TraceService;
use crate::{ApiError, Backend, chat, completions, embeddings, models};

/// Limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Maximum size of a request body, in bytes. Default: 4 MiB.
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

/// Builds the OpenAI-compatible API over `backend`, with `/healthz` and `/readyz`. Every other path
/// returns 404 in OpenAI's error shape, and a panic of a handler 500. `tracer` records the requests that
/// it samples.
pub fn router<B: Backend>(backend: B, limits: RequestLimits, tracer: Tracer) -> Router {
    let state = GatewayState { backend, limits };
    let only = |route: MethodRouter<GatewayState<B>>| route.fallback(method_not_allowed);
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
        .route("/readyz", only(get(get_readiness)))
        .fallback(path_not_found)
        .with_state(state)
        .layer(CatchPanicLayer::custom(internal_error))
}

async fn chat_completions<B: Backend>(
    State(state): State<GatewayState<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (chat, sampling) = read_json_pair::<ChatBody, _>(body, state.limits.max_body_bytes).await?;
    let (request, include_usage) = chat.validate(sampling, &headers)?;
    chat::answer(&state.backend, request, include_usage).await
}

async fn text_completions<B: Backend>(
    State(state): State<GatewayState<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let max_bytes = state.limits.max_body_bytes;
    let (completion, sampling) = read_json_pair::<CompletionBody, _>(body, max_bytes).await?;
    completions::answer(&state.backend, completion.validate(sampling, &headers)?).await
}

async fn create_embeddings<B: Backend>(
    State(state): State<GatewayState<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body: EmbeddingBody = read_json(body, state.limits.max_body_bytes).await?;
    embeddings::answer(&state.backend, body, &headers).await
}

async fn list_models<B: Backend>(State(state): State<GatewayState<B>>) -> Response {
    models::list(&state.backend)
}

async fn get_model<B: Backend>(
    State(state): State<GatewayState<B>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    models::get(&state.backend, &name)
}

async fn get_readiness<B: Backend>(State(state): State<GatewayState<B>>) -> Response {
    #[derive(Serialize)]
    struct ReadinessJson {
        ready: bool,
        notes: Vec<String>,
    }
    let readiness = state.backend.readiness();
    let mut response = json_response(&ReadinessJson {
        ready: readiness.ready,
        notes: readiness.notes,
    });
    if !readiness.ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn path_not_found(uri: Uri) -> Response {
    ApiError::not_found(None, format!("There is nothing at '{}'.", uri.path())).into_response()
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        Some("method_not_allowed"),
        format!("'{}' does not accept the method {method}.", uri.path()),
    )
    .into_response()
}

/// Returns the response to a request whose handler panicked. The panic hook has logged the message; it
/// is not sent to the client.
fn internal_error(_panic: Box<dyn Any + Send>) -> Response {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        Some("internal_error"),
        "The server failed to handle the request because of an internal error; its log has the details.",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendAnswer, BackendError, EventStream, ModelCard, Readiness};
    use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, Route};
    use flotilla_telemetry::Telemetry;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    #[derive(Clone)]
    struct PanickingBackend;

    impl Backend for PanickingBackend {
        async fn generate(
            &self,
            _request: GenerateRequest<Route>,
        ) -> Result<BackendAnswer<EventStream>, BackendError> {
            panic!("a defect")
        }

        async fn embed(
            &self,
            _request: EmbedRequest<Route>,
        ) -> Result<BackendAnswer<Embeddings>, BackendError> {
            panic!("a defect")
        }

        fn models(&self) -> Vec<ModelCard> {
            Vec::new()
        }

        fn model(&self, _name: &str) -> Option<ModelCard> {
            None
        }

        fn readiness(&self) -> Readiness {
            Readiness {
                ready: true,
                notes: Vec::new(),
            }
        }
    }

    #[tokio::test]
    async fn panic_of_a_handler_is_an_error_response() {
        let tracer = Telemetry::disabled().tracer();
        let router = router(PanickingBackend, RequestLimits::default(), tracer);
        let body = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
        let request = http::Request::post("/v1/chat/completions")
            .body(Body::from(body))
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["error"]["code"], "internal_error");
    }
}
