//! The connections of both ports and of the admin socket: how many there may be, which of them give way to others, and how
//! long a client may take to say what it wants.
//!
//! File descriptors are what a controller runs out of first. Without these limits, a few hundred
//! connections that say nothing would keep all others out, and model files and the store closed.

mod acceptor;
mod admin_socket;
mod file_limit;
mod http_server;
mod lingering_stream;
mod peer;
mod table;

pub(crate) use acceptor::Acceptor;
pub(crate) use admin_socket::AdminSocket;
pub(crate) use http_server::HttpServer;
pub(crate) use peer::Peer;
pub(crate) use table::{Connection, ConnectionTable, UseGuard};

/// Connections that the two ports may have.
pub(crate) struct ConnectionLimits {
    /// Connections of each port.
    per_port: usize,
}

/// Most connections of a port, however many file descriptors the process may have.
const MAX_CONNECTIONS: usize = 65_536;
/// Connections of a port where the limit on file descriptors is not known.
const DEFAULT_CONNECTIONS: usize = 10_000;

impl ConnectionLimits {
    /// The limits that follow from the process's limit on file descriptors: two fifths of them for each
    /// port, and a fifth for model files, the store and connections to other controllers.
    pub(crate) fn of_this_process() -> Self {
        let descriptors = file_limit::open_files();
        let per_port = descriptors.map_or(DEFAULT_CONNECTIONS, |limit| limit / 5 * 2);
        let per_port = per_port.clamp(1, MAX_CONNECTIONS);
        tracing::debug!(?descriptors, per_port, "limits of connections");
        Self { per_port }
    }

    /// The empty table of a port. `port` names it in logs.
    pub(crate) fn table(&self, port: &'static str) -> ConnectionTable {
        // Clients that have not said anything yet may take a quarter.
        ConnectionTable::new(port, self.per_port, (self.per_port / 4).max(1))
    }
}
