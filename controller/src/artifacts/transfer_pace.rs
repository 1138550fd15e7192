//! How fast a file must arrive.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time in which [`MIN_PROGRESS`] of a file that is being stored arrives, or its end.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// What arrives at least within [`SILENCE`], in bytes: who sends less holds up others.
pub(super) const MIN_PROGRESS: u64 = 64 << 10;

/// The time by which more of a file must have arrived.
pub(super) struct TransferPace {
    pub(super) deadline: Instant,
    /// The size that moves the deadline.
    due: u64,
}

impl TransferPace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            deadline: now + SILENCE,
            due: MIN_PROGRESS,
        }
    }

    /// Notes how many bytes have arrived.
    pub(super) fn advance(&mut self, size: u64, now: Instant) {
        if size >= self.due {
            self.deadline = now + SILENCE;
            self.due = size + MIN_PROGRESS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_does_not_keep_an_upload_alive() {
        let start = Instant::now();
        let mut pace = TransferPace::new(start);
        pace.advance(1, start + SILENCE / 2);
        pace.advance(MIN_PROGRESS - 1, start + SILENCE / 2);
        assert_eq!(pace.deadline, start + SILENCE);
        pace.advance(MIN_PROGRESS, start + SILENCE / 2);
        assert_eq!(pace.deadline, start + SILENCE / 2 + SILENCE);
    }
}
