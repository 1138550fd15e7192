//! The login of the page: a key is exchanged for a session, which the browser keeps in a cookie that scripts cannot
//! read.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flotilla_core::generate::RequestError;
use flotilla_gateway::{ApiError, ApiRoutes, Operation, read_json};
use flotilla_identity::keys::{Action, Session, Subject, authenticate, authorize};
use flotilla_telemetry::clock::unix_seconds;
use http::header::{ORIGIN, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::access::{forbidden, set_session, unauthorized};
use crate::fleet::FleetHandle;

/// The largest body of a login, in bytes.
const MAX_LOGIN: usize = 4 << 10;

/// A login.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// The API key.
    key: String,
}

/// The routes of the page's login.
pub(crate) fn router(fleet: FleetHandle) -> ApiRoutes {
    let operation = |path, summary| Operation::new(Action::Public, "post", path, summary);
    ApiRoutes::new()
        .route(
            operation("/login", "Exchanges an API key for a session of the page")
                .body::<Login>()
                .returns_nothing(204)
                .errors(&[401, 403, 503]),
            post(login),
        )
        .route(
            operation("/logout", "Ends the session of the page").returns_nothing(204),
            post(logout),
        )
        .with_state(fleet)
}

/// `POST /login`.
async fn login(
    State(fleet): State<FleetHandle>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Login { key } = read_json(body, MAX_LOGIN).await?;
    let view = fleet.view();
    let not_ready = || {
        let message = "The keys are not known yet, as the store has not been read.";
        ApiError::from(RequestError::NotReady(message.into()))
    };
    if !view.synced {
        return Err(not_ready());
    }
    let now = unix_seconds();
    let principal = authenticate(key.trim(), &view.keys, now).map_err(unauthorized)?;
    authorize(&principal, Action::Read).map_err(forbidden)?;
    let secret = view.controller_secret.as_ref().ok_or_else(not_ready)?;
    let Subject::Key { id, .. } = &principal.subject else {
        return Err(not_ready());
    };
    let record = view.keys.get(id).ok_or_else(not_ready)?;
    let session = Session::open(record, secret, now);
    set_cookie(&session.text, session.seconds, &headers).ok_or_else(not_ready)
}

/// `POST /logout`.
async fn logout(headers: HeaderMap) -> Response {
    let response = set_cookie("", 0, &headers);
    response.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}

/// The response that sets the cookie of a session.
fn set_cookie(text: &str, seconds: u64, headers: &HeaderMap) -> Option<Response> {
    let origin = headers.get(ORIGIN).map(|origin| origin.as_bytes());
    let over_tls = origin.is_some_and(|origin| origin.starts_with(b"https://"));
    let cookie = set_session(text, seconds, over_tls)?;
    Some((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}
