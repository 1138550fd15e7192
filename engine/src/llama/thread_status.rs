//! What a thread that computes tells the others: whether it is stuck, and how fast it reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a step may take, whatever it computes.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How much longer it may take for each of its tokens: slower than any model in use.
const TOKEN_LIMIT: Duration = Duration::from_secs(1);
/// No step is computed.
const IDLE: u64 = 0;

/// The current step of a thread, and its speed.
pub(super) struct ThreadStatus {
    created: Instant,
    /// When the step is overdue, in milliseconds since the thread was started. [`IDLE`] between steps.
    overdue: AtomicU64,
    /// The bits of a number in tokens per second. 0 before the first prompt.
    reading_speed: AtomicU64,
}

impl ThreadStatus {
    pub(super) fn new() -> Self {
        Self {
            created: Instant::now(),
            overdue: AtomicU64::new(IDLE),
            reading_speed: AtomicU64::new(0),
        }
    }

    /// A step of this many tokens begins.
    pub(super) fn begin(&self, tokens: usize) {
        let overdue = self.created.elapsed() + limit(tokens);
        self.overdue
            .store(overdue.as_millis() as u64, Ordering::Relaxed);
    }

    /// The step has ended.
    pub(super) fn end(&self) {
        self.overdue.store(IDLE, Ordering::Relaxed);
    }

    /// How fast prompts are read, in tokens per second. `None` before the first one.
    pub(super) fn reading_speed(&self) -> Option<f64> {
        let speed = f64::from_bits(self.reading_speed.load(Ordering::Relaxed));
        (speed > 0.0).then_some(speed)
    }

    /// Takes note of how fast prompts are read.
    pub(super) fn set_reading_speed(&self, speed: f64) {
        self.reading_speed.store(speed.to_bits(), Ordering::Relaxed);
    }

    /// Why the thread is taken for stuck. `None` if it is not.
    pub(super) fn stall(&self) -> Option<String> {
        let overdue = self.overdue.load(Ordering::Relaxed);
        is_overdue(overdue, self.created.elapsed())
            .then(|| "the engine has not ended a step of its computation in time".to_owned())
    }
}

fn limit(tokens: usize) -> Duration {
    STEP_LIMIT + TOKEN_LIMIT * u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn is_overdue(overdue: u64, now: Duration) -> bool {
    overdue != IDLE && now > Duration::from_millis(overdue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_may_take_longer_the_more_it_computes() {
        assert_eq!(limit(0), Duration::from_secs(30));
        assert_eq!(limit(256), Duration::from_secs(286));
        assert!(!is_overdue(IDLE, Duration::from_secs(1_000)));
        assert!(!is_overdue(5_000, Duration::from_secs(5)));
        assert!(is_overdue(5_000, Duration::from_millis(5_001)));
    }
}
