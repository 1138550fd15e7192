//! The retry policies for a store that does not answer.

use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBackoff, ExponentialBuilder};

/// The delay before the first retry, without jitter.
const MIN_DELAY: Duration = Duration::from_millis(100);
/// The longest delay, without jitter. Jitter at most doubles it, so that a controller notices
/// within a second that the store is back.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// Retries without end, with exponential delays and jitter: a controller outlives an outage of the
/// store of any length.
pub(crate) fn policy() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(MIN_DELAY)
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
}

/// The number of retries of [`client_policy`].
const CLIENT_RETRIES: usize = 3;
/// The delay between two attempts of [`client_policy`].
const CLIENT_DELAY: Duration = Duration::from_millis(250);

/// Retries a few times at a constant interval: for a change that a client waits for, so that users do
/// not notice the failure of one etcd member.
pub(crate) fn client_policy() -> ConstantBuilder {
    ConstantBuilder::default()
        .with_delay(CLIENT_DELAY)
        .with_max_times(CLIENT_RETRIES)
}

/// The delays of [`policy`] for loops that do more between two attempts than wait, which
/// `backon::Retryable` cannot express.
#[derive(Debug)]
pub(crate) struct RetryDelays(ExponentialBackoff);

impl Default for RetryDelays {
    fn default() -> Self {
        Self(policy().build())
    }
}

impl RetryDelays {
    /// Returns the delay before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        // The policy has no end; the fallback is never used.
        self.0.next().unwrap_or(MAX_DELAY)
    }

    /// Waits before the next attempt.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Starts again with the shortest delay. Call it after an attempt that succeeded.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_second_at_most_never_end_and_start_again_after_success() {
        let mut delays = RetryDelays::default();
        assert!(delays.next_delay() <= 2 * MIN_DELAY);
        let later: Vec<_> = (0..100).map(|_| delays.next_delay()).collect();
        assert!(later.iter().all(|delay| *delay <= 2 * MAX_DELAY));
        assert!(later[99] >= MAX_DELAY);
        delays.reset();
        assert!(delays.next_delay() <= 2 * MIN_DELAY);
    }
}
