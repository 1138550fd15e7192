//! Which causes of a missing link have been logged.

use std::collections::BTreeSet;

/// Causes that are remembered at once.
const MAX_CAUSES: usize = 16;

/// The causes that have been logged since the last stable session. An address that several servers share
/// may fail for several causes in turn; each is logged once.
#[derive(Debug, Default)]
pub(super) struct LoggedCauses(BTreeSet<String>);

impl LoggedCauses {
    /// Whether a cause has not been logged yet. It counts as logged from then on.
    pub(super) fn is_new(&mut self, cause: &str) -> bool {
        if self.0.contains(cause) {
            return false;
        }
        if self.0.len() >= MAX_CAUSES {
            self.0.clear();
        }
        self.0.insert(cause.to_owned())
    }

    /// Forgets all causes.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_new_once_until_they_are_cleared() {
        let mut logged = LoggedCauses::default();
        let causes = ["refused", "timed out", "refused", "timed out", "refused"];
        assert_eq!(
            causes.map(|cause| logged.is_new(cause)),
            [true, true, false, false, false]
        );
        logged.clear();
        assert!(logged.is_new("refused"));
        for number in 0..2 * MAX_CAUSES {
            assert!(logged.is_new(&number.to_string()));
        }
        assert!(logged.0.len() <= MAX_CAUSES);
    }
}
