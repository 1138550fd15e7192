//! Serves the page: the files of `controller/dashboard/`, which are embedded in the binary.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
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
pub(crate) fn router() -> Router {
    let index = |headers: HeaderMap| async move { file("index.html", &headers) };
    let by_path =
        |Path(path): Path<String>, headers: HeaderMap| async move { file(&path, &headers) };
    Router::new()
        .route("/", get(async || Redirect::temporary("/dashboard/")))
        .route(
            "/dashboard",
            get(async || Redirect::temporary("/dashboard/")),
        )
        .route("/dashboard/", get(index))
        .route("/dashboard/{*path}", get(by_path))
}

fn file(path: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(file) = DashboardFiles::get(path) else {
        return (StatusCode::NOT_FOUND, "The page has no such file.\n").into_response();
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
