//! A load generator that costs little CPU time: it sends fixed bytes and reads until the answer is
//! complete. It shares its cores with the fleet that it measures, so the cost of a full HTTP client
//! would be measured too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A keep-alive connection that sends the same request again and again.
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to a server. Every request will be a `POST` of `body` to `path`.
    ///
    /// # Panics
    /// Panics if the connection fails.
    pub async fn open(address: SocketAddr, path: &str, body: &str) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the server accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
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

    /// Sends the request and reads its whole answer.
    ///
    /// # Panics
    /// Panics if the status is not 200 or the connection breaks.
    pub async fn exchange(&mut self) {
        self.stream
            .write_all(&self.request)
            .await
            .expect("the connection is open");
        self.buffer.clear();
        while !self.is_complete() {
            let read = self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .expect("the connection is open");
            assert!(read > 0, "the connection was closed");
        }
    }

    /// Whether the buffer holds a complete response.
    fn is_complete(&self) -> bool {
        let Some(head) = find(&self.buffer, b"\r\n\r\n") else {
            return false;
        };
        let headers = &self.buffer[..head];
        assert!(
            headers.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.buffer)
        );
        let Some(start) = find(headers, b"content-length: ") else {
            return self.buffer.ends_with(b"\r\n0\r\n\r\n");
        };
        let digits = headers[start + 16..]
            .iter()
            .take_while(|c| c.is_ascii_digit());
        let length = digits.fold(0, |n, c| n * 10 + usize::from(c - b'0'));
        self.buffer.len() >= head + 4 + length
    }
}

/// Returns the index of the first occurrence of `part`.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// The result of [`measure`].
#[derive(Debug, Clone)]
pub struct LoadMeasurement {
    /// Requests per second of all workers together.
    pub requests_per_second: f64,
    /// The median time of a request.
    pub p50: Duration,
    /// The 99th percentile of the time of a request.
    pub p99: Duration,
}

/// Runs all workers at the same time, each again and again, for `time`, and measures each call. A call
/// that has begun is finished.
///
/// # Panics
/// Panics if a worker does.
pub async fn measure<W: AsyncFnMut()>(time: Duration, mut workers: Vec<W>) -> LoadMeasurement {
    let start = Instant::now();
    let runs = workers.iter_mut().map(async |worker| {
        let mut times = Vec::with_capacity(1 << 16);
        while start.elapsed() < time {
            let began = Instant::now();
            worker().await;
            times.push(began.elapsed());
        }
        times
    });
    let times = futures::future::join_all(runs).await;
    let elapsed = start.elapsed();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort_unstable();
    let quantile = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    LoadMeasurement {
        requests_per_second: times.len() as f64 / elapsed.as_secs_f64(),
        p50: quantile(0.5),
        p99: quantile(0.99),
    }
}
