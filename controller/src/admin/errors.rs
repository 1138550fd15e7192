//! The errors that all handlers of the admin API share.

use std::time::Duration;

use flotilla_core::generate::RequestError;
use flotilla_gateway::ApiError;
use http::StatusCode;

use crate::fleet::FleetView;
use crate::store::StoreError;

/// The `retry-after` while the store is away.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(5);

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
    RequestError::NotReady(format!("{question} is not known yet: {notes}.")).into()
}

/// The error reply to a change that the store did not accept: 409 when another client changed the
/// same resource meanwhile, 413 when it is too large, 507 when the store is full, 503 when it does not
/// answer. Only the last one passes by itself, and has a `retry-after`.
pub(super) fn store_failure(error: StoreError) -> ApiError {
    let (status, code) = match &error {
        StoreError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        StoreError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        StoreError::EtcdFull | StoreError::DiskFull(_) => {
            (StatusCode::INSUFFICIENT_STORAGE, "store_full")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    let failure = ApiError::new(status, "server_error", Some(code), error.to_string());
    match error {
        StoreError::Etcd(_) => failure.with_retry_after(STORE_RETRY_AFTER),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use http::header::RETRY_AFTER;

    #[test]
    fn waiting_is_advised_where_it_helps_and_not_where_an_operator_must_act() {
        let retry_after =
            |error: ApiError| error.into_response().headers().get(RETRY_AFTER).cloned();
        assert!(retry_after(not_known(&FleetView::default(), "It")).is_some());
        let view = FleetView {
            synced: true,
            ..FleetView::default()
        };
        assert!(retry_after(not_in_view(&view, "model", "m")).is_none());
        let outage = StoreError::Etcd("timed out".into());
        assert!(retry_after(store_failure(outage)).is_some());
        for error in [
            StoreError::EtcdFull,
            StoreError::EtcdAuth("no".into()),
            StoreError::DiskFull("/".into()),
            StoreError::Failed("no".into()),
            StoreError::Conflict("m".into()),
        ] {
            let text = error.to_string();
            assert!(retry_after(store_failure(error)).is_none(), "{text}");
        }
    }
}
