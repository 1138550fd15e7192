//! The page: files of `dashboard/`, in the binary.

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

/// What every file of the page is sent with: it loads nothing from elsewhere, and is asked for anew
/// each time, as another controller may be another version.
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

/// The routes of the page.
pub(crate) fn router() -> Router {
    let index = |headers: HeaderMap| async move { file("index.html", &headers) };
    let any = |Path(path): Path<String>, headers: HeaderMap| async move { file(&path, &headers) };
    Router::new()
        .route("/", get(async || Redirect::temporary("/dashboard/")))
        .route(
            "/dashboard",
            get(async || Redirect::temporary("/dashboard/")),
        )
        .route("/dashboard/", get(index))
        .route("/dashboard/{*path}", get(any))
}

fn file(path: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(file) = DashboardFiles::get(path) else {
        return (
            StatusCode::NOT_FOUND,
            "There is no such file in the page.\n",
        )
            .into_response();
    };
    let tag = tag(&file);
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Body::from(file.data).into_response()
    };
    let to = response.headers_mut();
    to.extend(HEADERS);
    if let Ok(kind) = HeaderValue::from_str(file.metadata.mimetype()) {
        to.insert(CONTENT_TYPE, kind);
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        to.insert(ETAG, tag);
    }
    response
}

fn tag(file: &EmbeddedFile) -> String {
    format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..8]))
}
