//! Which requests this controller handles: the host and the origin that they name, the key that they present, and
//! what its role allows. Nothing behind it looks at keys again.

mod hosts;
mod identified_request;
mod origins;

use std::sync::Arc;

use flotilla_core::generate::RequestError;
use flotilla_gateway::{AccessControl, ApiError, CorsOrigin};
use flotilla_identity::keys::{
    Action, AuthError, Forbidden, Principal, Subject, TokenUse, authenticate, authorize,
};
use flotilla_telemetry::clock::unix_seconds;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::request::Parts;

pub(crate) use hosts::AllowedHosts;
pub(crate) use identified_request::identified_request;

use crate::connections::Peer;
use crate::fleet::FleetHandle;

/// The scheme of keys in the header `Authorization`.
const SCHEME: &str = "Bearer ";

/// Decides which requests this controller handles. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ControllerAccess {
    pub(crate) fleet: FleetHandle,
    /// Whether requests need a key.
    pub(crate) require_keys: bool,
    /// The hosts that requests may name.
    pub(crate) hosts: Arc<AllowedHosts>,
    /// The other origins whose web pages may use the API, except the admin API.
    pub(crate) origins: Arc<[CorsOrigin]>,
}

impl AccessControl for ControllerAccess {
    fn admit(&self, request: &Parts, action: Option<Action>) -> Result<Principal, ApiError> {
        if let Some(Peer::Socket { user }) = request.extensions.get() {
            return Ok(Principal::admin(Subject::SocketUser(*user)));
        }
        self.hosts.check(request)?;
        origins::check(request, &self.origins)?;
        if !self.require_keys {
            return Ok(Principal::admin(Subject::Anonymous));
        }
        // Whether there is something at a path is nothing that strangers need to know.
        let action = action.unwrap_or(Action::Identified);
        if action == Action::Public {
            return Ok(Principal::nobody());
        }
        let principal = self.identify(request)?;
        authorize(&principal, action).map_err(forbidden)?;
        Ok(principal)
    }
}

impl ControllerAccess {
    /// Returns who sends a request.
    ///
    /// # Errors
    /// 401 without a valid key, and 503 while the keys are not known.
    fn identify(&self, request: &Parts) -> Result<Principal, ApiError> {
        let header = request.headers.get(AUTHORIZATION);
        let header = header.ok_or_else(|| unauthorized(AuthError::Missing))?;
        let text = header.to_str().ok().and_then(credential);
        let text = text.ok_or_else(|| unauthorized(AuthError::Invalid))?;
        let view = self.fleet.peek();
        if !view.synced {
            let message = "The keys are not known yet, as the store has not been read.";
            return Err(RequestError::NotReady(message.into()).into());
        }
        let now = unix_seconds();
        let path = request.uri.path_and_query();
        let request = TokenUse {
            method: request.method.as_str(),
            path: path.map_or("/", |path| path.as_str()),
        };
        let secret = view.controller_secret.as_ref();
        if secret.is_some_and(|secret| secret.verify(text, request, now)) {
            return Ok(Principal::admin(Subject::Controller));
        }
        authenticate(text, &view.keys, now).map_err(unauthorized)
    }
}

/// The key in the value of an `Authorization` header.
fn credential(header: &str) -> Option<&str> {
    let scheme = header.get(..SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME);
    is_bearer.then(|| header[SCHEME.len()..].trim())
}

/// The 401 for a request without a valid key.
fn unauthorized(error: AuthError) -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_request_error",
        Some("invalid_api_key"),
        error.to_string(),
    )
}

/// The 403 for a key whose role does not allow a request.
fn forbidden(error: Forbidden) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "permission_error",
        Some("insufficient_permissions"),
        format!("The API key may not do this: {error}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_the_header_of_openai_clients() {
        assert_eq!(credential("Bearer flt_a_b"), Some("flt_a_b"));
        assert_eq!(credential("bearer  flt_a_b "), Some("flt_a_b"));
        for header in ["", "flt_a_b", "Basic flt_a_b", "Bearer", "Bearerflt_a_b", "Béarer x"] {
            assert_eq!(credential(header), None, "{header}");
        }
    }
}
