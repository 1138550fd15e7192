//! How often, and after how long, a request is sent again that a replica refused.
//!
//! The budget of one request is that of gRPC's retry policy (proposal A6, "gRPC Retry Design"): at most
//! [`MAX_FAILED_ATTEMPTS`], with exponential back-off, jitter, and the server's own delay where it names
//! one. The budget of a model limits how often replicas are asked again by requests that they have failed
//! already: to a bounded share of the answers, as Envoy's `retry_budget` of 20 % does, and to a few more, as
//! with its `min_retry_concurrency`. A first try on another replica is not limited by it.

use std::time::Duration;

/// Failed attempts after which a request is not sent again: the limit of gRPC.
pub const MAX_FAILED_ATTEMPTS: u32 = 5;
/// The back-off after the first failed attempt; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// The longest back-off.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The longest delay that a server may ask for while the request waits here. A client can wait for more.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Tokens of a full [`RetryThrottle`]. Our own choice.
const MAX_TOKENS: f32 = 10.0;
/// Tokens that an answer gives back: at most one retry for five answers.
const TOKENS_PER_ANSWER: f32 = 0.2;
/// Tokens that come back in a second without answers, so that a model of few requests is retried, too.
const TOKENS_PER_SECOND: f32 = 0.1;

/// The time after which a replica that refused a request may get it again. `failed_attempts` counts those
/// of the request, this one included, and `jitter`, 0 to 1, spreads requests that failed together.
/// `retry_after` is the delay that the replica asked for. Returns `None` if that is too long to wait here.
#[must_use]
pub fn retry_backoff(
    failed_attempts: u32,
    retry_after: Option<Duration>,
    jitter: f32,
) -> Option<Duration> {
    let doublings = failed_attempts.clamp(1, 16) - 1;
    let backoff = (INITIAL_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF);
    let spread = backoff.mul_f32(jitter.clamp(0.0, 1.0) / 2.0);
    match retry_after {
        Some(longer) if longer > MAX_RETRY_AFTER => None,
        Some(retry_after) => Some(retry_after.max(backoff / 2) + spread),
        None => Some(backoff / 2 + spread),
    }
}

/// A token bucket that limits the retries of one model: each takes a token, and an answer gives a part of
/// one back, as time does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryThrottle {
    tokens: f32,
    /// Time of the last change, in seconds of the caller's clock.
    updated: f32,
}

impl RetryThrottle {
    /// A full bucket at the time `now`.
    #[must_use]
    pub fn new(now: f32) -> Self {
        Self {
            tokens: MAX_TOKENS,
            updated: now,
        }
    }

    /// Takes a token for a retry. Returns `false` if there is none.
    #[must_use]
    pub fn take(&mut self, now: f32) -> bool {
        let allowed = self.allows_retry(now);
        self.tokens = self.tokens_at(now) - if allowed { 1.0 } else { 0.0 };
        self.updated = now;
        allowed
    }

    /// Counts an answer.
    pub fn record_answer(&mut self, now: f32) {
        self.tokens = (self.tokens_at(now) + TOKENS_PER_ANSWER).min(MAX_TOKENS);
        self.updated = now;
    }

    /// Whether a request may be retried.
    #[must_use]
    pub fn allows_retry(self, now: f32) -> bool {
        self.tokens_at(now) >= 1.0
    }

    /// Whether the bucket is full, as a new one is.
    #[must_use]
    pub fn is_full(self, now: f32) -> bool {
        self.tokens_at(now) >= MAX_TOKENS
    }

    fn tokens_at(self, now: f32) -> f32 {
        let earned = TOKENS_PER_SECOND * (now - self.updated).max(0.0);
        (self.tokens + earned).min(MAX_TOKENS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_limit_and_is_spread_by_the_jitter() {
        let millis = |failed, jitter| {
            let backoff = retry_backoff(failed, None, jitter).unwrap();
            backoff.as_secs_f32() * 1e3
        };
        let near = |a: f32, b: f32| (a - b).abs() < 0.5;
        for (failed, longest) in [
            (1, 100.0),
            (2, 200.0),
            (3, 400.0),
            (5, 1_600.0),
            (6, 2_000.0),
        ] {
            assert!(near(millis(failed, 1.0), longest), "{failed}");
            assert!(near(millis(failed, 0.0), longest / 2.0), "{failed}");
        }
        assert!(near(millis(u32::MAX, 1.0), 2_000.0) && near(millis(0, 1.0), 100.0));
    }

    #[test]
    fn delay_that_the_server_asks_for_is_kept_unless_it_is_too_long() {
        let after = |seconds| retry_backoff(1, Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(after(3), Some(Duration::from_secs(3)));
        assert_eq!(after(0), retry_backoff(1, None, 0.0));
        assert_eq!(after(6), None);
        let spread = retry_backoff(1, Some(Duration::from_secs(1)), 1.0).unwrap();
        assert_eq!(spread.as_millis(), 1_050);
    }

    #[test]
    fn retries_stop_when_the_tokens_are_used_up_and_return_with_the_answers() {
        let mut throttle = RetryThrottle::new(0.0);
        let allowed = (0..100).filter(|_| throttle.take(0.0)).count();
        assert_eq!(allowed, 10);
        for _ in 0..4 {
            throttle.record_answer(0.0);
            assert!(!throttle.allows_retry(0.0));
        }
        throttle.record_answer(0.0);
        throttle.record_answer(0.0);
        assert!(throttle.take(0.0) && !throttle.take(0.0));
        assert!(!throttle.is_full(0.0));
        for _ in 0..60 {
            throttle.record_answer(0.0);
        }
        assert!(throttle.is_full(0.0));
    }

    #[test]
    fn at_most_one_retry_for_five_answers_in_the_long_run() {
        let mut throttle = RetryThrottle::new(0.0);
        let mut retries = 0;
        for _ in 0..1_000 {
            // A first try that fails, and another request that is answered.
            retries += u32::from(throttle.take(0.0));
            throttle.record_answer(0.0);
        }
        assert!((200..=215).contains(&retries), "{retries}");
    }

    #[test]
    fn model_that_never_answers_is_retried_once_in_ten_seconds() {
        let mut throttle = RetryThrottle::new(0.0);
        let retries = (0..10_000).filter(|tick| throttle.take(*tick as f32 * 0.1));
        let retries = retries.count();
        assert!((100..=120).contains(&retries), "{retries} in 1000 s");
    }

    #[test]
    fn time_alone_fills_the_bucket() {
        let mut throttle = RetryThrottle::new(0.0);
        while throttle.take(0.0) {}
        assert!(!throttle.is_full(99.0));
        assert!(throttle.is_full(101.0));
    }
}
