//! Whether the store can be read and changed, as far as this controller knows.

use std::time::{Duration, Instant};

/// How long the store may take no changes until no replica is expected that would need one.
pub(super) const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// Whether the store can be read and changed.
#[derive(Debug, Default)]
pub(super) struct StoreAvailability {
    /// Why the store does not answer. `None` while it does.
    pub(super) error: Option<String>,
    /// Why the store takes no changes, though it can be read. `None` while it does.
    pub(super) changes_blocked: Option<String>,
    /// Since when changes have not been possible, for either reason.
    unchangeable_since: Option<Instant>,
    /// Whether changes have not been possible for so long that none is expected soon.
    pub(super) unchangeable: bool,
}

impl StoreAvailability {
    /// Whether the store answers.
    pub(super) fn answers(&self) -> bool {
        self.error.is_none()
    }

    /// Sets why the store takes no changes. Returns whether that is new.
    pub(super) fn set_changes_blocked(&mut self, error: Option<String>) -> bool {
        std::mem::replace(&mut self.changes_blocked, error) != self.changes_blocked
    }

    /// Notes that the store answers. Returns whether it did not before.
    pub(super) fn set_answers(&mut self) -> bool {
        self.error.take().is_some()
    }

    /// Follows for how long changes have not been possible. Returns whether
    /// [`unchangeable`](Self::unchangeable) changes.
    pub(super) fn update(&mut self, now: Instant) -> bool {
        let blocked = self.error.is_some() || self.changes_blocked.is_some();
        self.unchangeable_since = blocked.then(|| self.unchangeable_since.unwrap_or(now));
        let since = self.unchangeable_since;
        let unchangeable = since.is_some_and(|since| since + CHANGE_PATIENCE <= now);
        std::mem::replace(&mut self.unchangeable, unchangeable) != unchangeable
    }

    /// When [`update`](Self::update) changes something next. `None`: not by itself.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let since = self.unchangeable_since.filter(|_| !self.unchangeable)?;
        Some(since + CHANGE_PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_expected_again_until_they_were_not_possible_for_long() {
        let now = Instant::now();
        let mut store = StoreAvailability::default();
        assert!(!store.update(now) && store.next_deadline().is_none());
        assert!(store.set_changes_blocked(Some("full".into())));
        assert!(!store.set_changes_blocked(Some("full".into())));
        assert!(!store.update(now) && store.answers());
        let due = store.next_deadline().unwrap();
        assert!(store.update(due) && store.unchangeable);
        assert_eq!(store.next_deadline(), None);
        assert!(store.set_changes_blocked(None) && store.update(due));
        assert!(!store.unchangeable);
        store.error = Some("away".into());
        assert!(!store.answers());
        assert!(store.set_answers() && !store.set_answers());
    }
}
