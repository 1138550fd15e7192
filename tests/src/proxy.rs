//! A byte-level proxy between an agent and a controller, to break the line between them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    /// They vanish, and nobody is told: the connections stay.
    Silent,
    /// Connections are closed, and new ones at once.
    Cut,
}

/// A line to an address. Gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// An open line to `to`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let line = watch::Sender::new(Line::Open);
        let state = line.clone();
        let task = tokio::spawn(async move {
            let mut pairs = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                pairs.spawn(join(near, to, state.subscribe()));
            }
        });
        Self {
            address,
            line,
            task,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes go through.
    pub fn open(&self) {
        self.line.send_replace(Line::Open);
    }

    /// Bytes vanish; the connections stay, half open.
    pub fn silence(&self) {
        self.line.send_replace(Line::Silent);
    }

    /// Connections are closed.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(near: TcpStream, to: SocketAddr, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = pass(near_in, far_out, line.clone());
    let back = pass(far_in, near_out, line.clone());
    tokio::select! {
        _ = line.wait_for(|line| *line == Line::Cut) => {}
        () = there => {}
        () = back => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 64 << 10];
    let mut torn = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        // A stream with a hole in it is of no use any more, whatever the line does later.
        torn |= *line.borrow() == Line::Silent;
        if !torn && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
