//! What a store gets that has lost the fleet, until it has one again.
//!
//! An etcd whose data is gone is as good as one that is away: what was known of the desired state is served
//! on. What `flotilla restore` writes meanwhile is put aside here, and counts as a whole once the fleet's id
//! is written last.

use std::collections::BTreeMap;

use crate::store::keys::{self, StoreKey};
use crate::store::{StoreChange, StoreEntry};

/// The entries of a store that has no fleet.
#[derive(Debug, Default)]
pub(super) struct StagedStore {
    entries: BTreeMap<String, StoreEntry>,
}

impl StagedStore {
    pub(super) fn new(entries: Vec<StoreEntry>) -> Self {
        let entries = entries.into_iter();
        Self {
            entries: entries.map(|entry| (entry.key.clone(), entry)).collect(),
        }
    }

    /// Applies a change of the store.
    pub(super) fn apply(&mut self, change: StoreChange) {
        match change {
            StoreChange::Put(entry) => {
                self.entries.insert(entry.key.clone(), entry);
            }
            StoreChange::Delete { key, .. } => {
                self.entries.remove(&key);
            }
        }
    }

    /// Whether the store has a fleet again.
    pub(super) fn has_fleet(&self) -> bool {
        self.entries.contains_key(keys::FLEET_ID)
    }

    /// The entries that say which processes live now. They count at once.
    pub(super) fn live(&self) -> impl Iterator<Item = &StoreEntry> {
        self.entries.values().filter(|entry| is_live(&entry.key))
    }

    /// All entries.
    pub(super) fn into_entries(self) -> Vec<StoreEntry> {
        self.entries.into_values().collect()
    }
}

/// Whether entries have a fleet's id.
pub(crate) fn has_fleet(entries: &[StoreEntry]) -> bool {
    entries.iter().any(|entry| entry.key == keys::FLEET_ID)
}

/// Whether an entry says which processes live now, as opposed to the desired state.
pub(super) fn is_live(key: &str) -> bool {
    matches!(
        keys::parse(key),
        Some(
            StoreKey::Leader | StoreKey::Controller(_) | StoreKey::Link(..) | StoreKey::Waiting(..)
        )
    )
}
