//! A circuit breaker: a replica that fails time after time is left alone for a while, then tried
//! by one request, and only if that is answered by all again (Nygard, "Release It!", 2007).

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// Seconds that it stays open at first; twice as long after each failed try.
const FIRST: f32 = 5.0;
/// Never longer than this, in seconds.
const LONGEST: f32 = 60.0;

/// The breaker of one replica. Times are in seconds of the caller's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CircuitBreaker {
    /// In a row.
    failures: u32,
    /// How many times it opened since the last answer.
    opened: u32,
    /// Until when it is open.
    until: f32,
    /// Whether a request tries the replica.
    trying: bool,
}

impl CircuitBreaker {
    /// Whether a request may go to the replica.
    #[must_use]
    pub fn admits(&self, now: f32) -> bool {
        self.opened == 0 || (now >= self.until && !self.trying)
    }

    /// A request goes there.
    pub fn began(&mut self, now: f32) {
        self.trying = self.opened > 0 && now >= self.until;
    }

    /// The replica answered.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// The replica failed.
    pub fn failed(&mut self, now: f32) {
        self.failures += 1;
        // Requests that were under way when it opened say nothing new.
        let closed = self.opened == 0 && self.failures >= FAILURES;
        if closed || std::mem::take(&mut self.trying) {
            self.opened += 1;
            let doublings = 2_f32.powi(self.opened.min(16) as i32 - 1);
            self.until = now + (FIRST * doublings).min(LONGEST);
        }
    }

    /// A request ended that says nothing of the replica: its client went away, say.
    pub fn ended(&mut self) {
        self.trying = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(now: f32) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.admits(now));
            breaker.began(now);
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_an_answer() {
        let mut breaker = open(0.0);
        assert!(!breaker.admits(FIRST - 0.1) && breaker.admits(FIRST));
        breaker.began(FIRST);
        assert!(!breaker.admits(FIRST), "one tries it, not all");
        breaker.answered();
        assert_eq!(breaker, CircuitBreaker::default());
    }

    #[test]
    fn an_answer_in_between_forgives() {
        let mut breaker = CircuitBreaker::default();
        for _ in 0..10 {
            breaker.failed(0.0);
            breaker.failed(0.0);
            breaker.answered();
        }
        assert!(breaker.admits(0.0));
    }

    #[test]
    fn it_stays_open_longer_after_each_failed_try() {
        let mut breaker = open(0.0);
        let mut now = FIRST;
        for expected in [10.0, 20.0, 40.0, LONGEST, LONGEST] {
            breaker.began(now);
            breaker.failed(now);
            assert!(!breaker.admits(now + expected - 0.1), "{expected}");
            now += expected;
            assert!(breaker.admits(now), "{expected}");
        }
    }

    #[test]
    fn late_failures_and_clients_that_leave_change_nothing() {
        let mut breaker = open(0.0);
        breaker.failed(4.0);
        assert!(breaker.admits(FIRST), "it was under way when it opened");
        breaker.began(FIRST);
        breaker.ended();
        assert!(breaker.admits(FIRST), "the next one tries");
    }
}
