//! Serves the page: the files of `controller/dashboard/`, which are embedded in the binary.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use flotilla_gateway::{ApiError, ApiPath, ApiRoutes, Operation};
use flotilla_identity::keys::Action;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "dashboard"]
struct DashboardFiles;

/// Headers of every file. The page loads nothing from other servers, and browsers revalidate it on
/// every load, as a controller of another version may answer next.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"),
    ),
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    ),
];

/// The routes of the page, below `/dashboard/`; `/` redirects there.
pub(crate) fn router() -> ApiRoutes {
    let index = |headers: HeaderMap| async move { file("index.html", &headers) };
    let by_path =
        |ApiPath(path): ApiPath<String>, headers: HeaderMap| async move { file(&path, &headers) };
    let redirect = || get(async || Redirect::temporary("/dashboard/"));
    let page = |path, summary| Operation::new(Action::Public, "get", path, summary);
    ApiRoutes::new()
        .route(
            page("/", "Redirects to the page").returns_nothing(307),
            redirect(),
        )
        .route(
            page("/dashboard", "Redirects to the page").returns_nothing(307),
            redirect(),
        )
        .route(
            page("/dashboard/", "Returns the page").returns_raw(200, "text/html"),
            get(index),
        )
        .route(
            page("/dashboard/{*path}", "Returns a file of the page")
                .returns_raw(200, "*/*")
                .errors(&[404]),
            get(by_path),
        )
}

fn file(path: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(file) = DashboardFiles::get(path) else {
        return ApiError::not_found(None, "The page has no such file.").into_response();
    };
    let etag = etag(&file);
    let is_cached = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|cached| cached.as_bytes() == etag.as_bytes());
    let mut response = if is_cached {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(file.data).into_response()
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    if let Ok(mime_type) = HeaderValue::from_str(file.metadata.mimetype()) {
        headers.insert(CONTENT_TYPE, mime_type);
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    response
}

fn etag(file: &EmbeddedFile) -> String {
    format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..8]))
}
