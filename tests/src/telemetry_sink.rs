//! A telemetry collector that accepts everything and keeps nothing. On a machine that runs a benchmark,
//! decoding what the fleet sends would be measured as if the fleet did it.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::IntoResponse;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

/// A running sink. Its thread lives until the process ends.
pub struct TelemetrySink {
    endpoint: String,
    received: Arc<AtomicU64>,
}

impl TelemetrySink {
    /// Starts a sink at a free address of loopback.
    ///
    /// # Panics
    /// Panics if there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("it is bound");
        let received = Arc::<AtomicU64>::default();
        let service = Router::new().fallback(accept).with_state(received.clone());
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .expect("a non-blocking socket is accepted");
                axum::serve(listener, service).await.expect("it serves");
            });
        });
        Self {
            endpoint: format!("http://{address}"),
            received,
        }
    }

    /// Returns how many bytes the sink has received.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns the value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Reads a gRPC request and answers with an empty message.
async fn accept(State(received): State<Arc<AtomicU64>>, mut body: Body) -> impl IntoResponse {
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    let status = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a valid header name"),
        HeaderValue::from_static("0"),
    )]);
    // The prefix of a message that is not compressed and has 0 bytes.
    let message = Frame::data(Bytes::from_static(&[0; 5]));
    let frames = [message, Frame::trailers(status)].map(Ok::<_, Infallible>);
    let body = StreamBody::new(futures::stream::iter(frames));
    ([(CONTENT_TYPE, "application/grpc")], Body::new(body))
}
