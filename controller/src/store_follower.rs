//! Passes every change of the store on to the fleet state, and to the keeper of the desired state.
//!
//! While the store is away at the start, the fleet state gets what was kept: the controller then serves
//! from it, and writes nothing. Nothing here waits for the disk, so that a slow one does not hold the view
//! of the store up.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::kept_state::KeptState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::{self, FleetEvent, FleetHandle};
use crate::kept_state::{KeptStateFile, KeptStateFileError};
use crate::state_keeper::StateKeeper;
use crate::store::{MonitoredStore, Store, StoreEntry, StoreError, WatchEvent, keys};

/// The longest wait for the disk at the start, to know which fleet the controller belonged to.
const KNOWN_FLEET_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait for the kept state when the store has lost the fleet: nothing is known meanwhile.
const KEPT_STATE_TIMEOUT: Duration = Duration::from_secs(30);

/// The task that follows the store.
pub(crate) struct StoreFollower {
    store: Arc<MonitoredStore>,
    fleet: FleetHandle,
    file: KeptStateFile,
    keeper: StateKeeper,
    /// Whether the store was read, or the kept state is loaded.
    started: bool,
    /// Whether the disk says to which fleet the controller belonged.
    knows_fleet: bool,
    /// Reads the kept state.
    loading: Option<JoinHandle<Result<Option<KeptState>, KeptStateFileError>>>,
}

impl StoreFollower {
    pub(crate) fn new(store: Arc<MonitoredStore>, fleet: FleetHandle, file: KeptStateFile) -> Self {
        Self {
            store,
            fleet,
            keeper: StateKeeper::new(file.clone()),
            file,
            started: false,
            knows_fleet: false,
            loading: None,
        }
    }

    /// Runs until `stop` is cancelled, then saves what has changed since. With `new_fleet` the store may be
    /// given another fleet than the controller belonged to.
    pub(crate) async fn run(mut self, new_fleet: bool, stop: CancellationToken) {
        if !new_fleet {
            self.send_earlier_fleet().await;
        }
        let blocked = self.store.blocked();
        let ended: Result<(), StoreError> = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = self.follow(blocked) => ended,
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the watch of the store has failed");
        }
        self.keeper.finish().await;
    }

    /// Says which fleet the controller belonged to, before it knows what the store has.
    async fn send_earlier_fleet(&mut self) {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || file.fleet_id());
        match tokio::time::timeout(KNOWN_FLEET_TIMEOUT, read).await {
            Ok(Ok(Ok(Some(id)))) if !id.is_empty() => {
                self.knows_fleet = true;
                self.fleet.send(FleetEvent::EarlierFleet(id)).await;
            }
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "the desired state that was kept on the disk cannot be read");
            }
            Ok(Err(_)) | Err(_) => tracing::warn!("the data directory does not answer"),
        }
    }

    async fn follow(
        &mut self,
        mut blocked: watch::Receiver<Option<String>>,
    ) -> Result<(), StoreError> {
        let mut watch = self.store.watch(keys::ROOT).await?;
        loop {
            tokio::select! {
                event = watch.next() => self.pass_on(event?).await,
                changed = blocked.changed() => {
                    if changed.is_ok() {
                        let error = blocked.borrow_and_update().clone();
                        // Whatever has happened to the store may have happened to the file as well.
                        if error.is_some() {
                            self.keeper.schedule();
                        }
                        self.fleet.send(FleetEvent::ChangesBlocked(error)).await;
                    }
                }
                () = self.keeper.step() => {}
                loaded = finished(&mut self.loading) => {
                    self.loading = None;
                    if let Some(state) = loaded {
                        self.serve_kept_state(state, "the store is away").await;
                    }
                }
            }
        }
    }

    async fn pass_on(&mut self, event: WatchEvent) {
        let event = match event {
            WatchEvent::Snapshot { entries, revision } => {
                let is_first = !std::mem::replace(&mut self.started, true);
                if is_first && self.knows_fleet && !fleet::has_fleet(&entries) {
                    let file = self.file.clone();
                    self.loading = Some(tokio::task::spawn_blocking(move || file.load()));
                    let loaded =
                        tokio::time::timeout(KEPT_STATE_TIMEOUT, finished(&mut self.loading));
                    if let Ok(Some(state)) = loaded.await {
                        self.serve_kept_state(state, "the store is EMPTY").await;
                    }
                    self.loading = None;
                }
                self.keeper.replace(&entries, revision);
                FleetEvent::StoreSnapshot { entries, revision }
            }
            WatchEvent::Change(change) => {
                self.keeper.apply(&change);
                FleetEvent::StoreChanged(change)
            }
            WatchEvent::PutBack => FleetEvent::StorePutBack,
            WatchEvent::Unavailable(problem) => {
                // The kept state is loaded unless the store was read already.
                if !std::mem::replace(&mut self.started, true) {
                    let file = self.file.clone();
                    self.loading = Some(tokio::task::spawn_blocking(move || file.load()));
                }
                FleetEvent::StoreUnavailable(problem)
            }
            WatchEvent::Available => FleetEvent::StoreAvailable,
        };
        self.fleet.send(event).await;
    }

    async fn serve_kept_state(&self, state: KeptState, reason: &str) {
        tracing::warn!(
            revision = %state.revision,
            "{reason}: serving from the desired state that was kept on the disk, without changes"
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
}

/// Waits until the kept state is loaded, for ever if it is not being loaded. Returns it if it can be used.
async fn finished(
    loading: &mut Option<JoinHandle<Result<Option<KeptState>, KeptStateFileError>>>,
) -> Option<KeptState> {
    let Some(loading) = loading else {
        return std::future::pending().await;
    };
    match loading.await {
        Ok(Ok(state)) => state,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the desired state that was kept on the disk cannot be used");
            None
        }
        Err(error) => {
            tracing::error!(%error, "reading the kept desired state has failed");
            None
        }
    }
}
