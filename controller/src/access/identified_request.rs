//! How this controller identifies itself to the others of its fleet.

use flotilla_identity::keys::{ControllerSecret, TokenUse};
use flotilla_telemetry::clock::unix_seconds;
use reqwest::{Method, RequestBuilder};

use crate::tls::ControllerClient;

/// A request to the API of the controller at `address`, for `path` with its query. Without a `secret` that the
/// controllers share, as before the fleet has one, it has no token: a controller that requires keys refuses it.
pub(crate) fn identified_request(
    client: &ControllerClient,
    secret: Option<&ControllerSecret>,
    address: &str,
    method: Method,
    path: &str,
) -> RequestBuilder {
    let method_name = method.clone();
    let token_use = TokenUse {
        method: method_name.as_str(),
        path,
    };
    let token = secret.map(|secret| secret.token(token_use, unix_seconds()));
    let request = client.request(method, address, path);
    match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    }
}
