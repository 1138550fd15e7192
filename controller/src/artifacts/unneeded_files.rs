//! For how long files have not been needed. Pure decisions over plain data.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use flotilla_core::spec::Sha256Digest;

/// For how long a file is kept after it was needed last: the store may have been put back to an earlier
/// state, and nobody else may have the file.
pub(super) const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The state of the store by which files are not needed. In another one, they may be again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StoreState {
    pub(super) fleet_id: Option<String>,
    pub(super) epoch: u64,
    /// How often the store was put back to an earlier state.
    pub(super) put_back: u64,
}

/// Since when each file has not been needed, in the time of this process: the clock of the machine may be
/// wrong until it is set.
#[derive(Debug, Default)]
pub(super) struct UnneededFiles {
    store: StoreState,
    since: HashMap<Sha256Digest, Instant>,
}

impl UnneededFiles {
    /// Forgets everything if the store is not in the state of before.
    pub(super) fn follow(&mut self, store: StoreState) {
        if self.store != store {
            self.store = store;
            self.since.clear();
        }
    }

    /// Notes that a file is needed, or that it is gone.
    pub(super) fn forget(&mut self, sha256: Sha256Digest) {
        self.since.remove(&sha256);
    }

    /// Notes that a file is not needed at `now`. Returns whether it has not been for so long that it is
    /// removed.
    pub(super) fn is_due(&mut self, sha256: Sha256Digest, now: Instant) -> bool {
        let since = *self.since.entry(sha256).or_insert(now);
        let due = now.duration_since(since) >= RETENTION;
        if due {
            self.forget(sha256);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_a_week_after_it_was_needed_last_in_one_state_of_the_store() {
        let (file, start) = (Sha256Digest([1; 32]), Instant::now());
        let week = |weeks: u32| start + RETENTION * weeks;
        let mut files = UnneededFiles::default();
        assert!(!files.is_due(file, start));
        assert!(!files.is_due(file, week(1) - Duration::from_secs(1)));
        files.forget(file);
        assert!(!files.is_due(file, week(2)));
        // The store was put back, got another epoch, or is another fleet's.
        let state = StoreState {
            put_back: 1,
            ..StoreState::default()
        };
        files.follow(state.clone());
        assert!(!files.is_due(file, week(3)));
        files.follow(StoreState {
            epoch: 1,
            ..state.clone()
        });
        assert!(!files.is_due(file, week(4)));
        let foreign = StoreState {
            fleet_id: Some("f".into()),
            ..state
        };
        files.follow(foreign.clone());
        assert!(!files.is_due(file, week(5)));
        files.follow(foreign);
        assert!(files.is_due(file, week(6)));
        assert!(!files.is_due(file, week(6)));
    }
}
