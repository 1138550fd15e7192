//! A circuit breaker: after repeated failures a replica gets no requests for a while, then one trial
//! request, and all again once that is answered (Nygard, "Release It!", 2007).

/// Consecutive failures that open the breaker. Our own choice.
const MAX_FAILURES: u32 = 3;
/// Seconds that the breaker stays open at first; twice as long after each failed trial.
const INITIAL_OPEN_SECONDS: f32 = 5.0;
/// The longest time that the breaker stays open, in seconds.
const MAX_OPEN_SECONDS: f32 = 60.0;

/// The circuit breaker of one replica. Times are in seconds of the caller's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CircuitBreaker {
    /// Consecutive failures.
    failures: u32,
    /// How many times it opened since the last answer.
    opened: u32,
    /// Time until which it is open.
    open_until: f32,
    /// Whether a trial request is under way.
    trial: bool,
}

impl CircuitBreaker {
    /// Whether a request may be sent to the replica.
    #[must_use]
    pub fn allows_request(&self, now: f32) -> bool {
        self.opened == 0 || (now >= self.open_until && !self.trial)
    }

    /// Records that a request was sent to the replica.
    pub fn record_request(&mut self, now: f32) {
        self.trial = self.opened > 0 && now >= self.open_until;
    }

    /// Records that the replica answered, which closes the breaker.
    pub fn record_success(&mut self) {
        *self = Self::default();
    }

    /// Records that the replica failed.
    pub fn record_failure(&mut self, now: f32) {
        self.failures += 1;
        // Failures of requests that were sent before the breaker opened do not count again.
        let opens = self.opened == 0 && self.failures >= MAX_FAILURES;
        if opens || std::mem::take(&mut self.trial) {
            self.opened += 1;
            let doublings = 2_f32.powi(self.opened.min(16) as i32 - 1);
            self.open_until = now + (INITIAL_OPEN_SECONDS * doublings).min(MAX_OPEN_SECONDS);
        }
    }

    /// Records that a request ended without saying anything of the replica, such as one whose client
    /// disconnected.
    pub fn record_cancellation(&mut self) {
        self.trial = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(now: f32) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..MAX_FAILURES {
            assert!(breaker.allows_request(now));
            breaker.record_request(now);
            breaker.record_failure(now);
        }
        breaker
    }

    #[test]
    fn breaker_opens_after_consecutive_failures_and_closes_with_an_answer() {
        let mut breaker = open(0.0);
        assert!(
            !breaker.allows_request(INITIAL_OPEN_SECONDS - 0.1)
                && breaker.allows_request(INITIAL_OPEN_SECONDS)
        );
        breaker.record_request(INITIAL_OPEN_SECONDS);
        assert!(
            !breaker.allows_request(INITIAL_OPEN_SECONDS),
            "one trial request, not all"
        );
        breaker.record_success();
        assert_eq!(breaker, CircuitBreaker::default());
    }

    #[test]
    fn answer_in_between_resets_the_failures() {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..10 {
            breaker.record_failure(0.0);
            breaker.record_failure(0.0);
            breaker.record_success();
        }
        assert!(breaker.allows_request(0.0));
    }

    #[test]
    fn breaker_stays_open_longer_after_each_failed_trial() {
        let mut breaker = open(0.0);
        let mut now = INITIAL_OPEN_SECONDS;
        for expected in [10.0, 20.0, 40.0, MAX_OPEN_SECONDS, MAX_OPEN_SECONDS] {
            breaker.record_request(now);
            breaker.record_failure(now);
            assert!(!breaker.allows_request(now + expected - 0.1), "{expected}");
            now += expected;
            assert!(breaker.allows_request(now), "{expected}");
        }
    }

    #[test]
    fn late_failures_and_cancellations_change_nothing() {
        let mut breaker = open(0.0);
        breaker.record_failure(4.0);
        assert!(
            breaker.allows_request(INITIAL_OPEN_SECONDS),
            "it was under way when it opened"
        );
        breaker.record_request(INITIAL_OPEN_SECONDS);
        breaker.record_cancellation();
        assert!(
            breaker.allows_request(INITIAL_OPEN_SECONDS),
            "the next request is the trial"
        );
    }
}
