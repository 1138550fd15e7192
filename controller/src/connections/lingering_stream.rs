//! A connection of the HTTP API that ends gently.
//!
//! A server that answers before it has read the whole request, as with 413, and closes the connection
//! makes the kernel reset it: many clients then see a broken pipe instead of the answer. So a connection
//! lingers, as in nginx: its sending half is closed first, and what the client still sends is read and
//! dropped for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The longest time that a connection lingers.
const LINGER_TIME: Duration = Duration::from_secs(30);
/// The longest silence of the client meanwhile.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// The most that is read meanwhile, in bytes.
const LINGER_BYTES: usize = 256 << 20;
/// The longest time that a client may read nothing of what is sent to it.
const STALL_TIME: Duration = Duration::from_secs(300);
/// The size of one read, in bytes.
const CHUNK: usize = 16 << 10;

/// A connection that reads on for a while after it was shut down.
pub(super) struct LingeringStream {
    stream: TcpStream,
    stop: CancellationToken,
    /// Set once the sending half is closed.
    linger: Option<Linger>,
    /// Set while the client does not read.
    stall: Option<Pin<Box<Sleep>>>,
}

impl LingeringStream {
    /// A connection that lingers until `stop` at most.
    pub(super) fn new(stream: TcpStream, stop: CancellationToken) -> Self {
        Self {
            stream,
            stop,
            linger: None,
            stall: None,
        }
    }

    /// Fails a write that waits for the client for too long.
    fn limit_stall<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_TIME)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What ends the lingering of a connection.
struct Linger {
    end: Instant,
    remaining_bytes: usize,
    silence: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Linger {
    fn new(stop: CancellationToken) -> Self {
        Self {
            end: Instant::now() + LINGER_TIME,
            remaining_bytes: LINGER_BYTES,
            silence: Box::pin(tokio::time::sleep(LINGER_SILENCE)),
            stopped: Box::pin(stop.cancelled_owned()),
        }
    }

    /// Reads and drops what arrives. Completes when the client has closed the connection, or a limit is
    /// reached.
    fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        let mut chunk = [std::mem::MaybeUninit::uninit(); CHUNK];
        loop {
            if self.stopped.as_mut().poll(cx).is_ready()
                || self.silence.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::uninit(&mut chunk);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            let bytes = buffer.filled().len();
            if read.is_err() || bytes == 0 || bytes >= self.remaining_bytes {
                return Poll::Ready(());
            }
            self.remaining_bytes -= bytes;
            let silence_end = (Instant::now() + LINGER_SILENCE).min(self.end);
            self.silence.as_mut().reset(silence_end);
        }
    }
}

impl AsyncRead for LingeringStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LingeringStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.limit_stall(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.limit_stall(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let stop = &this.stop;
        let linger = this.linger.get_or_insert_with(|| Linger::new(stop.clone()));
        linger.poll(&mut this.stream, cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn connection() -> (TcpStream, LingeringStream, CancellationToken) {
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let server = LingeringStream::new(server.unwrap().0, stop.clone());
        (client.unwrap(), server, stop)
    }

    #[tokio::test]
    async fn client_that_sends_first_reads_the_answer() {
        let (mut client, mut server, _stop) = connection().await;
        let serve = async move {
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
        };
        let ask = async move {
            client.write_all(&vec![0; 16 << 20]).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(serve, ask);
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn stopping_ends_the_wait_for_the_client() {
        let (_client, mut server, stop) = connection().await;
        stop.cancel();
        server.shutdown().await.unwrap();
    }
}
