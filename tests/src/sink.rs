//! A collector that takes everything and keeps nothing. Where a benchmark runs on one machine, to read
//! what is sent would be measured as if the fleet did it.

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

/// A running collector, on a thread of its own until the process ends.
pub struct Sink {
    endpoint: String,
    taken: Arc<AtomicU64>,
}

impl Sink {
    /// Starts one at a free address.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let taken = Arc::<AtomicU64>::default();
        let service = Router::new().fallback(take).with_state(taken.clone());
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                axum::serve(listener, service).await.expect("a collector");
            });
        });
        Self { endpoint, taken }
    }

    /// Bytes that were sent to it.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Takes a gRPC request and answers with an empty message.
async fn take(State(taken): State<Arc<AtomicU64>>, mut body: Body) -> impl IntoResponse {
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        taken.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    let status = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static("0"),
    )]);
    // Not compressed, 0 bytes long.
    let message = Frame::data(Bytes::from_static(&[0; 5]));
    let frames = [message, Frame::trailers(status)].map(Ok::<_, Infallible>);
    let body = StreamBody::new(futures::stream::iter(frames));
    ([(CONTENT_TYPE, "application/grpc")], Body::new(body))
}
