//! Serves `/metrics` of this node for Prometheus.

use std::io;
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
            tracing::warn!("{}", cannot_serve(address, &error));
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

/// Returns the warning for an address that cannot be used.
fn cannot_serve(address: SocketAddr, error: &io::Error) -> String {
    let problem = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use, perhaps by another agent on this machine".to_owned()
        }
        _ => error.to_string(),
    };
    format!(
        "cannot serve this node's /metrics at {address}: {problem}; choose another address with --metrics, or --metrics off. The controllers serve the node's metrics all the same"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn warning_of_a_second_agent_on_a_machine_names_the_flag_to_give() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = TcpListener::bind(address).await.unwrap_err();
        let warning = cannot_serve(address, &error);
        for part in ["the port is in use", "--metrics", &address.to_string()] {
            assert!(warning.contains(part), "{warning}");
        }
    }
}
