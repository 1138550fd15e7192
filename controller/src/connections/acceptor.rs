//! Accepts connections, also while the process is out of file descriptors.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::table::{Connection, ConnectionTable};

/// Pause after the first failed accept; it doubles with each failure.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Accepts the connections of one port.
pub(crate) struct Acceptor {
    listener: TcpListener,
    table: ConnectionTable,
    pause: Duration,
}

impl Acceptor {
    /// An acceptor that enters the connections into `table`.
    pub(crate) fn new(listener: TcpListener, table: ConnectionTable) -> Self {
        Self {
            listener,
            table,
            pause: MIN_PAUSE,
        }
    }

    /// Waits for the next connection. Closes new ones while all in the table are in use.
    pub(crate) async fn accept(&mut self) -> (TcpStream, SocketAddr, Connection) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.pause = MIN_PAUSE;
                    let Some(connection) = self.table.add(peer.ip()) else {
                        continue;
                    };
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot set TCP_NODELAY");
                    }
                    return (stream, peer, connection);
                }
                // The client has gone before it was accepted.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    if self.pause == MIN_PAUSE {
                        tracing::error!(%error, "cannot accept connections; trying again");
                    }
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
