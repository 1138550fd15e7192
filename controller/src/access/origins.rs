//! The origins whose web pages may use the API.
//!
//! A browser lets any page send simple requests to any server, such as a `POST` with a text, and only keeps the page
//! from reading the response. Such a request must not change anything, nor start an answer.

use flotilla_gateway::{ApiError, CorsOrigin, is_listed_origin};
use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::hosts::named_host;

/// Checks the origin of a request that may change something or start an answer. `listed` are the origins whose pages
/// may use the API, except the admin API.
///
/// # Errors
/// 403 for a page of another origin.
pub(super) fn check(request: &Parts, listed: &[CorsOrigin]) -> Result<(), ApiError> {
    if request.method.is_safe() {
        return Ok(());
    }
    let mut origins = request.headers.get_all(ORIGIN).iter();
    let path = request.uri.path();
    let is_allowed = |origin: &HeaderValue| {
        is_own(origin, named_host(request)) || is_listed_origin(listed, origin, path)
    };
    let Some(refused) = origins.find(|origin| !is_allowed(origin)) else {
        return Ok(());
    };
    let origin = String::from_utf8_lossy(refused.as_bytes());
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "permission_error",
        Some("origin_not_allowed"),
        format!(
            "Web pages of the origin '{origin}' may not send this request: start the controllers with --cors-origin ORIGIN if they should use models. Changes of the fleet are for the controller's own page alone."
        ),
    ))
}

/// Whether a request names an origin, and that of the controller's own page.
pub(super) fn names_own(request: &Parts) -> bool {
    let origin = request.headers.get(ORIGIN);
    origin.is_some_and(|origin| is_own(origin, named_host(request)))
}

/// Whether an origin is that of the controller's own page, which is at the `host` that the request names. A proxy may
/// have added TLS, so that the scheme may differ.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    origin
        .zip(host)
        .is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn is_allowed(method: &str, path: &str, origin: Option<&str>) -> bool {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "fleet:8080");
        let request = match origin {
            Some(origin) => request.header(ORIGIN, origin),
            None => request,
        };
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, &["https://chat.example".parse().unwrap()]).is_ok()
    }

    #[test]
    fn pages_of_other_origins_start_nothing_and_change_nothing() {
        let own = Some("http://fleet:8080");
        let listed = Some("https://chat.example");
        for path in ["/v1/chat/completions", "/api/v1/apply"] {
            assert!(
                is_allowed("POST", path, None),
                "clients that are no browsers"
            );
            assert!(is_allowed("POST", path, own));
            for foreign in [
                "https://evil.example",
                "null",
                "http://fleet:9090",
                "http://fleet",
            ] {
                assert!(!is_allowed("POST", path, Some(foreign)), "{foreign}");
                assert!(!is_allowed("DELETE", path, Some(foreign)), "{foreign}");
                assert!(is_allowed("GET", path, Some(foreign)), "{foreign}");
            }
        }
        assert!(is_allowed("POST", "/v1/chat/completions", listed));
        assert!(!is_allowed("POST", "/api/v1/apply", listed));
    }
}
