//! Keeps the desired state on the disk, for a start while the store is away.
//!
//! At most one save runs, on a thread that may block, and nobody waits for it: what has changed meanwhile
//! is saved once afterwards, in its newest state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::StoreRevision;
use flotilla_core::kept_state::{KeptEntry, KeptState};
use flotilla_telemetry::clock::unix_seconds;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::kept_state::KeptStateFile;
use crate::store::keys::{self, StoreKey};
use crate::store::{StoreChange, StoreEntry};

/// How long after a change the desired state is saved, together with the changes that follow.
const SAVE_DELAY: Duration = Duration::from_secs(2);

/// Keeps the desired state in a file.
pub(crate) struct StateKeeper {
    file: KeptStateFile,
    /// The entries that are kept.
    state: KeptEntries,
    /// When the entries are saved. `None` while nothing has changed since they were.
    save_at: Option<Instant>,
    /// The last states of the store's earlier fleets that are not saved yet.
    earlier_fleets: VecDeque<KeptEntries>,
    saving: Option<JoinHandle<()>>,
}

/// The entries of the store that are kept, at one revision.
#[derive(Clone, Default)]
struct KeptEntries {
    entries: BTreeMap<String, Arc<StoreEntry>>,
    revision: StoreRevision,
}

impl StateKeeper {
    pub(crate) fn new(file: KeptStateFile) -> Self {
        Self {
            file,
            state: KeptEntries::default(),
            save_at: None,
            earlier_fleets: VecDeque::new(),
            saving: None,
        }
    }

    /// Replaces all entries by those of the store.
    pub(crate) fn replace(&mut self, entries: &[StoreEntry], revision: StoreRevision) {
        let kept = entries.iter().filter(|entry| is_kept(&entry.key));
        let state = KeptEntries {
            entries: kept
                .map(|entry| (entry.key.clone(), Arc::new(entry.clone())))
                .collect(),
            revision,
        };
        let earlier = std::mem::replace(&mut self.state, state);
        let id = earlier.fleet_id();
        if self.save_at.is_some() && id.is_some() && id != self.state.fleet_id() {
            // Another fleet's store, or an empty one: what it had before may be nowhere else.
            self.earlier_fleets.retain(|other| other.fleet_id() != id);
            self.earlier_fleets.push_back(earlier);
        }
        self.schedule();
    }

    /// Applies a change of the store.
    pub(crate) fn apply(&mut self, change: &StoreChange) {
        let state = &mut self.state;
        state.revision = state.revision.max(change.revision());
        let changed = match change {
            StoreChange::Put(entry) if is_kept(&entry.key) => {
                let entry = Arc::new(entry.clone());
                state.entries.insert(entry.key.clone(), entry);
                true
            }
            StoreChange::Put(_) => false,
            StoreChange::Delete { key, .. } => state.entries.remove(key).is_some(),
        };
        if changed {
            self.schedule();
        }
    }

    /// Saves the entries soon.
    pub(crate) fn schedule(&mut self) {
        // A store without a fleet is empty, and is no reason to overwrite what it had before.
        if self.state.fleet_id().is_none() {
            self.save_at = None;
        } else {
            self.save_at
                .get_or_insert_with(|| Instant::now() + SAVE_DELAY);
        }
    }

    /// Waits until a save has ended or is due, and starts it then. Cancel-safe.
    pub(crate) async fn step(&mut self) {
        if let Some(saving) = &mut self.saving {
            if let Err(error) = saving.await {
                tracing::error!(%error, "keeping the desired state on the disk has failed");
            }
            self.saving = None;
        } else if let Some(earlier) = self.earlier_fleets.pop_front() {
            self.save(earlier);
        } else if let Some(save_at) = self.save_at {
            tokio::time::sleep_until(save_at).await;
            self.save_at = None;
            self.save(self.state.clone());
        } else {
            std::future::pending().await
        }
    }

    /// Saves what has changed.
    pub(crate) async fn finish(mut self) {
        self.save_at = self.save_at.map(|_| Instant::now());
        while self.saving.is_some() || !self.earlier_fleets.is_empty() || self.save_at.is_some() {
            self.step().await;
        }
    }

    fn save(&mut self, state: KeptEntries) {
        let file = self.file.clone();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = file.save(&state.to_kept_state(unix_seconds())) {
                tracing::warn!(%error, "the desired state cannot be kept on the disk");
            }
        }));
    }
}

impl KeptEntries {
    fn value(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| entry.value.as_slice())
    }

    fn fleet_id(&self) -> Option<&[u8]> {
        self.value(keys::FLEET_ID)
    }

    fn to_kept_state(&self, saved_at: u64) -> KeptState {
        let fleet_id = self.fleet_id().unwrap_or_default();
        let epoch = self.value(keys::EPOCH).and_then(keys::parse_epoch);
        let entries = self.entries.values().map(|entry| KeptEntry {
            key: entry.key.clone(),
            // All values are JSON or names.
            value: String::from_utf8_lossy(&entry.value).into_owned(),
            revision: entry.revision,
        });
        KeptState {
            fleet_id: String::from_utf8_lossy(fleet_id).into_owned(),
            epoch: epoch.unwrap_or_default(),
            revision: self.revision,
            saved_at,
            entries: entries.collect(),
        }
    }
}

/// Returns whether an entry is kept: the desired state is, and where controllers were. What says which
/// processes live now is not.
fn is_kept(key: &str) -> bool {
    !matches!(
        keys::parse(key),
        None | Some(
            StoreKey::Leader
                | StoreKey::Link(..)
                | StoreKey::Waiting(..)
                | StoreKey::FetchProgress(_)
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn desired_state_is_kept_and_what_lives_only_now_is_not() {
        let root = keys::ROOT;
        for kept in [
            "models/m",
            "tasks/t",
            "nodes/n",
            "assignments/n/m",
            "controllers/c",
        ] {
            assert!(is_kept(&format!("{root}{kept}")), "{kept}");
        }
        for lost in [
            "leader",
            "links/n/c",
            "waiting/m/c",
            "markers/x",
            "unknown/y",
        ] {
            assert!(!is_kept(&format!("{root}{lost}")), "{lost}");
        }
    }

    fn entry(key: &str, value: &str, revision: u64) -> StoreEntry {
        StoreEntry {
            key: key.into(),
            value: value.into(),
            revision: StoreRevision(revision),
        }
    }

    fn model(revision: u64) -> StoreEntry {
        entry(&format!("{}models/m", keys::ROOT), "{}", revision)
    }

    /// Does what is due at once.
    async fn save_now(keeper: &mut StateKeeper) {
        keeper.save_at = keeper.save_at.map(|_| Instant::now());
        keeper.step().await;
    }

    #[tokio::test]
    async fn only_the_newest_state_is_saved_after_a_save_that_took_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired-state.jsonl");
        // Whoever opens it to read waits for a writer.
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let file = KeptStateFile::in_dir(dir.path());
        let mut keeper = StateKeeper::new(file.clone());
        keeper.replace(&[entry(keys::FLEET_ID, "f", 1)], StoreRevision(1));
        save_now(&mut keeper).await;
        for revision in 2..5 {
            keeper.apply(&StoreChange::Put(model(revision)));
        }
        // The save has not ended, and nobody has waited for it.
        assert!(keeper.saving.as_ref().is_some_and(|s| !s.is_finished()));
        drop(std::fs::File::options().write(true).open(&path).unwrap());
        keeper.step().await;
        assert_eq!(file.load().unwrap().unwrap().revision, StoreRevision(1));
        save_now(&mut keeper).await;
        keeper.step().await;
        assert_eq!(file.load().unwrap().unwrap().revision, StoreRevision(4));
        assert!(keeper.save_at.is_none());
    }

    #[tokio::test]
    async fn state_of_a_fleet_that_the_store_has_lost_is_saved_and_an_empty_store_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptStateFile::in_dir(dir.path());
        let mut keeper = StateKeeper::new(file.clone());
        keeper.replace(&[entry(keys::FLEET_ID, "f", 1), model(2)], StoreRevision(2));
        // It has lost everything before the state was saved.
        keeper.replace(&[], StoreRevision(1));
        keeper.apply(&StoreChange::Put(model(2)));
        keeper.finish().await;
        let kept = file.load().unwrap().unwrap();
        assert_eq!((kept.fleet_id.as_str(), kept.entries.len()), ("f", 2));
    }
}
