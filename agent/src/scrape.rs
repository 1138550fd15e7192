//! `/metrics` of this node, for a Prometheus that can reach it.

use std::net::SocketAddr;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use flotilla_telemetry::prometheus::{self, PrometheusRegistry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `stop`. Where the port is taken the node goes on without: controllers have its
/// metrics too.
pub(crate) async fn serve(
    address: SocketAddr,
    exposition: PrometheusRegistry,
    stop: CancellationToken,
) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, %error, "no /metrics here; controllers have the node's metrics too");
            return;
        }
    };
    let metrics = get(async move || {
        (
            [(CONTENT_TYPE, prometheus::CONTENT_TYPE)],
            exposition.encode_text(),
        )
    });
    let served = axum::serve(listener, Router::new().route("/metrics", metrics));
    if let Err(error) = served.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::warn!(%error, "/metrics has ended");
    }
}
