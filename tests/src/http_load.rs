//! A load generator that costs little: fixed bytes out, bytes in until the answer is whole.
//! It shares its cores with what it measures, so a client library's comfort would be
//! measured too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A keep-alive connection that sends one request over and over.
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; every request is a `POST` of `body` to `path`.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn open(address: SocketAddr, path: &str, body: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        Self {
            stream,
            request: request.into_bytes(),
            buffer: Vec::with_capacity(16 << 10),
        }
    }

    /// One request and its whole answer.
    ///
    /// # Panics
    /// When the answer is not 200 or breaks off.
    pub async fn exchange(&mut self) {
        self.stream.write_all(&self.request).await.expect("written");
        self.buffer.clear();
        while !self.is_whole() {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("read");
            assert!(read > 0, "the connection was closed");
        }
    }

    fn is_whole(&self) -> bool {
        let Some(head) = find(&self.buffer, b"\r\n\r\n") else {
            return false;
        };
        let headers = &self.buffer[..head];
        assert!(
            headers.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.buffer)
        );
        let Some(at) = find(headers, b"content-length: ") else {
            return self.buffer.ends_with(b"\r\n0\r\n\r\n");
        };
        let digits = headers[at + 16..].iter().take_while(|c| c.is_ascii_digit());
        let length = digits.fold(0, |n, c| n * 10 + usize::from(c - b'0'));
        self.buffer.len() >= head + 4 + length
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// What a run measured.
#[derive(Debug, Clone)]
pub struct Measured {
    pub requests_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
}

/// Runs `workers` loops of `exchange` for `time` and measures them.
///
/// # Panics
/// When an exchange does.
pub async fn measure<W: AsyncFnMut()>(time: Duration, mut workers: Vec<W>) -> Measured {
    let start = Instant::now();
    let runs = workers.iter_mut().map(async |exchange| {
        let mut times = Vec::with_capacity(1 << 16);
        while start.elapsed() < time {
            let began = Instant::now();
            exchange().await;
            times.push(began.elapsed());
        }
        times
    });
    let times = futures::future::join_all(runs).await;
    let took = start.elapsed();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Measured {
        requests_per_second: times.len() as f64 / took.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}
