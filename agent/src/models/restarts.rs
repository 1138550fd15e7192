//! When a model instance whose process has ended is started again.

use std::time::{Duration, Instant};

/// The first wait before a restart; each further one is longer by [`FACTOR`].
const FIRST_DELAY: Duration = Duration::from_secs(1);
const FACTOR: u32 = 4;
/// The number of ends within [`PERIOD`] after which the node gives up: the controllers then place the model
/// elsewhere, or here again later.
const MAX_ENDS: usize = 5;
/// How long an end counts.
const PERIOD: Duration = Duration::from_secs(600);

/// The recent ends of an instance's processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Restarts {
    ends: Vec<Instant>,
}

impl Restarts {
    /// Whether the process has ended before, so that its next start is a restart.
    pub(super) fn has_ended(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Records that the process has ended, or could not be started again, at the time `now`. Returns the time until it is started again, or
    /// `None` when it has ended too often.
    pub(super) fn record_end(&mut self, now: Instant) -> Option<Duration> {
        let counts = |end: &Instant| now.saturating_duration_since(*end) < PERIOD;
        self.ends.retain(counts);
        self.ends.push(now);
        let earlier = u32::try_from(self.ends.len() - 1).unwrap_or(u32::MAX);
        (self.ends.len() < MAX_ENDS).then(|| FIRST_DELAY * FACTOR.saturating_pow(earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_restart_waits_longer_until_the_node_gives_up() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let delays: Vec<_> = (0..5).map(|_| restarts.record_end(now)).collect();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            delays,
            [seconds(1), seconds(4), seconds(16), seconds(64), None]
        );
    }

    #[test]
    fn old_ends_are_forgotten() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for _ in 0..4 {
            restarts.record_end(now);
        }
        let later = now + PERIOD;
        assert_eq!(restarts.record_end(later), Some(FIRST_DELAY));
    }
}
