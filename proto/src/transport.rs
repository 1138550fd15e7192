//! gRPC over one HTTP/2 connection, as client or as server, whichever side opened it.
//!
//! tonic's own `Channel` puts a buffer task, a reconnect layer and a load balancer between a call
//! and its connection. Here a link is exactly one connection whose loss the fleet must notice, so
//! calls go directly to hyper.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;

/// Default time after which a silent connection is considered dead.
pub const DEFAULT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the interval of HTTP/2 pings and the time to wait for their answer. Together they are the
/// keep-alive timeout, so that a dead connection is noticed within it.
fn ping_times(keepalive_timeout: Duration) -> (Duration, Duration) {
    (keepalive_timeout * 2 / 5, keepalive_timeout * 3 / 5)
}

/// The time to wait for the answer of a ping on a connection without pings, of which hyper wants one, too.
const UNUSED_PING_TIMEOUT: Duration = Duration::MAX;

/// Flow-control window of one call, in bytes. A prompt or a burst of tokens fits into it.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow-control window of a whole connection, in bytes.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Maximum number of concurrent calls on a connection, and of stream resets that are not treated as
/// an attack: both sides trust each other, and many clients that disconnect together reset as many
/// calls.
const MAX_STREAMS: u32 = 16_384;

/// A byte stream that can carry a link, for example a TLS or TCP connection.
pub trait LinkStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> LinkStream for S {}

/// The client end of one connection. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct LinkChannel {
    sender: client::SendRequest<Body>,
}

impl LinkChannel {
    /// Returns whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl tower_service::Service<http::Request<Body>> for LinkChannel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// Returns the origin URI of calls on a [`LinkChannel`]. It is required but never resolved.
#[must_use]
pub fn origin() -> http::Uri {
    http::Uri::from_static("http://flotilla.invalid")
}

/// Starts a gRPC client on `stream`. The connection fails when it is silent for longer than
/// `keepalive_timeout`; without one it ends only with its stream.
///
/// Returns the channel, and the future that drives the connection until it ends. Calls make
/// progress only while that future is polled.
///
/// # Errors
/// An error of the HTTP/2 handshake.
pub async fn connect(
    stream: impl LinkStream,
    keepalive_timeout: impl Into<Option<Duration>>,
) -> Result<
    (
        LinkChannel,
        impl Future<Output = Result<(), hyper::Error>> + Send,
    ),
    hyper::Error,
> {
    let (interval, timeout) = keepalive_timeout.into().map(ping_times).unzip();
    let (sender, connection) = client::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout.unwrap_or(UNUSED_PING_TIMEOUT))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .max_concurrent_reset_streams(MAX_STREAMS as usize)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok((LinkChannel { sender }, connection))
}

/// Serves gRPC on `stream` until it ends or is silent for longer than `keepalive_timeout`, if there is one. When
/// `stop` resolves, running calls are finished and new ones rejected.
///
/// # Errors
/// An error of the connection.
pub async fn serve<S>(
    stream: impl LinkStream,
    service: S,
    keepalive_timeout: impl Into<Option<Duration>>,
    stop: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: tower_service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<Body>,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (interval, timeout) = keepalive_timeout.into().map(ping_times).unzip();
    let connection = server::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout.unwrap_or(UNUSED_PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(Some(MAX_STREAMS as usize))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = stop => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}
