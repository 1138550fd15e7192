//! Who is at the other end of a connection.

use std::net::SocketAddr;

/// The other end of a connection, which every request has among its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A client at an address.
    Address(SocketAddr),
    /// A user of this machine, by number, over the admin socket.
    Socket {
        /// The number of the user.
        user: u32,
    },
}
