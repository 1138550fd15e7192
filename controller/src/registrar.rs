//! What this controller tells the others through the store: that it is there, which nodes are
//! linked to it, and how many requests wait on it. All of it under one lease, so that it goes
//! when the controller does.
//!
//! Nothing waits for this: it follows the view, and while the store is away it falls behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::ModelName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::records::encode;
use crate::fleet::{ControllerRecord, FleetHandle, FleetView, WaitingRecord};
use crate::store::{Lease, LeaseId, MAX_WRITES, Precondition, Store, StoreError, StoreWrite, keys};

/// How long a controller may be silent before it counts as gone.
const TTL: Duration = Duration::from_secs(5);
/// Pause after the store failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(50);

/// Requests that wait for a first replica, by model.
pub(crate) type WaitingCounts = BTreeMap<ModelName, u32>;

/// Keys and values.
type KeyValues = BTreeMap<String, Vec<u8>>;

/// What this controller has to tell.
pub(crate) struct Registrar {
    pub(crate) id: String,
    pub(crate) record: ControllerRecord,
    pub(crate) fleet: FleetHandle,
    pub(crate) waiting: watch::Receiver<WaitingCounts>,
    pub(crate) store: Arc<dyn Store>,
}

impl Registrar {
    /// Runs until `stop`; then nothing of it is left in the store.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                lease = self.store.lease(TTL) => match lease {
                    Ok(lease) => self.tell(lease, &stop).await,
                    Err(error) => Err(error),
                },
            };
            match told {
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => tracing::warn!("this controller's lease has run out: telling all anew"),
                Err(error) => {
                    tracing::debug!(%error, "other controllers are not told");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Tells under one lease, until that has run out.
    async fn tell(
        &mut self,
        lease: Arc<dyn Lease>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut changes = self.fleet.changes();
        let mut told = KeyValues::new();
        self.name_the_fleet().await?;
        loop {
            changes.borrow_and_update();
            let view = self.fleet.view();
            let due = self.due(&view);
            self.keep_records(&view).await?;
            let writes = difference(&told, &due, lease.id());
            for part in writes.chunks(MAX_WRITES) {
                self.store.write(part.to_vec()).await?;
            }
            told = due;
            tokio::select! {
                () = stop.cancelled() => {
                    lease.revoke().await;
                    return Ok(());
                }
                () = lease.lost() => return Ok(()),
                changed = changes.changed() => if changed.is_err() {
                    return Ok(());
                },
                changed = self.waiting.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Gives the fleet a name of its own, if it has none, so that nodes tell a fleet whose
    /// history begins anew from one that fell behind.
    async fn name_the_fleet(&self) -> Result<(), StoreError> {
        let name = format!("{:032x}", fastrand::u128(..)).into_bytes();
        let write = StoreWrite::put_if(keys::FLEET.to_owned(), name, Precondition::Absent);
        match self.store.write(vec![write]).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps what the nodes linked here say of themselves, so that they are known while away.
    async fn keep_records(&self, view: &FleetView) -> Result<(), StoreError> {
        let news = view.nodes.values().filter(|node| node.here && !node.kept);
        let writes: Vec<_> = news
            .map(|node| StoreWrite::put(keys::node(&node.name), encode(&node.record)))
            .collect();
        for part in writes.chunks(MAX_WRITES) {
            self.store.write(part.to_vec()).await?;
        }
        Ok(())
    }

    /// What should be in the store now.
    fn due(&mut self, view: &FleetView) -> KeyValues {
        let mut due = KeyValues::new();
        due.insert(keys::controller(&self.id), encode(&self.record));
        for node in view.nodes.values().filter(|node| node.here) {
            due.insert(keys::presence(&node.name, &self.id), b"{}".to_vec());
        }
        for (model, requests) in self.waiting.borrow_and_update().iter() {
            let record = WaitingRecord {
                requests: *requests,
            };
            due.insert(keys::waiting(model, &self.id), encode(&record));
        }
        due
    }
}

/// The writes that make `told` be `due`.
fn difference(told: &KeyValues, due: &KeyValues, lease: LeaseId) -> Vec<StoreWrite> {
    let news = due
        .iter()
        .filter(|(key, value)| told.get(*key) != Some(value));
    let puts = news.map(|(key, value)| StoreWrite::put_leased(key.clone(), value.clone(), lease));
    let gone = told.keys().filter(|key| !due.contains_key(*key));
    puts.chain(gone.map(|key| StoreWrite::Delete { key: key.clone() }))
        .collect()
}
