//! Who sends a request: decided once, before the request is handled, and handed on as a value.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flotilla_core::generate::Route;
use flotilla_identity::keys::{Action, Principal, Subject};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Method};
use xxhash_rust::xxh3::xxh3_64;

use crate::ApiError;

/// Decides which requests are handled. Cheap to clone.
pub trait AccessControl: Clone + Send + Sync + 'static {
    /// What is remembered of a request until its response is there.
    type Observation: Send;

    /// Begins to observe a request, before it is handled or refused.
    fn observe(&self, request: &Parts, action: Option<Action>) -> Self::Observation;

    /// Returns who sends a request, if it may perform `action`. `None`: there is nothing at its path, or nothing for
    /// its method.
    ///
    /// # Errors
    /// The response to a request that is refused.
    fn admit(&self, request: &Parts, action: Option<Action>) -> Result<Principal, ApiError>;

    /// Ends an observation with the head of the response, and who has sent the request. `None`: nobody was identified.
    fn record(
        &self,
        observation: Self::Observation,
        principal: Option<&Principal>,
        response: &Response,
    );
}

/// The action of each route.
#[derive(Debug, Default)]
pub(crate) struct RouteActions(HashMap<&'static str, Vec<(&'static str, Action)>>);

impl RouteActions {
    /// Adds the action of a method, in lower case, at a path.
    pub(crate) fn insert(&mut self, method: &'static str, path: &'static str, action: Action) {
        self.0.entry(path).or_default().push((method, action));
    }

    /// Returns the action of a request.
    fn of(&self, method: &Method, path: &str) -> Option<Action> {
        // A router answers `HEAD` as it answers `GET`.
        let method = match method {
            &Method::HEAD => Method::GET.as_str(),
            method => method.as_str(),
        };
        let actions = self.0.get(path)?.iter();
        let mut actions = actions.filter(|(name, _)| name.eq_ignore_ascii_case(method));
        actions.next().map(|(_, action)| *action)
    }
}

/// Handles a request if `control` admits it, and has the result recorded.
pub(crate) async fn check_access(
    control: impl AccessControl,
    actions: Arc<RouteActions>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.extensions.get::<MatchedPath>();
    let action = path.and_then(|path| actions.of(&parts.method, path.as_str()));
    let observation = control.observe(&parts, action);
    let (principal, response) = match control.admit(&parts, action) {
        Ok(principal) => {
            let principal = Arc::new(principal);
            parts.extensions.insert(principal.clone());
            let response = next.run(Request::from_parts(parts, body)).await;
            (Some(principal), response)
        }
        Err(error) => (None, error.into_response()),
    };
    control.record(observation, principal.as_deref(), &response);
    response
}

/// The sender of a request, with the headers that it has sent.
pub struct Caller {
    /// Who it is, and what it may use.
    pub principal: Arc<Principal>,
    /// The headers of the request.
    pub headers: HeaderMap,
}

impl Caller {
    /// Holds a route to what the sender may use, and queues its requests under its own fairness key.
    pub(crate) fn restrict(&self, route: &mut Route) {
        route.access = self.principal.scope.clone();
        route.fairness_key = match &self.principal.subject {
            Subject::Key { id, .. } => xxh3_64(id.as_str().as_bytes()),
            // Clients of a fleet that requires no keys may send one all the same, to be distinguished.
            _ => self
                .headers
                .get(AUTHORIZATION)
                .map_or(0, |key| xxh3_64(key.as_bytes())),
        };
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let principal = parts.extensions.get::<Arc<Principal>>();
        Ok(Self {
            // Without the check there is no permission.
            principal: principal.cloned().ok_or_else(ApiError::internal)?,
            headers: parts.headers.clone(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Admits every request of every sender.
    #[derive(Clone)]
    pub(crate) struct OpenAccess;

    impl AccessControl for OpenAccess {
        type Observation = ();

        fn observe(&self, _: &Parts, _: Option<Action>) {}

        fn record(&self, (): (), _: Option<&Principal>, _: &Response) {}

        fn admit(&self, _: &Parts, _: Option<Action>) -> Result<Principal, ApiError> {
            Ok(Principal::admin(Subject::Anonymous))
        }
    }

    /// A caller without restrictions that sends these headers.
    pub(crate) fn caller(headers: HeaderMap) -> Caller {
        let principal = Arc::new(Principal::admin(Subject::Anonymous));
        Caller { principal, headers }
    }

    #[test]
    fn a_route_has_one_action_for_each_method() {
        let mut actions = RouteActions::default();
        actions.insert("get", "/a/{b}", Action::Read);
        actions.insert("put", "/a/{b}", Action::Operate);
        let of = |method| actions.of(&method, "/a/{b}");
        assert_eq!(of(Method::GET), Some(Action::Read));
        assert_eq!(of(Method::HEAD), Some(Action::Read));
        assert_eq!(of(Method::PUT), Some(Action::Operate));
        assert_eq!(of(Method::DELETE), None);
        assert_eq!(actions.of(&Method::GET, "/a/x"), None);
    }
}
