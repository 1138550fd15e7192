//! The errors that all handlers of the admin API share.

use flotilla_core::generate::RequestError;
use flotilla_gateway::ApiError;
use http::StatusCode;

use crate::fleet::FleetView;
use crate::store::StoreError;

/// The 404 for a resource that does not exist.
pub(super) fn not_found(kind: &str, name: &str) -> ApiError {
    ApiError::not_found(None, format!("There is no {kind} '{name}'."))
}

/// The error for a resource that is not in the view: 404, or 503 while the desired state is not known and
/// so whether the resource exists is not either.
pub(super) fn not_in_view(view: &FleetView, kind: &str, name: &str) -> ApiError {
    if view.synced {
        return not_found(kind, name);
    }
    not_known(view, &format!("Whether there is a {kind} '{name}'"))
}

/// The 503 while the desired state is not known. `question` is the beginning of the message.
pub(super) fn not_known(view: &FleetView, question: &str) -> ApiError {
    let notes = view.notes().join("; ");
    RequestError::unavailable(format!("{question} is not known yet: {notes}.")).into()
}

/// The error reply to a change that the store did not accept: 409 when another client changed the
/// same resource meanwhile, 413 when it is too large, 507 when the store is full, 503 when it does not
/// answer.
pub(super) fn store_failure(error: StoreError) -> ApiError {
    let (status, code) = match error {
        StoreError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        StoreError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        StoreError::EtcdFull | StoreError::DiskFull(_) => {
            (StatusCode::INSUFFICIENT_STORAGE, "store_full")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    ApiError::new(status, "server_error", Some(code), error.to_string())
}
