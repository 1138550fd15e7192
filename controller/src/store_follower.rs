//! Passes every change of the store on to the fleet state, and keeps the desired state on the disk.
//!
//! While the store is away at the start, the fleet state gets what was kept: the controller then serves
//! from it, and writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::StoreRevision;
use flotilla_core::kept_state::{KeptEntry, KeptState};
use flotilla_telemetry::clock::unix_seconds;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetEvent, FleetHandle};
use crate::kept_state::KeptStateFile;
use crate::store::keys::{self, StoreKey};
use crate::store::{MonitoredStore, Store, StoreChange, StoreEntry, StoreError, WatchEvent};

/// How long after a change the desired state is saved, together with the changes that follow.
const SAVE_DELAY: Duration = Duration::from_secs(2);

/// The task that follows the store.
pub(crate) struct StoreFollower {
    store: Arc<MonitoredStore>,
    fleet: FleetHandle,
    file: KeptStateFile,
    /// The entries that are kept, by key.
    entries: BTreeMap<String, Arc<StoreEntry>>,
    revision: StoreRevision,
    /// Whether the store was read, or the kept state was loaded.
    started: bool,
    /// When the entries are saved. `None` while nothing has changed since they were.
    save_at: Option<tokio::time::Instant>,
    saving: Option<JoinHandle<()>>,
}

impl StoreFollower {
    pub(crate) fn new(store: Arc<MonitoredStore>, fleet: FleetHandle, file: KeptStateFile) -> Self {
        Self {
            store,
            fleet,
            file,
            entries: BTreeMap::new(),
            revision: StoreRevision::default(),
            started: false,
            save_at: None,
            saving: None,
        }
    }

    /// Runs until `stop` is cancelled, then saves what has changed since.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let blocked = self.store.blocked();
        let ended: Result<(), StoreError> = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = self.follow(blocked) => ended,
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the watch of the store has failed");
        }
        self.finish_saving().await;
        if self.save_at.is_some() {
            self.start_saving();
            self.finish_saving().await;
        }
    }

    async fn follow(
        &mut self,
        mut blocked: watch::Receiver<Option<String>>,
    ) -> Result<(), StoreError> {
        let mut watch = self.store.watch(keys::ROOT).await?;
        loop {
            let save_at = self.save_at;
            tokio::select! {
                event = watch.next() => self.pass_on(event?).await,
                changed = blocked.changed() => {
                    if changed.is_ok() {
                        let error = blocked.borrow_and_update().clone();
                        // Whatever has happened to the store may have happened to the file as well.
                        if error.is_some() {
                            self.schedule_saving();
                        }
                        self.fleet.send(FleetEvent::ChangesBlocked(error)).await;
                    }
                }
                () = sleep_until(save_at), if save_at.is_some() => {
                    self.finish_saving().await;
                    self.start_saving();
                }
            }
        }
    }

    async fn pass_on(&mut self, event: WatchEvent) {
        let event = match event {
            WatchEvent::Snapshot { entries, revision } => {
                self.replace(&entries, revision).await;
                FleetEvent::StoreSnapshot { entries, revision }
            }
            WatchEvent::Change(change) => {
                self.apply(&change);
                FleetEvent::StoreChanged(change)
            }
            WatchEvent::Unavailable(problem) => {
                self.fleet.send(FleetEvent::StoreUnavailable(problem)).await;
                return self.start_from_kept_state().await;
            }
            WatchEvent::Available => FleetEvent::StoreAvailable,
        };
        self.fleet.send(event).await;
    }

    /// Loads the kept state, unless the store was read already.
    async fn start_from_kept_state(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let file = self.file.clone();
        let loaded = tokio::task::spawn_blocking(move || file.load()).await;
        match loaded {
            Ok(Ok(Some(state))) => {
                tracing::warn!(
                    revision = %state.revision,
                    "the store is away: serving from the desired state that was kept on the disk, without changes"
                );
                let entries = state.entries.into_iter().map(|entry| StoreEntry {
                    key: entry.key,
                    value: entry.value.into_bytes(),
                    revision: entry.revision,
                });
                let event = FleetEvent::KeptState {
                    entries: entries.collect(),
                    revision: state.revision,
                    saved_at: state.saved_at,
                };
                self.fleet.send(event).await;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the desired state that was kept on the disk cannot be used");
            }
            Err(error) => tracing::error!(%error, "reading the kept desired state has failed"),
        }
    }

    async fn replace(&mut self, entries: &[StoreEntry], revision: StoreRevision) {
        self.started = true;
        let mut others = entries.iter().filter(|entry| entry.key == keys::FLEET_ID);
        let fleet = others.next().map(|entry| &entry.value);
        let earlier = self.entries.get(keys::FLEET_ID).map(|entry| &entry.value);
        if self.save_at.is_some() && earlier.is_some() && earlier != fleet {
            // Another fleet's store, or an empty one: what it had before is not saved yet.
            self.finish_saving().await;
            self.start_saving();
        }
        let kept = entries.iter().filter(|entry| is_kept(&entry.key));
        self.entries = kept
            .map(|entry| (entry.key.clone(), Arc::new(entry.clone())))
            .collect();
        self.revision = revision;
        self.schedule_saving();
    }

    fn apply(&mut self, change: &StoreChange) {
        self.revision = self.revision.max(change.revision());
        let changed = match change {
            StoreChange::Put(entry) if is_kept(&entry.key) => {
                let entry = Arc::new(entry.clone());
                self.entries.insert(entry.key.clone(), entry);
                true
            }
            StoreChange::Put(_) => false,
            StoreChange::Delete { key, .. } => self.entries.remove(key).is_some(),
        };
        if changed {
            self.schedule_saving();
        }
    }

    fn schedule_saving(&mut self) {
        self.save_at
            .get_or_insert_with(|| tokio::time::Instant::now() + SAVE_DELAY);
    }

    /// Starts to save the entries, on a thread that may block.
    fn start_saving(&mut self) {
        self.save_at = None;
        let entries: Vec<_> = self.entries.values().cloned().collect();
        let (file, revision) = (self.file.clone(), self.revision);
        self.saving = Some(tokio::task::spawn_blocking(move || {
            let state = kept_state(&entries, revision, unix_seconds());
            if let Err(error) = file.save(&state) {
                tracing::warn!(%error, "the desired state cannot be kept on the disk");
            }
        }));
    }

    async fn finish_saving(&mut self) {
        if let Some(saving) = self.saving.take()
            && let Err(error) = saving.await
        {
            tracing::error!(%error, "keeping the desired state on the disk has failed");
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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

fn kept_state(entries: &[Arc<StoreEntry>], revision: StoreRevision, saved_at: u64) -> KeptState {
    let value = |key: &str| {
        let entry = entries.iter().find(|entry| entry.key == key);
        entry.map_or(&[][..], |entry| &entry.value)
    };
    let fleet_id = String::from_utf8_lossy(value(keys::FLEET_ID)).into_owned();
    let epoch = keys::parse_epoch(value(keys::EPOCH)).unwrap_or_default();
    let entries = entries.iter().map(|entry| KeptEntry {
        key: entry.key.clone(),
        // All values are JSON or names.
        value: String::from_utf8_lossy(&entry.value).into_owned(),
        revision: entry.revision,
    });
    KeptState {
        fleet_id,
        epoch,
        revision,
        saved_at,
        entries: entries.collect(),
    }
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
}
