//! Work that takes long, off the threads that answer requests.

use flotilla_gateway::ApiError;
use http::StatusCode;

/// Runs `work`, for example to solve the placement, on a thread for blocking work.
///
/// # Errors
/// 500 when it panics.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a request to the admin API has failed");
        let message = "The controller failed to answer; its log says why.".to_owned();
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        ApiError::new(status, "server_error", Some("internal_error"), message)
    })
}
