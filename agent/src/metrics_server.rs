//! Serves `/metrics` of this node for Prometheus.

use std::net::SocketAddr;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use flotilla_telemetry::prometheus::{self, PrometheusRegistry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `/metrics` at `address` until `stop` is cancelled. If the address cannot be used, the agent
/// runs without the endpoint; controllers have the node's metrics too.
pub(crate) async fn serve(
    address: SocketAddr,
    registry: PrometheusRegistry,
    stop: CancellationToken,
) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, %error, "cannot serve /metrics at this address; the controllers still serve the node's metrics");
            return;
        }
    };
    let metrics = get(async move || {
        (
            [(CONTENT_TYPE, prometheus::CONTENT_TYPE)],
            registry.encode_text(),
        )
    });
    let server = axum::serve(listener, Router::new().route("/metrics", metrics));
    if let Err(error) = server.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::warn!(%error, "the /metrics endpoint has failed");
    }
}
