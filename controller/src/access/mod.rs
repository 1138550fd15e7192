//! Which requests this controller handles: the host and the origin that they name, the key or session that they present, and
//! what its role allows. Nothing behind it looks at keys again.

mod cookie;
mod hosts;
mod identified_request;
mod origins;

use std::sync::Arc;

use axum::response::Response;
use flotilla_core::generate::RequestError;
use flotilla_gateway::{AccessControl, ApiError, CorsOrigin};
use flotilla_identity::audit::{AuditRecord, is_refusal, recorded_text};
use flotilla_identity::keys::{
    Action, AuthError, Forbidden, Principal, Session, Subject, TokenUse, authenticate, authorize,
};
use flotilla_telemetry::clock::{unix_millis, unix_seconds};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode, Uri};

pub(crate) use cookie::set_session;
pub(crate) use hosts::AllowedHosts;
pub(crate) use identified_request::identified_request;

use crate::audit::{AuditLog, ChangedObjects, PendingRecord, object_at};
use crate::connections::Peer;
use crate::fleet::{FleetHandle, FleetView};

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
    /// The id of this controller.
    pub(crate) controller: Arc<str>,
    pub(crate) audit: AuditLog,
    /// The other origins whose web pages may use the API, except the admin API.
    pub(crate) origins: Arc<[CorsOrigin]>,
}

/// What is remembered of a request for its audit record.
pub(crate) struct ObservedRequest {
    method: Method,
    uri: Uri,
    peer: Option<Peer>,
    /// The fleet before a change. `None`: the request changes nothing that is recorded.
    before: Option<Arc<FleetView>>,
}

impl AccessControl for ControllerAccess {
    type Observation = ObservedRequest;

    fn observe(&self, request: &Parts, action: Option<Action>) -> ObservedRequest {
        let is_recorded = matches!(action, Some(Action::Operate | Action::Administer));
        let is_change = is_recorded && !request.method.is_safe();
        ObservedRequest {
            method: request.method.clone(),
            uri: request.uri.clone(),
            peer: request.extensions.get().copied(),
            before: is_change.then(|| self.fleet.view()),
        }
    }

    fn record(
        &self,
        observed: ObservedRequest,
        principal: Option<&Principal>,
        response: &Response,
    ) {
        let status = response.status().as_u16();
        if observed.before.is_none() && !is_refusal(status) {
            return;
        }
        let path = observed.uri.path();
        let changed = response.extensions().get::<ChangedObjects>();
        let objects = match changed {
            Some(ChangedObjects(objects)) => objects.clone(),
            None => object_at(path).into_iter().collect(),
        };
        let address = match observed.peer {
            Some(Peer::Address(address)) => address.ip().to_string(),
            Some(Peer::Socket { .. }) | None => String::new(),
        };
        let subject = principal.map_or(&Subject::Anonymous, |principal| &principal.subject);
        self.audit.record(PendingRecord {
            record: AuditRecord {
                at: unix_millis(),
                controller: self.controller.to_string(),
                principal: subject.to_string(),
                address,
                action: recorded_text(&format!("{} {path}", observed.method)),
                object: String::new(),
                status,
                before: None,
                after: None,
                lost_before: 0,
            },
            objects: objects.iter().map(|object| recorded_text(object)).collect(),
            views: observed.before.map(|before| (before, self.fleet.view())),
        });
    }

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
        let session = cookie::session(&request.headers);
        if header.is_none() && session.is_none() {
            return Err(unauthorized(AuthError::Missing));
        }
        let view = self.fleet.peek();
        if !view.synced {
            let message = "The keys are not known yet, as the store has not been read.";
            return Err(RequestError::NotReady(message.into()).into());
        }
        let now = unix_seconds();
        let secret = view.controller_secret.as_ref();
        let Some(header) = header else {
            let principal = session
                .zip(secret)
                .and_then(|(session, secret)| Session::verify(session, &view.keys, secret, now));
            let principal = principal.ok_or_else(|| unauthorized(AuthError::SessionEnded))?;
            if !request.method.is_safe() && !cookie::is_of_own_page(request) {
                return Err(not_own_page());
            }
            return Ok(principal);
        };
        let text = header.to_str().ok().and_then(credential);
        let text = text.ok_or_else(|| unauthorized(AuthError::Invalid))?;
        let path = request.uri.path_and_query();
        let request = TokenUse {
            method: request.method.as_str(),
            path: path.map_or("/", |path| path.as_str()),
        };
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
pub(crate) fn unauthorized(error: AuthError) -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_request_error",
        Some("invalid_api_key"),
        error.to_string(),
    )
}

/// The 403 for a change by a session from elsewhere than the controller's own page.
fn not_own_page() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "permission_error",
        Some("origin_not_allowed"),
        "A session is for the controller's own page alone: send an API key as `Authorization: Bearer KEY`.",
    )
}

/// The 403 for a key whose role does not allow a request.
pub(crate) fn forbidden(error: Forbidden) -> ApiError {
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
        for header in [
            "",
            "flt_a_b",
            "Basic flt_a_b",
            "Bearer",
            "Bearerflt_a_b",
            "Béarer x",
        ] {
            assert_eq!(credential(header), None, "{header}");
        }
    }
}
