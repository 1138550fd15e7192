//! The port that agents connect to. Its first bytes tell two kinds of connections apart:
//!
//! - On a connection that starts with HTTP/2's preface, the agent is the gRPC client: `service.rs`
//!   answers `Join` (`join.rs`) and `Sync` (`sync.rs`).
//! - On a reverse connection, which starts with Flotilla's preface, the controller is the gRPC
//!   client: `reverse.rs` adds it to the node's [`NodeLink`](crate::fleet::NodeLink), and requests
//!   are sent on it. An agent behind NAT can be reached in this way.

mod in_use;
mod join;
mod report;
mod reverse;
mod service;
mod sessions;
mod sync;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::v1::fleet_server::FleetServer;
use flotilla_proto::{preface, transport};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifacts::BlobStore;
use crate::connections::{Acceptor, Connection};
use crate::fleet::FleetHandle;
use in_use::InUseFromFirstCall;
use service::FleetService;
use sessions::OpenSessions;

/// Longest wait for the first bytes of a connection.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an agent's first call.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The server that agents connect to.
pub struct LinkServer {
    /// The fleet, which receives the events of the links.
    pub fleet: FleetHandle,
    /// Id of this controller.
    pub id: String,
    /// The files of models that agents fetch.
    pub blobs: BlobStore,
    /// Number of reverse connections that each agent opens.
    pub connections: u32,
    /// Silence after which a connection is closed and its node becomes suspect.
    pub silence: Duration,
    /// When cancelled, no new connections are accepted.
    pub drain: CancellationToken,
    /// When cancelled, the sessions end, and the server with them.
    pub stop: CancellationToken,
}

/// What the task of one connection needs.
#[derive(Clone)]
struct LinkAcceptor {
    fleet: FleetHandle,
    sessions: Arc<OpenSessions>,
    service: FleetService,
    silence: Duration,
    stop: CancellationToken,
}

impl LinkServer {
    /// Accepts connections until the server drains, then waits until the open ones have ended.
    pub(crate) async fn run(self, mut acceptor: Acceptor) {
        let drain = self.drain.clone();
        let session_tasks = TaskTracker::new();
        let links = self.acceptor(session_tasks.clone());
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer, connection) = tokio::select! {
                () = drain.cancelled() => break,
                accepted = acceptor.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let links = links.clone();
            connections.spawn(async move {
                if let Err(error) = links.serve_connection(stream, connection, peer).await {
                    tracing::debug!(%peer, %error, "a connection has ended with an error");
                }
            });
        }
        drop(acceptor);
        while connections.join_next().await.is_some() {}
        session_tasks.close();
        session_tasks.wait().await;
    }

    /// Creates what every connection needs. `session_tasks` tracks the tasks that outlive a call.
    fn acceptor(self, session_tasks: TaskTracker) -> LinkAcceptor {
        let sessions = Arc::new(OpenSessions::default());
        let service = FleetService {
            // Replaced for each connection.
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            fleet: self.fleet.clone(),
            id: self.id,
            blobs: self.blobs,
            sessions: sessions.clone(),
            connections: self.connections,
            report_timeout: service::REPORT_TIMEOUT,
            drain: self.drain,
            stop: self.stop.clone(),
            tasks: session_tasks,
        };
        LinkAcceptor {
            fleet: self.fleet,
            sessions,
            service,
            silence: self.silence,
            stop: self.stop,
        }
    }
}

impl LinkAcceptor {
    /// Serves one connection to its end, unless it says nothing and has to give way to others.
    async fn serve_connection(
        self,
        stream: TcpStream,
        connection: Connection,
        peer: SocketAddr,
    ) -> io::Result<()> {
        let connection = Arc::new(connection);
        let silent_too_long = async {
            tokio::select! {
                () = connection.give_way().cancelled() => {}
                () = tokio::time::sleep(FIRST_CALL_TIMEOUT) => {}
            }
            if !connection.is_silent() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = self.serve_stream(stream, &connection, peer) => ended,
            () = silent_too_long => Err(io::Error::other("the client has said nothing")),
        }
    }

    async fn serve_stream(
        self,
        mut stream: TcpStream,
        connection: &Arc<Connection>,
        peer: SocketAddr,
    ) -> io::Result<()> {
        let reversed = async {
            let mut first = [0];
            stream.peek(&mut first).await?;
            if !preface::is_reverse_connection(&first) {
                return Ok(None);
            }
            preface::read(&mut stream).await.map(Some)
        };
        let reversed = tokio::time::timeout(PREFACE_TIMEOUT, reversed).await??;
        let ended = match reversed {
            Some(session) => {
                let Some(link) = self.sessions.find(&session) else {
                    return Err(io::Error::other("no such session"));
                };
                let _in_use = connection.begin_use();
                reverse::run(stream, &link, &self.fleet, self.silence).await
            }
            None => {
                let stop = self.stop.cancelled_owned();
                let service = FleetService {
                    peer,
                    ..self.service
                };
                let server = InUseFromFirstCall::new(FleetServer::new(service), connection.clone());
                transport::serve(stream, server, self.silence, stop).await
            }
        };
        ended.map_err(io::Error::other)
    }
}
