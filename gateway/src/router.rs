//! The routes of the API.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use flotilla_identity::keys::Action;
use flotilla_telemetry::trace::Tracer;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use tower::layer::layer_fn;

use crate::chat::{ChatBody, ChatCompletion};
use crate::completions::{CompletionBody, TextCompletion};
use crate::embeddings::{EmbeddingBody, EmbeddingList};
use crate::error::{ErrorBody, NOT_READY_RETRY};
use crate::json_body::{read_json, read_json_parts};
use crate::json_response::json_response;
use crate::models::{ModelJson, ModelList};
use crate::sampling::SamplingFields;
use crate::trace_service::TraceService;
use crate::{
    ApiError, ApiPath, ApiRoutes, Backend, Caller, Operation, chat, completions, embeddings, models,
};

/// Configuration of the API.
#[derive(Debug, Clone, Copy)]
pub struct ApiConfig {
    /// Maximum size of a request body, in bytes. Default: 4 MiB.
    pub max_body_bytes: usize,
    /// The longest silence of a stream, after which a comment is sent. Default: 10 s.
    pub stream_keep_alive: Duration,
    /// Whether the list of models has `auto` and the tasks too. Default: yes.
    pub list_tasks: bool,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
            stream_keep_alive: Duration::from_secs(10),
            list_tasks: true,
        }
    }
}

#[derive(Clone)]
struct GatewayState<B> {
    backend: B,
    config: ApiConfig,
}

/// Whether requests can be answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Readiness")]
struct ReadinessJson {
    ready: bool,
    notes: Vec<String>,
    /// The same for clients that read errors in OpenAI's shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

/// Errors of requests that a model answers.
const INFERENCE_ERRORS: [u16; 7] = [403, 404, 429, 502, 503, 504, 500];
/// The content type of streams.
const EVENT_STREAM: &str = "text/event-stream";

/// Builds the OpenAI-compatible API over `backend`, with `/healthz` and `/readyz`. `tracer` records the
/// requests that it samples. A server adds [`add_edge`](crate::add_edge) to all its routes.
pub fn router<B: Backend>(backend: B, config: ApiConfig, tracer: Tracer) -> ApiRoutes {
    let operation = |method, path, summary| Operation::new(Action::Infer, method, path, summary);
    let public = |path, summary| Operation::new(Action::Public, "get", path, summary);
    let chat = operation("post", "/v1/chat/completions", "Answers a conversation")
        .body_pair::<ChatBody, SamplingFields>()
        .returns::<ChatCompletion<'_>>(200)
        .returns_raw(200, EVENT_STREAM)
        .errors(&INFERENCE_ERRORS);
    let completion = operation("post", "/v1/completions", "Continues texts")
        .body_pair::<CompletionBody, SamplingFields>()
        .returns::<TextCompletion<'_>>(200)
        .returns_raw(200, EVENT_STREAM)
        .errors(&INFERENCE_ERRORS);
    let embedding = operation("post", "/v1/embeddings", "Returns the vectors of texts")
        .body::<EmbeddingBody>()
        .returns::<EmbeddingList<'_>>(200)
        .errors(&INFERENCE_ERRORS);
    let mut inference = ApiRoutes::new()
        .route(chat, post(chat_completions))
        .route(completion, post(text_completions))
        .route(embedding, post(create_embeddings));
    if tracer.is_enabled() {
        inference = inference.map_router(|router| {
            router.route_layer(layer_fn(move |inner| TraceService {
                tracer: tracer.clone(),
                inner,
            }))
        });
    }
    let models = operation(
        "get",
        "/v1/models",
        "Lists the models, the tasks and `auto`",
    )
    .returns::<ModelList>(200)
    .errors(&[503]);
    let model = operation(
        "get",
        "/v1/models/{name}",
        "Returns a model, a task or `auto`",
    )
    .returns::<ModelJson>(200)
    .errors(&[404, 503]);
    let health = public("/healthz", "Whether the process lives")
        .returns_raw(200, "text/plain; charset=utf-8");
    let readiness = public("/readyz", "Whether requests can be answered")
        .returns::<ReadinessJson>(200)
        .returns::<ReadinessJson>(503);
    inference
        .route(models, get(list_models))
        .route(model, get(get_model))
        .route(health, get(async || "ok\n"))
        .route(readiness, get(get_readiness))
        .with_state(GatewayState { backend, config })
}

async fn chat_completions<B: Backend>(
    State(state): State<GatewayState<B>>,
    caller: Caller,
    body: Body,
) -> Result<Response, ApiError> {
    let max_bytes = state.config.max_body_bytes;
    let (chat, sampling, extra) = read_json_parts::<ChatBody>(body, max_bytes).await?;
    let (request, include_usage) = chat.validate(sampling, extra, &caller)?;
    let keep_alive = state.config.stream_keep_alive;
    chat::answer(&state.backend, request, include_usage, keep_alive).await
}

async fn text_completions<B: Backend>(
    State(state): State<GatewayState<B>>,
    caller: Caller,
    body: Body,
) -> Result<Response, ApiError> {
    let max_bytes = state.config.max_body_bytes;
    let (completion, sampling, extra) = read_json_parts::<CompletionBody>(body, max_bytes).await?;
    let request = completion.validate(sampling, extra, &caller)?;
    completions::answer(&state.backend, request, state.config.stream_keep_alive).await
}

async fn create_embeddings<B: Backend>(
    State(state): State<GatewayState<B>>,
    caller: Caller,
    body: Body,
) -> Result<Response, ApiError> {
    let body: EmbeddingBody = read_json(body, state.config.max_body_bytes).await?;
    embeddings::answer(&state.backend, body, &caller).await
}

async fn list_models<B: Backend>(
    State(state): State<GatewayState<B>>,
    Caller { principal, .. }: Caller,
) -> Result<Response, ApiError> {
    models::list(&state.backend, &principal.scope, state.config.list_tasks)
}

async fn get_model<B: Backend>(
    State(state): State<GatewayState<B>>,
    ApiPath(name): ApiPath<String>,
    Caller { principal, .. }: Caller,
) -> Result<Response, ApiError> {
    models::get(&state.backend, &principal.scope, &name)
}

async fn get_readiness<B: Backend>(State(state): State<GatewayState<B>>) -> Response {
    let readiness = state.backend.readiness();
    let error = (!readiness.ready).then(|| {
        let message = match readiness.notes.is_empty() {
            true => "The controller is not ready yet.".to_owned(),
            false => readiness.notes.join("; "),
        };
        ErrorBody::not_ready(message)
    });
    let mut response = json_response(&ReadinessJson {
        ready: readiness.ready,
        notes: readiness.notes,
        error,
    });
    if !readiness.ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let seconds = HeaderValue::from(NOT_READY_RETRY.as_secs());
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::OpenAccess;
    use crate::add_edge;
    use crate::backend::{BackendAnswer, BackendError, EventStream, ModelCard, Readiness};
    use flotilla_core::access::AccessScope;
    use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, Route, RouteTarget};
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

        fn models(&self, _access: &AccessScope) -> Vec<ModelCard> {
            Vec::new()
        }

        fn model(&self, _target: &RouteTarget, _access: &AccessScope) -> Option<ModelCard> {
            None
        }

        fn answer_timeout(&self) -> Duration {
            Duration::from_secs(60)
        }

        fn readiness(&self) -> Readiness {
            Readiness {
                ready: false,
                notes: Vec::new(),
            }
        }
    }

    #[tokio::test]
    async fn panic_of_a_handler_is_an_error_response() {
        let tracer = Telemetry::disabled().tracer();
        let router = add_edge(
            router(PanickingBackend, ApiConfig::default(), tracer),
            &[],
            OpenAccess,
        );
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

    #[tokio::test]
    async fn controller_that_is_not_ready_says_when_to_ask_again() {
        let tracer = Telemetry::disabled().tracer();
        let router = add_edge(
            router(PanickingBackend, ApiConfig::default(), tracer),
            &[],
            OpenAccess,
        );
        for path in ["/readyz", "/v1/models"] {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 503, "{path}");
            assert_eq!(response.headers()[RETRY_AFTER], "1", "{path}");
        }
    }
}
