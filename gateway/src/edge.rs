//! What all routes of a server share: errors in OpenAI's shape whatever fails, compressed request
//! bodies, the check of who sends a request, and access for web pages of other origins.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode, Uri};
use tower::layer::layer_fn;
use tower::util::MapResponseLayer;
use tower_http::catch_panic::CatchPanicLayer;

use crate::access::{AccessControl, check_access};
use crate::cors::{CorsOrigin, cors};
use crate::decompression::Decompression;
use crate::{ApiError, ApiRoutes};

/// Adds to the routes of a server what all of them share. `origins` are those whose web pages may use the
/// API, except the admin API; `access` decides which requests are handled.
pub fn add_edge(routes: ApiRoutes, origins: &[CorsOrigin], access: impl AccessControl) -> Router {
    let (router, actions) = routes.into_router();
    let actions = Arc::new(actions);
    let check = move |request, next| check_access(access.clone(), actions.clone(), request, next);
    let routes = router
        .fallback(path_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layer_fn(Decompression))
        .layer(from_fn(check))
        .layer(CatchPanicLayer::custom(internal_error))
        .layer(MapResponseLayer::new(with_json_error));
    if origins.is_empty() {
        return routes;
    }
    routes.layer(cors(origins))
}

async fn path_not_found(uri: Uri) -> ApiError {
    ApiError::not_found(None, format!("There is nothing at '{}'.", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        Some("method_not_allowed"),
        format!("'{}' does not accept the method {method}.", uri.path()),
    )
}

/// Returns the response to a request whose handler panicked. The panic hook has logged the message; it
/// is not sent to the client.
fn internal_error(_panic: Box<dyn Any + Send>) -> Response {
    ApiError::internal().into_response()
}

/// Replaces the body of an error that is not JSON, as those of layers are.
fn with_json_error(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let content_type = response.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json")) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let (code, message) = match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (
            Some("unsupported_encoding"),
            "The content encoding of the request body is not supported: use 'gzip', 'zstd' or none.",
        ),
        _ => (
            None,
            status.canonical_reason().unwrap_or("The request failed."),
        ),
    };
    let kind = if status.is_client_error() {
        "invalid_request_error"
    } else {
        "server_error"
    };
    let error = ApiError::new(status, kind, code, message);
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let json = HeaderValue::from_static("application/json");
    parts.headers.insert(CONTENT_TYPE, json);
    Response::from_parts(parts, Body::from(error.json()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use http::Request;
    use http::header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ALLOW,
    };
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use crate::access::tests::OpenAccess;
    use crate::{ApiPath, ApiQuery, read_json};

    #[derive(serde::Deserialize)]
    struct WatchQuery {
        #[serde(default)]
        #[expect(dead_code, reason = "only the query's shape is tested")]
        watch: bool,
    }

    async fn read(body: Body) -> Result<String, ApiError> {
        let value: serde_json::Value = read_json(body, 1_000).await?;
        Ok(value.to_string())
    }

    fn server(origins: &[&str]) -> Router {
        let routes = Router::new()
            .route("/v1/read", post(read))
            .route("/api/v1/read", post(read))
            .route("/panic", get(async || -> () { panic!("a defect") }))
            .route(
                "/path/{name}",
                get(async |ApiPath(name): ApiPath<String>| name),
            )
            .route(
                "/query",
                get(async |ApiQuery(_): ApiQuery<WatchQuery>| "ok"),
            )
            .route("/plain", get(async || (StatusCode::CONFLICT, "plain text")));
        let origins: Vec<_> = origins.iter().map(|o| o.parse().unwrap()).collect();
        add_edge(
            ApiRoutes::new().map_router(|_| routes),
            &origins,
            OpenAccess,
        )
    }

    async fn send(server: Router, request: http::request::Builder, body: &[u8]) -> Response {
        let request = request.body(Body::from(body.to_vec())).unwrap();
        server.oneshot(request).await.unwrap()
    }

    async fn json(response: Response) -> serde_json::Value {
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn every_error_has_the_shape_of_openai() {
        for (method, path, status) in [
            ("GET", "/nowhere", 404),
            ("GET", "/%FF", 404),
            ("DELETE", "/v1/read", 405),
            ("OPTIONS", "/v1/read", 405),
            ("GET", "/path/%FF", 400),
            ("GET", "/query?watch=maybe", 400),
            ("GET", "/panic", 500),
            ("GET", "/plain", 409),
            ("POST", "/v1/read", 400),
        ] {
            let request = Request::builder().method(method).uri(path);
            let response = send(server(&[]), request, b"").await;
            assert_eq!(response.status(), status, "{method} {path}");
            let body = json(response).await;
            assert!(
                body["error"]["message"].is_string(),
                "{method} {path}: {body}"
            );
            assert!(body["error"]["type"].is_string(), "{method} {path}: {body}");
        }
        let request = Request::delete("/v1/read");
        let response = send(server(&[]), request, b"").await;
        assert_eq!(response.headers()[ALLOW], "POST");
    }

    #[tokio::test]
    async fn compressed_bodies_are_read_and_their_limit_counts_what_they_hold() {
        // `{"a": 1}`
        let small_gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x4a\x54\xb2\x52\x30\xac\x05\x00\x97\x8e\xa1\xfb\x08\x00\x00\x00";
        let small_zstd = b"\x28\xb5\x2f\xfd\x20\x08\x41\x00\x00{\"a\": 1}";
        for (encoding, body) in [("gzip", &small_gzip[..]), ("zstd", &small_zstd[..])] {
            let request = Request::post("/v1/read").header("content-encoding", encoding);
            let response = send(server(&[]), request, body).await;
            assert_eq!(response.status(), 200, "{encoding}");
        }
        // A block of 128 KiB that repeats one space.
        let bomb = b"\x28\xb5\x2f\xfd\xa0\x00\x00\x02\x00\x03\x00\x10\x20";
        let request = Request::post("/v1/read").header("content-encoding", "zstd");
        let response = send(server(&[]), request, bomb).await;
        assert_eq!(response.status(), 413);
        let request = Request::post("/v1/read").header("content-encoding", "gzip");
        let response = send(server(&[]), request, b"{}").await;
        assert_eq!(response.status(), 400);
        let request = Request::post("/v1/read").header("content-encoding", "br");
        let response = send(server(&[]), request, b"{}").await;
        assert_eq!(response.status(), 415);
        let body = json(response).await;
        assert_eq!(body["error"]["code"], "unsupported_encoding");
    }

    #[tokio::test]
    async fn pages_of_listed_origins_may_use_the_api_but_not_the_admin_api() {
        let preflight = |path: &str, origin: &str| {
            Request::builder()
                .method("OPTIONS")
                .uri(path)
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header(
                    "access-control-request-headers",
                    "authorization,x-flotilla-task",
                )
        };
        let allowed = "https://chat.example";
        let response = send(server(&[allowed]), preflight("/v1/read", allowed), b"").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], allowed);
        let headers = response.headers()[ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .unwrap();
        assert!(headers.contains("authorization") && headers.contains("x-flotilla-task"));

        let request = Request::post("/v1/read").header("origin", allowed);
        let response = send(server(&[allowed]), request, b"{}").await;
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], allowed);
        let exposed = response.headers()[ACCESS_CONTROL_EXPOSE_HEADERS]
            .to_str()
            .unwrap();
        assert!(exposed.contains("x-flotilla-decision") && exposed.contains("retry-after"));

        for (origins, path, origin) in [
            (
                &["https://chat.example"][..],
                "/v1/read",
                "https://other.example",
            ),
            (&["https://chat.example"][..], "/api/v1/read", allowed),
            (&["*"][..], "/api/v1/read", allowed),
            (&[][..], "/v1/read", allowed),
        ] {
            let response = send(server(origins), preflight(path, origin), b"").await;
            let granted = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert!(granted.is_none(), "{origins:?} {path} {origin}");
        }
        let response = send(server(&["*"]), preflight("/v1/read", "http://any"), b"").await;
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN],
            "http://any"
        );
    }
}
