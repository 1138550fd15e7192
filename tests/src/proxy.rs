//! A TCP proxy between an agent and a controller that can break the line between them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Whether bytes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineState {
    Open,
    /// Bytes are dropped while the connections stay, so that neither side notices.
    Silent,
    /// Connections are closed, new ones at once.
    Cut,
}

/// A proxy of one address. It ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<LineState>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy that forwards connections to `target`.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = watch::Sender::new(LineState::Open);
        let receiver = state.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, target, receiver.clone()));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Returns the address on which the proxy listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets bytes pass. Connections that were silent stay broken.
    pub fn open(&self) {
        self.state.send_replace(LineState::Open);
    }

    /// Drops all bytes while the connections stay, as a network does that loses packets.
    pub fn silence(&self) {
        self.state.send_replace(LineState::Silent);
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        self.state.send_replace(LineState::Cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Forwards one connection in both directions until a side closes it or the line is cut.
async fn forward(client: TcpStream, target: SocketAddr, mut state: watch::Receiver<LineState>) {
    if *state.borrow() == LineState::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let upstream = copy(client_read, server_write, state.clone());
    let downstream = copy(server_read, client_write, state.clone());
    tokio::select! {
        _ = state.wait_for(|state| *state == LineState::Cut) => {}
        () = upstream => {}
        () = downstream => {}
    }
}

/// Copies bytes in one direction.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<LineState>) {
    let mut buffer = vec![0; 64 << 10];
    let mut has_gap = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        // After a gap the rest of the stream is useless, even if the line opens again.
        has_gap |= *state.borrow() == LineState::Silent;
        if !has_gap && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
