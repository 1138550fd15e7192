//! Keeps the desired state on the disk, for a start while the store is away.
//!
//! At most one save runs, on a thread that may block, and nobody waits for it: what has changed meanwhile
//! is saved once afterwards, in its newest state.

use std::collections::{BTreeMap, VecDeque};
use std::io;
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

/// How long after a save that has failed the next one is tried.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Keeps the desired state in a file.
pub(crate) struct StateKeeper {
    file: KeptStateFile,
    /// The entries that are kept.
    state: KeptEntries,
    /// When the entries are saved. `None` while nothing has changed since they were.
    save_at: Option<Instant>,
    /// The last states of the store's earlier fleets that are not saved yet.
    earlier_fleets: VecDeque<KeptEntries>,
    saving: Option<Saving>,
    /// How often all entries were replaced.
    snapshots: u64,
    /// The number of `snapshots` when the saved entries were read. `None` before the first save.
    saved_snapshot: Option<u64>,
    /// When the next save may begin, after one that has failed.
    retry_at: Option<Instant>,
}

/// A save that runs.
struct Saving {
    task: JoinHandle<io::Result<()>>,
    /// What is saved, if it is the state of an earlier fleet.
    earlier_fleet: Option<KeptEntries>,
    /// The number of snapshots when the save began.
    snapshot: u64,
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
            snapshots: 0,
            saved_snapshot: None,
            retry_at: None,
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
        self.snapshots += 1;
        let earlier = std::mem::replace(&mut self.state, state);
        let id = earlier.fleet_id();
        // A save that runs may fail.
        let is_unsaved = self.save_at.is_some() || self.saving.is_some();
        if is_unsaved && id.is_some() && id != self.state.fleet_id() {
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
            let saved = (&mut saving.task).await;
            let (earlier_fleet, snapshot) = (saving.earlier_fleet.take(), saving.snapshot);
            self.saving = None;
            let failure = match saved {
                Ok(Ok(())) => {
                    self.saved_snapshot = earlier_fleet.is_none().then_some(snapshot);
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(
                error = failure,
                "the desired state cannot be kept on the disk: it is tried again"
            );
            let retry_at = Instant::now() + RETRY_DELAY;
            self.retry_at = Some(retry_at);
            match earlier_fleet {
                Some(earlier) => self.earlier_fleets.push_front(earlier),
                None => self.save_at = self.save_at.or(Some(retry_at)),
            }
        } else if let Some(retry_at) = self.retry_at {
            tokio::time::sleep_until(retry_at).await;
            self.retry_at = None;
        } else if let Some(earlier) = self.earlier_fleets.pop_front() {
            self.save(earlier.clone(), Some(earlier));
        } else if let Some(save_at) = self.save_at {
            tokio::time::sleep_until(save_at).await;
            self.save_at = None;
            self.save(self.state.clone(), None);
        } else {
            std::future::pending().await
        }
    }

    /// Saves what has changed, or fails to once more.
    pub(crate) async fn finish(mut self) {
        self.retry_at = None;
        self.save_at = self.save_at.map(|_| Instant::now());
        while self.retry_at.is_none()
            && (self.saving.is_some() || self.save_at.is_some() || !self.earlier_fleets.is_empty())
        {
            self.step().await;
        }
    }

    fn save(&mut self, state: KeptEntries, earlier_fleet: Option<KeptEntries>) {
        let file = self.file.clone();
        // Since the snapshot only single changes have come, none of which takes the store back.
        let is_followed = self.saved_snapshot == Some(self.snapshots);
        let save = move || file.save(&state.to_kept_state(unix_seconds()), is_followed);
        self.saving = Some(Saving {
            task: tokio::task::spawn_blocking(save),
            earlier_fleet,
            snapshot: self.snapshots,
        });
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
            "authority",
            "enrolments/n",
            "join-tokens/0123456789",
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

    /// Takes a step, at once.
    async fn save_now(keeper: &mut StateKeeper) {
        keeper.save_at = keeper.save_at.map(|_| Instant::now());
        keeper.retry_at = keeper.retry_at.map(|_| Instant::now());
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
        assert!(
            keeper
                .saving
                .as_ref()
                .is_some_and(|s| !s.task.is_finished())
        );
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

    #[tokio::test]
    async fn state_is_put_aside_once_when_the_epoch_is_raised_after_the_store_was_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptStateFile::in_dir(dir.path());
        let mut keeper = StateKeeper::new(file.clone());
        let fleet = |revision| [entry(keys::FLEET_ID, "f", 1), model(revision)];
        let aside = || {
            let files = std::fs::read_dir(dir.path()).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut aside: Vec<_> = names.filter(|n| n != "desired-state.jsonl").collect();
            aside.sort();
            aside
        };
        let save = async |keeper: &mut StateKeeper| {
            save_now(keeper).await;
            keeper.step().await;
            assert!(keeper.save_at.is_none() && keeper.saving.is_none());
        };
        let raise = |epoch, revision| StoreChange::Put(entry(keys::EPOCH, epoch, revision));
        keeper.replace(&fleet(90), StoreRevision(90));
        save(&mut keeper).await;
        // It is put back, and saved before a node shows that the epoch is to be raised.
        keeper.replace(&fleet(50), StoreRevision(50));
        save(&mut keeper).await;
        assert_eq!(aside(), ["desired-state.f.0-90.jsonl"]);
        keeper.apply(&raise("1", 51));
        save(&mut keeper).await;
        assert_eq!(aside(), ["desired-state.f.0-90.jsonl"]);
        assert_eq!(file.load().unwrap().unwrap().epoch, 1);
        // What happens in a gap is not known.
        keeper.replace(&fleet(60), StoreRevision(60));
        save(&mut keeper).await;
        assert_eq!(aside().len(), 2);
        // Another fleet is one on any way.
        keeper.apply(&StoreChange::Put(entry(keys::FLEET_ID, "g", 61)));
        save(&mut keeper).await;
        assert_eq!(aside().len(), 3);
    }

    #[tokio::test]
    async fn save_that_has_failed_is_repeated_until_the_disk_has_room() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("data");
        std::fs::write(&blocked, "a file where the folder should be").unwrap();
        let file = KeptStateFile::in_dir(&blocked);
        let mut keeper = StateKeeper::new(file.clone());
        keeper.replace(&[entry(keys::FLEET_ID, "f", 1)], StoreRevision(1));
        // Before it is saved, the store has another fleet.
        keeper.replace(&[entry(keys::FLEET_ID, "g", 1)], StoreRevision(1));
        for _ in 0..20 {
            save_now(&mut keeper).await;
        }
        std::fs::remove_file(&blocked).unwrap();
        while keeper.save_at.is_some() || keeper.saving.is_some() {
            save_now(&mut keeper).await;
        }
        assert_eq!(file.load().unwrap().unwrap().fleet_id, "g");
        let aside = blocked.join("desired-state.f.0-1.jsonl");
        assert!(aside.exists());
    }

    #[tokio::test]
    async fn an_end_does_not_wait_for_a_disk_that_fails() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("data");
        std::fs::write(&blocked, "a file where the folder should be").unwrap();
        let mut keeper = StateKeeper::new(KeptStateFile::in_dir(&blocked));
        keeper.replace(&[entry(keys::FLEET_ID, "f", 1)], StoreRevision(1));
        keeper.finish().await;
    }
}
