//! The two kinds of revision, as two types that cannot be mixed up, and the version of a desired state.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A revision of a model: a hash that changes if, and only if, nodes must reload the model. See
/// [`Model::serving_revision`](crate::spec::Model::serving_revision). Revisions have no order.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ModelRevision(pub u64);

/// A revision of the fleet's store. It increases with every write; 0 is the empty store.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

/// The version of a desired state: which of two is newer. The epoch counts first, then the revision of
/// the store that the state was read at.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StateVersion {
    /// How often the store has gone back to an earlier revision, as after the restore of a backup.
    pub epoch: u64,
    /// The revision of the store.
    pub revision: StoreRevision,
}

/// How far the epoch that a node has obeyed may be above that of the store. No store is put back more often
/// than that between two of its backups: a larger epoch is a fault of the node.
const MAX_EPOCH_LEAD: u64 = 1 << 10;

impl StateVersion {
    /// Returns whether a node can have obeyed this version, of a store that is at `store_epoch` now.
    #[must_use]
    pub fn is_plausible(self, store_epoch: u64) -> bool {
        self.epoch <= store_epoch.saturating_add(MAX_EPOCH_LEAD)
    }

    /// Returns the epoch that this version of the store must be raised to, so that a node that follows
    /// `followed` obeys the store again. `None` if it does so already.
    #[must_use]
    pub fn raised_epoch(self, followed: Self) -> Option<u64> {
        (followed > self).then(|| self.epoch.max(followed.epoch).saturating_add(1))
    }
}

impl fmt::Display for StateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in epoch {}", self.revision, self.epoch)
    }
}

impl ModelRevision {
    /// Returns the revision made of the first eight bytes of a SHA-256 digest.
    #[must_use]
    pub fn from_digest(digest: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for ModelRevision {
    /// Writes the first eight hexadecimal digits, which are enough for people to distinguish
    /// revisions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 32)
    }
}

impl fmt::Display for StoreRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(epoch: u64, revision: u64) -> StateVersion {
        StateVersion {
            epoch,
            revision: StoreRevision(revision),
        }
    }

    #[test]
    fn the_epoch_is_raised_only_for_a_node_that_is_ahead_of_the_store() {
        assert_eq!(version(0, 300).raised_epoch(version(0, 500)), Some(1));
        assert_eq!(version(0, 300).raised_epoch(version(0, 300)), None);
        assert_eq!(version(1, 300).raised_epoch(version(0, 500)), None);
        // The store was put back to before the epoch was raised.
        assert_eq!(version(0, 900).raised_epoch(version(1, 10)), Some(2));
    }

    #[test]
    fn an_epoch_far_above_the_stores_is_not_plausible() {
        assert!(version(0, 7).is_plausible(5));
        assert!(version(6 + MAX_EPOCH_LEAD, 7).is_plausible(6));
        assert!(!version(u64::MAX, 7).is_plausible(6));
        assert!(version(u64::MAX, 7).is_plausible(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn a_store_at_the_raised_epoch_is_ahead_of_every_node(
            store in (0..4_u64, 0..9_u64), followed in (0..4_u64, 0..9_u64), later in 0..9_u64
        ) {
            let (store, followed) = (version(store.0, store.1), version(followed.0, followed.1));
            if let Some(epoch) = store.raised_epoch(followed) {
                prop_assert!(version(epoch, later) > followed);
                prop_assert!(version(epoch, later) > store);
            } else {
                prop_assert!(store >= followed);
            }
        }
    }
}
