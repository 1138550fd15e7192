//! Access for web pages of other origins.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::headers;

/// How long a browser may keep the answer to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);
/// The beginning of the paths that no page of another origin may use: whoever reaches the controller can
/// change the fleet there.
const ADMIN_PATHS: &str = "/api/";

/// An origin whose web pages may use the API: `https://HOST`, `http://HOST:PORT`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// Every origin.
    Any,
    /// The origin as browsers send it.
    Exact(HeaderValue),
}

/// The error for a text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsOriginError;

impl fmt::Display for CorsOriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an origin is '*' or SCHEME://HOST[:PORT] in lower case, without a path")
    }
}

impl std::error::Error for CorsOriginError {}

impl FromStr for CorsOrigin {
    type Err = CorsOriginError;

    fn from_str(text: &str) -> Result<Self, CorsOriginError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, host) = text.split_once("://").ok_or(CorsOriginError)?;
        let is_valid = !scheme.is_empty()
            && !host.is_empty()
            && !host.contains(['/', '?', '#', '@', '*'])
            && text
                .chars()
                .all(|c| c.is_ascii_graphic() && !c.is_ascii_uppercase());
        let value = HeaderValue::from_str(text).ok().filter(|_| is_valid);
        value.map(Self::Exact).ok_or(CorsOriginError)
    }
}

/// Whether `listed` has an origin whose pages use `path`. The admin API is for no other origin.
#[must_use]
pub fn is_listed_origin(listed: &[CorsOrigin], origin: &HeaderValue, path: &str) -> bool {
    let is_listed = |listed: &CorsOrigin| match listed {
        CorsOrigin::Any => true,
        CorsOrigin::Exact(exact) => exact == origin,
    };
    !path.starts_with(ADMIN_PATHS) && listed.iter().any(is_listed)
}

/// Returns the layer that lets pages of these origins use the API, except the admin API.
pub(crate) fn cors(origins: &[CorsOrigin]) -> CorsLayer {
    let origins = origins.to_vec();
    let is_allowed = move |origin: &HeaderValue, request: &Parts| {
        is_listed_origin(&origins, origin, request.uri.path())
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_methods([Method::GET, Method::POST, Method::HEAD])
        // Clients add headers of their own, such as those of OpenAI's clients that name their version.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            headers::RESPONSE
                .into_iter()
                .chain([RETRY_AFTER])
                .collect::<Vec<_>>(),
        )
        .max_age(PREFLIGHT_MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_no_path() {
        for text in [
            "*",
            "https://a.example",
            "http://localhost:3000",
            "app://desktop",
        ] {
            assert!(text.parse::<CorsOrigin>().is_ok(), "{text}");
        }
        for text in [
            "",
            "a.example",
            "https://",
            "https://a/",
            "https://A",
            "http://a b",
            "https://*.a",
        ] {
            assert!(text.parse::<CorsOrigin>().is_err(), "{text}");
        }
    }
}
