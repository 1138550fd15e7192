//! The delays between attempts to link to a controller.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Shortest possible delay; the first one is up to twice as long.
const MIN_DELAY: Duration = Duration::from_millis(50);
/// Limit of the exponential growth; a delay is up to twice as long.
const MAX_DELAY: Duration = Duration::from_millis(2_500);

/// The delays between attempts, without end. `backon` adds up to 100 % to each at random, so that nodes
/// that lost the same controller do not come back all at once.
pub(super) struct ReconnectDelays(<ExponentialBuilder as BackoffBuilder>::Backoff);

impl Default for ReconnectDelays {
    /// Delays that double from 0.05–0.1 s to 2.5–5 s.
    fn default() -> Self {
        Self::growing_from(MIN_DELAY)
    }
}

impl ReconnectDelays {
    /// Delays of 2.5–5 s from the first on.
    pub(super) fn longest() -> Self {
        Self::growing_from(MAX_DELAY)
    }

    fn growing_from(min_delay: Duration) -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(min_delay)
            .with_max_delay(MAX_DELAY)
            .with_jitter()
            .without_max_times();
        Self(builder.build())
    }

    /// The next delay.
    pub(super) fn next_delay(&mut self) -> Duration {
        // Without a maximum number of attempts there is always a next one.
        self.0.next().unwrap_or(MAX_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_vary_by_chance() {
        let mut delays = ReconnectDelays::default();
        let mut base = MIN_DELAY;
        for _ in 0..20 {
            let delay = delays.next_delay();
            assert!((base..=base * 2).contains(&delay), "{delay:?}");
            base = (base * 2).min(MAX_DELAY);
        }
        let first = ReconnectDelays::longest().next_delay();
        assert!((MAX_DELAY..=MAX_DELAY * 2).contains(&first));
    }
}
