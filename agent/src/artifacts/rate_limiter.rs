//! A cap on how fast files are fetched, so that a thin line has room for requests.

use std::time::{Duration, Instant};

use flotilla_core::Bytes;
use parking_lot::Mutex;

/// A cap on bytes per second, over all fetches together.
pub(super) struct RateLimiter {
    rate: f64,
    /// When the bytes let through so far will have been paid for.
    paid: Mutex<Instant>,
}

impl RateLimiter {
    pub(super) fn new(rate: Bytes) -> Self {
        Self {
            rate: rate.0.max(1) as f64,
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Waits until so many bytes more are in time.
    pub(super) async fn pass(&self, bytes: usize) {
        let due = self.due(bytes, Instant::now());
        tokio::time::sleep_until(due.into()).await;
    }

    /// When so many bytes more may pass, for somebody who asks at `now`.
    fn due(&self, bytes: usize, now: Instant) -> Instant {
        let mut paid = self.paid.lock();
        let due = (*paid).max(now);
        *paid = due + Duration::from_secs_f64(bytes as f64 / self.rate);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_and_silence_saves_nothing_up() {
        let throttle = RateLimiter::new(Bytes(1_000));
        let now = Instant::now();
        let seconds = Duration::from_secs;
        for half in 0..10 {
            let due = throttle.due(500, now);
            assert_eq!((due - now).as_millis(), half * 500);
        }
        assert_eq!(throttle.due(500, now + seconds(60)), now + seconds(60));
        assert!(throttle.due(500, now + seconds(60)) > now + seconds(60));
    }
}
