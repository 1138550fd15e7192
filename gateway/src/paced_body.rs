//! Request bodies that must arrive at a pace, so that a client that sends a byte now and then does not hold a
//! connection, and what has been read of its body, for ever.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a body may take beside what its size takes at the lowest rate.
const GRACE: Duration = Duration::from_secs(15);
/// The lowest rate, in bytes per second: that of the slowest mobile networks (GPRS has 5 to 10 kB/s).
const MIN_RATE: u64 = 4 << 10;

/// The body did not arrive in time.
#[derive(Debug, thiserror::Error)]
#[error("it arrives at less than {MIN_RATE} bytes per second")]
pub struct SlowBody;

/// A body that ends with [`SlowBody`] when its client is too slow.
pub struct PacedBody {
    body: Body,
    grace: Duration,
    start: Instant,
    received: u64,
    deadline: Pin<Box<Sleep>>,
}

impl PacedBody {
    /// Watches the pace of `body` from now on.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self::with_grace(body, GRACE)
    }

    fn with_grace(body: Body, grace: Duration) -> Self {
        let start = Instant::now();
        Self {
            body,
            grace,
            start,
            received: 0,
            deadline: Box::pin(sleep_until(start + grace)),
        }
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(Ok(frame)) = &frame {
                self.received += frame.data_ref().map_or(0, |data| data.len() as u64);
                let allowed = Duration::from_secs(self.received / MIN_RATE);
                let deadline = self.start + self.grace + allowed;
                self.deadline.as_mut().reset(deadline);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(SlowBody.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn body_that_stops_ends_with_an_error_and_a_whole_one_does_not() {
        let chunks = || stream::iter([Ok::<_, BoxError>(Bytes::from("ab")), Ok("c".into())]);
        let whole = PacedBody::with_grace(Body::from_stream(chunks()), Duration::ZERO);
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abc");
        let stops = Body::from_stream(chunks().chain(stream::pending()));
        let error = PacedBody::with_grace(stops, Duration::from_millis(1))
            .collect()
            .await;
        assert!(error.unwrap_err().is::<SlowBody>());
    }

    #[tokio::test]
    async fn time_grows_with_what_has_arrived() {
        let mut body = PacedBody::new(Body::from(vec![0; 10 * MIN_RATE as usize]));
        body.frame().await.unwrap().unwrap();
        let deadline = body.deadline.deadline();
        assert_eq!(deadline, body.start + GRACE + Duration::from_secs(10));
    }
}
