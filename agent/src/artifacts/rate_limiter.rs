//! Limits the rate of fetches, so that a slow link has bandwidth left for requests.
//!
//! `governor` does not fit: it counts cells of a whole number of nanoseconds each, which is too coarse
//! for bytes on a fast link, and refuses more cells at once than its burst, while the controller
//! chooses the size of the chunks here. It also saves up a burst while idle; this limiter does not.

use std::time::{Duration, Instant};

use flotilla_core::Bytes;
use parking_lot::Mutex;

/// Limit in bytes per second over all fetches of the agent together.
pub(super) struct RateLimiter {
    bytes_per_second: f64,
    /// When the next chunk may pass.
    next: Mutex<Instant>,
}

impl RateLimiter {
    /// Creates a limiter of `rate` bytes per second, at least 1.
    pub(super) fn new(rate: Bytes) -> Self {
        Self {
            bytes_per_second: rate.0.max(1) as f64,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until a chunk of this many bytes may pass.
    pub(super) async fn wait(&self, bytes: usize) {
        let pass_time = self.reserve(bytes, Instant::now());
        tokio::time::sleep_until(pass_time.into()).await;
    }

    /// Reserves the time of a chunk that is ready at `now`. Returns when it may pass; the chunk after
    /// it has to wait for the time that this one takes at the limit.
    fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let pass_time = (*next).max(now);
        *next = pass_time + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        pass_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_pass_at_the_limit_and_idle_time_saves_nothing_up() {
        let limiter = RateLimiter::new(Bytes(1_000));
        let now = Instant::now();
        let seconds = Duration::from_secs;
        for index in 0..10 {
            let pass_time = limiter.reserve(500, now);
            assert_eq!((pass_time - now).as_millis(), index * 500);
        }
        assert_eq!(limiter.reserve(500, now + seconds(60)), now + seconds(60));
        assert!(limiter.reserve(500, now + seconds(60)) > now + seconds(60));
    }
}
