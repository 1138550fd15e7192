//! HTTP/2 over one stream, as gRPC client or as gRPC server, whichever side dialled.
//!
//! tonic's own `LinkChannel` puts a buffer task, a reconnect layer and a load-balancer between a
//! call and its connection. A link here *is* one connection, and its loss is an event the
//! fleet must see, so calls go straight to hyper.

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

/// How long a connection may be silent before it counts as dead, unless told otherwise.
pub const DEFAULT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to ping, and how long to wait for the answer, so that a connection that died
/// without a word is noticed after `silence` at the latest.
fn pings(silence: Duration) -> (Duration, Duration) {
    (silence * 2 / 5, silence * 3 / 5)
}

/// Flow-control window of one call, in bytes: a prompt or a burst of tokens fits.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow-control window of a whole connection, in bytes.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls at once on one connection, and resets in a row that are no attack: both sides are
/// of one fleet, and a wave of clients that go away resets as many calls.
const MAX_STREAMS: u32 = 16_384;

/// A stream that can carry a link.
pub trait LinkStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> LinkStream for S {}

/// The client's end of one connection. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct LinkChannel {
    sender: client::SendRequest<Body>,
}

impl LinkChannel {
    /// Whether the connection is gone.
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

/// The URI that calls on a [`LinkChannel`] name as their origin. Nothing resolves it.
#[must_use]
pub fn origin() -> http::Uri {
    http::Uri::from_static("http://flotilla.invalid")
}

/// Becomes the gRPC client on `stream`, which is dead when it is silent for longer than
/// `silence`.
///
/// Returns the channel, and the future that drives the connection and ends with it: it has
/// to be polled for calls to move.
///
/// # Errors
/// Those of the HTTP/2 handshake.
pub async fn connect(
    stream: impl LinkStream,
    silence: Duration,
) -> Result<
    (
        LinkChannel,
        impl Future<Output = Result<(), hyper::Error>> + Send,
    ),
    hyper::Error,
> {
    let (interval, timeout) = pings(silence);
    let (sender, connection) = client::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .max_concurrent_reset_streams(MAX_STREAMS as usize)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok((LinkChannel { sender }, connection))
}

/// Serves gRPC on `stream` until it ends, is silent for longer than `silence`, or `stop` resolves; after that the calls under way
/// are finished first.
///
/// # Errors
/// Those of the connection.
pub async fn serve<S>(
    stream: impl LinkStream,
    service: S,
    silence: Duration,
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
    let (interval, timeout) = pings(silence);
    let connection = server::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
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
