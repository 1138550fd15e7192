//! Growing pauses between tries.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that double from try to try up to a limit, each shortened by chance by up to half,
/// so that nodes that lost the same controller do not come back all at once.
pub(super) struct Backoff {
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: FIRST }
    }
}

impl Backoff {
    /// Pauses that are as long as they get.
    pub(super) fn longest() -> Self {
        Self { pause: LONGEST }
    }

    /// The next pause; `chance` is from 0 to 1.
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let pause = self.pause.mul_f64(1.0 - chance / 2.0);
        self.pause = (self.pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_chance_shortens_them() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0.0), FIRST);
        assert_eq!(backoff.next(0.0), FIRST * 2);
        assert_eq!(backoff.next(1.0), FIRST * 2);
        for _ in 0..10 {
            backoff.next(0.0);
        }
        assert_eq!(backoff.next(0.0), LONGEST);
    }
}
