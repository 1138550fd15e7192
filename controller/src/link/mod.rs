//! The port that agents connect to. With TLS, the application protocol (ALPN) distinguishes two kinds of connections;
//! without, its first bytes do:
//!
//! - On a connection that starts with HTTP/2's preface, the agent is the gRPC client: `service.rs`
//!   answers `Join` (`join.rs`) and `Sync` (`sync.rs`).
//! - On a reverse connection, which starts with Flotilla's preface, the controller is the gRPC
//!   client: `reverse.rs` adds it to the node's [`NodeLink`](crate::fleet::NodeLink), and requests
//!   are sent on it. An agent behind NAT can be reached in this way.
//!
//! `enrolment.rs` lets nodes in, and `peer.rs` compares their certificates with what they may do.

mod enrolment;
mod in_use;
mod join;
mod peer;
mod report;
mod reverse;
mod service;
mod sessions;
mod sync;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flotilla_identity::authority::tls::REVERSE_PROTOCOL;
use flotilla_proto::transport::LinkStream;
use flotilla_proto::v1::fleet_server::FleetServer;
use flotilla_proto::{preface, transport};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifacts::BlobStore;
use crate::connections::{Acceptor, Connection};
use crate::fleet::FleetHandle;
use crate::store::Store;
use crate::tls::ServerTls;
use enrolment::Enroller;
use in_use::InUseFromFirstCall;
use peer::LinkPeer;
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
    /// TLS, and what enrols nodes. `None`: links have no TLS.
    pub(crate) protection: Option<LinkProtection>,
    /// When cancelled, no new connections are accepted.
    pub drain: CancellationToken,
    /// When cancelled, the sessions end, and the server with them.
    pub stop: CancellationToken,
}

/// What links with TLS need.
pub(crate) struct LinkProtection {
    pub(crate) tls: ServerTls,
    /// The store of the enrolments and the join tokens.
    pub(crate) store: Arc<dyn Store>,
    /// How long the certificates of nodes are valid.
    pub(crate) life: Duration,
}

/// What the task of one connection needs.
#[derive(Clone)]
struct LinkAcceptor {
    fleet: FleetHandle,
    sessions: Arc<OpenSessions>,
    service: FleetService,
    /// `None`: links have no TLS.
    tls: Option<ServerTls>,
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
        let protection = self.protection;
        let enroller = protection.as_ref().map(|protection| {
            let configs = protection.tls.configs().clone();
            let store = protection.store.clone();
            Enroller::new(self.fleet.clone(), store, configs, protection.life)
        });
        let service = FleetService {
            // Replaced for each connection.
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            peer: LinkPeer::Unknown,
            cut: CancellationToken::new(),
            enroller,
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
            tls: protection.map(|protection| protection.tls),
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
            ended = self.begin(stream, &connection, peer) => ended,
            () = silent_too_long => Err(io::Error::other("the client has said nothing")),
        }
    }

    /// Shakes hands, if links have TLS, and serves the connection.
    async fn begin(
        self,
        stream: TcpStream,
        connection: &Arc<Connection>,
        address: SocketAddr,
    ) -> io::Result<()> {
        let Some(tls) = self.tls.clone() else {
            let mut first = [0];
            let peeked = tokio::time::timeout(PREFACE_TIMEOUT, stream.peek(&mut first));
            peeked.await??;
            let is_reversed = preface::is_reverse_connection(&first);
            let peer = LinkPeer::Unknown;
            return self
                .serve(stream, is_reversed, peer, connection, address)
                .await;
        };
        let shaken = tls.accept(stream, |stream| stream).await;
        let shaken = shaken.map_err(io::Error::other)?;
        let protocol = shaken.stream.get_ref().1.alpn_protocol();
        let is_reversed = protocol == Some(REVERSE_PROTOCOL);
        let peer = LinkPeer::Certified(shaken.peer.map(Arc::new));
        self.serve(shaken.stream, is_reversed, peer, connection, address)
            .await
    }

    /// Serves a connection whose kind is known.
    async fn serve(
        self,
        mut stream: impl LinkStream,
        is_reversed: bool,
        peer: LinkPeer,
        connection: &Arc<Connection>,
        address: SocketAddr,
    ) -> io::Result<()> {
        if is_reversed {
            let session = preface::read(&mut stream);
            let session = tokio::time::timeout(PREFACE_TIMEOUT, session).await??;
            let Some(link) = self.sessions.find(&session) else {
                return Err(io::Error::other("no such session"));
            };
            peer.check_session(&self.fleet.peek(), &link.node)
                .map_err(|denial| io::Error::other(denial.message().to_owned()))?;
            let _in_use = connection.begin_use();
            let ended = reverse::run(stream, &link, &self.fleet, self.silence).await;
            return ended.map_err(io::Error::other);
        }
        // A node that is revoked loses the connection with all that is sent on it.
        let cut = CancellationToken::new();
        let service = FleetService {
            address,
            peer,
            cut: cut.clone(),
            ..self.service
        };
        let server = InUseFromFirstCall::new(FleetServer::new(service), connection.clone());
        let stop = self.stop.cancelled_owned();
        tokio::select! {
            ended = transport::serve(stream, server, self.silence, stop) => ended.map_err(io::Error::other),
            () = cut.cancelled() => Err(io::Error::other("the node may not stay")),
        }
    }
}
