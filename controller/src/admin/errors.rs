//! The errors that all handlers of the admin API share.

use flotilla_gateway::ApiError;
use http::StatusCode;

use crate::store::StoreError;

/// The 404 for a resource that does not exist.
pub(super) fn not_found(kind: &str, name: &str) -> ApiError {
    ApiError::not_found(None, format!("There is no {kind} '{name}'."))
}

/// The error reply to a change that the store did not accept: 409 when another client changed the
/// same resource meanwhile, 503 when the store does not answer.
pub(super) fn store_failure(error: StoreError) -> ApiError {
    let (status, code) = match error {
        StoreError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    ApiError::new(status, "server_error", Some(code), error.to_string())
}
