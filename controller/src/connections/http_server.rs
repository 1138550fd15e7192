//! The server of the HTTP API.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::acceptor::Acceptor;
use super::lingering_stream::LingeringStream;
use super::peer::Peer;
use super::table::{Connection, ConnectionTable};
use crate::tls::ServerTls;

/// Longest time from the start of a connection to the end of its first request's head.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time from the end of a response to the end of the next request's head: longer than most
/// clients keep unused connections.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(95);

/// The server of the HTTP API.
pub(crate) struct HttpServer {
    pub(crate) listener: TcpListener,
    pub(crate) connections: ConnectionTable,
    pub(crate) api: Router,
    /// `None`: the API has no TLS.
    pub(crate) tls: Option<ServerTls>,
    /// When cancelled, no new requests are accepted; running ones may end.
    pub(crate) drain: CancellationToken,
}

impl HttpServer {
    /// Serves until the server has drained.
    pub(crate) async fn run(self) {
        let mut acceptor = Acceptor::new(self.listener, self.connections);
        let mut tasks = JoinSet::new();
        loop {
            let (stream, peer, connection) = tokio::select! {
                () = self.drain.cancelled() => break,
                accepted = acceptor.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            let (api, drain, tls) = (self.api.clone(), self.drain.clone(), self.tls.clone());
            tasks.spawn(async move {
                let served = begin(stream, Peer::Address(peer), connection, api, drain, tls);
                if let Err(error) = served.await {
                    tracing::debug!(%peer, error, "a connection has ended with an error");
                }
            });
        }
        // New connections are refused from now on.
        drop(acceptor);
        while tasks.join_next().await.is_some() {}
    }
}

/// An error of a connection.
type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Shakes hands, if the API has TLS, and serves one connection to its end.
async fn begin(
    stream: TcpStream,
    peer: Peer,
    connection: Connection,
    api: Router,
    drain: CancellationToken,
    tls: Option<ServerTls>,
) -> Result<(), ConnectionError> {
    let wrap = |stream| LingeringStream::new(stream, drain.clone());
    let Some(tls) = tls else {
        let stream = wrap(stream);
        return serve(stream, peer, connection, api, drain).await;
    };
    let shaken = tokio::select! {
        shaken = tls.accept(stream, wrap) => shaken?,
        () = connection.give_way().cancelled() => return Err("it gave way to other connections".into()),
        () = drain.cancelled() => return Ok(()),
    };
    serve(shaken.stream, peer, connection, api, drain).await
}

/// Serves one connection, with `peer` at its other end, to its end.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    connection: Connection,
    api: Router,
    drain: CancellationToken,
) -> Result<(), ConnectionError> {
    let connection = Arc::new(connection);
    let in_service = connection.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let in_use = in_service.begin_use();
        let response = api.clone().call(request);
        async move {
            let response = response.await?;
            // The connection is in use until the body has been sent.
            Ok::<_, std::convert::Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _until_dropped = &in_use;
                    frame
                })
            }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let served = builder.serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let first_request = tokio::time::sleep(FIRST_REQUEST_TIMEOUT);
    let mut first_request = pin!(first_request);
    let mut waits_for_first = true;
    loop {
        tokio::select! {
            ended = &mut served => return ended,
            () = connection.give_way().cancelled() => {
                if connection.is_silent() {
                    return Err("it gave way to other connections".into());
                }
                break;
            }
            () = drain.cancelled() => {
                if connection.is_silent() {
                    return Ok(());
                }
                break;
            }
            () = &mut first_request, if waits_for_first => {
                waits_for_first = false;
                if connection.is_silent() {
                    return Err("there was no request in time".into());
                }
            }
        }
    }
    served.as_mut().graceful_shutdown();
    served.await
}
