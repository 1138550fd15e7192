//! JSON responses.

use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;

/// Returns a response with status 200 and `value` as its JSON body.
pub(crate) fn json_response(value: &impl Serialize) -> Response {
    let mut json = Vec::with_capacity(512);
    // Cannot fail: it writes to memory, and the API's types hold only strings, numbers and lists.
    let _ = serde_json::to_writer(&mut json, value);
    let mut response = Response::new(json.into());
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
