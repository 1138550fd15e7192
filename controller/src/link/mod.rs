//! The agents' side door: the port they dial, whichever way round a connection is meant.
//!
//! - A connection that begins with HTTP/2's preface is an agent as gRPC client: [`service`]
//!   answers `Join` and `Sync` on it.
//! - One that begins with Flotilla's preface is turned round: [`reverse`] becomes the gRPC
//!   client on it and adds it to the node's [`Link`](crate::fleet::NodeLink).

mod reverse;
mod service;
mod sessions;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::v1::fleet_server::FleetServer;
use flotilla_proto::{preface, transport};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifacts::BlobStore;
use crate::fleet::FleetHandle;
use service::FleetService;
use sessions::OpenSessions;

/// How long a connection may take to say what it is.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept (usually: out of file descriptors), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How links are kept.
#[derive(Debug, Clone, Copy)]
pub struct LinkConfig {
    /// Connections that each agent turns round.
    pub connections: u32,
    /// How long a link may be silent before its node counts as away.
    pub silence: Duration,
}

#[derive(Clone)]
struct LinkAcceptor {
    fleet: FleetHandle,
    sessions: Arc<OpenSessions>,
    server: FleetServer<FleetService>,
    silence: Duration,
    stop: CancellationToken,
}

/// Takes connections for the controller `id` until `stop`, then waits for those there are.
pub async fn serve(
    listener: TcpListener,
    fleet: FleetHandle,
    id: String,
    blobs: BlobStore,
    settings: LinkConfig,
    stop: CancellationToken,
) {
    let sessions = Arc::new(OpenSessions::default());
    let syncs = TaskTracker::new();
    let service = FleetService {
        fleet: fleet.clone(),
        id,
        blobs,
        sessions: sessions.clone(),
        connections: settings.connections,
        stop: stop.clone(),
        tasks: syncs.clone(),
    };
    let door = LinkAcceptor {
        fleet,
        sessions,
        server: FleetServer::new(service),
        silence: settings.silence,
        stop: stop.clone(),
    };
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let door = door.clone();
                tasks.spawn(async move {
                    if let Err(error) = door.take(stream).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    syncs.close();
    syncs.wait().await;
}

impl LinkAcceptor {
    /// Serves one connection to its end.
    async fn take(self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
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
                reverse::run(stream, &link, &self.fleet, self.silence).await
            }
            None => {
                let stop = self.stop.cancelled_owned();
                transport::serve(stream, self.server, self.silence, stop).await
            }
        };
        ended.map_err(io::Error::other)
    }
}
