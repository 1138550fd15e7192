//! Registers this controller in the store for the other controllers: its addresses, the nodes
//! linked to it, and roughly how many requests wait in its pending queue. All these keys share one lease,
//! so that they disappear with the controller.
//!
//! Nothing waits for the registrar: it follows the view, and falls behind while the store is
//! unavailable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::records::encode;
use crate::fleet::{ControllerRecord, FleetHandle, FleetView, WaitingRecord};
use crate::store::backoff::RetryDelays;
use crate::store::{LEASE_TTL, Lease, LeaseId, Precondition, Store, StoreError, StoreWrite, keys};
use crate::waiting_levels::WaitingLevels;
use flotilla_dispatch::WaitingCounts;
use flotilla_identity::keys::ControllerSecret;
use flotilla_identity::random_id;

/// Changes within this time are written together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Keys and values of the store.
type KeyValues = BTreeMap<String, Vec<u8>>;

/// The task that registers this controller in the store.
pub(crate) struct Registrar {
    pub(crate) id: String,
    pub(crate) record: ControllerRecord,
    pub(crate) fleet: FleetHandle,
    pub(crate) waiting: watch::Receiver<WaitingCounts>,
    pub(crate) store: Arc<dyn Store>,
}

impl Registrar {
    /// Runs until `stop` is cancelled, then deletes the controller's keys.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut delays = RetryDelays::default();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                lease = self.store.grant_lease(LEASE_TTL) => match lease {
                    Ok(lease) => self.publish(lease, &mut delays, &stop).await,
                    Err(error) => Err(error),
                },
            };
            match ended {
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => {
                    tracing::warn!(
                        "this controller's keys are gone or out of date: registering it again"
                    );
                }
                Err(error) => {
                    tracing::debug!(%error, "this controller could not be registered");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = delays.wait() => {}
                    }
                }
            }
        }
    }

    /// Publishes under one lease, until the lease is lost or the store is put back to an earlier state. Then
    /// it has what this controller had published at that time, such as links that have ended since.
    async fn publish(
        &mut self,
        lease: Arc<dyn Lease>,
        delays: &mut RetryDelays,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut changes = self.fleet.changes();
        let put_back = self.fleet.view().put_back;
        let mut published = KeyValues::new();
        let mut waiting = WaitingLevels::default();
        loop {
            changes.borrow_and_update();
            let view = self.fleet.view();
            if view.put_back != put_back {
                lease.revoke().await;
                return Ok(());
            }
            if may_found_fleet(&view) {
                self.ensure_fleet_id().await?;
            }
            if needs_controller_secret(&view) {
                self.ensure_controller_secret().await?;
            }
            waiting.update(&self.waiting.borrow_and_update(), Instant::now());
            let desired = self.desired(&view, &waiting);
            self.store_node_records(&view).await?;
            let writes = difference(&published, &desired, lease.id());
            self.store.write_all(None, writes).await?;
            delays.reset();
            published = desired;
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
                () = wait_until(waiting.next_deadline()) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    /// Gives the fleet an id if it has none. The id tells agents whether a store revision that is
    /// lower than the last one comes from an outdated controller or from a new fleet.
    async fn ensure_fleet_id(&self) -> Result<(), StoreError> {
        let id = random_id().into_bytes();
        let write = StoreWrite::put_if(keys::FLEET_ID.to_owned(), id, Precondition::Absent);
        match self.store.write(vec![write]).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the fleet's controllers a shared secret if they have none.
    async fn ensure_controller_secret(&self) -> Result<(), StoreError> {
        let secret = ControllerSecret::generate().map_err(|_| {
            StoreError::Failed("the system has no random numbers for a secret".into())
        })?;
        let key = keys::CONTROLLER_SECRET.to_owned();
        let write = StoreWrite::put_if(key, secret.into_bytes(), Precondition::Absent);
        match self.store.write(vec![write]).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stores the records of the nodes linked to this controller, without the lease, so that a
    /// node stays known while it is disconnected.
    async fn store_node_records(&self, view: &FleetView) -> Result<(), StoreError> {
        let unsaved = view
            .nodes
            .values()
            .filter(|node| node.linked_locally && !node.stored);
        let writes = unsaved.map(|node| (keys::node(&node.name), &node.record));
        let writes = writes
            .filter(|(key, _)| !view.undecoded.keys.contains(key))
            .map(|(key, record)| StoreWrite::put(key, encode(record)))
            .collect();
        self.store.write_all(None, writes).await
    }

    /// The leased keys that this controller should have now.
    fn desired(&self, view: &FleetView, waiting: &WaitingLevels) -> KeyValues {
        let mut desired = KeyValues::new();
        desired.insert(keys::controller(&self.id), encode(&self.record));
        for node in view.nodes.values().filter(|node| node.linked_locally) {
            let link = node.link.as_ref().map(|link| link.peer.clone());
            let link = encode(&link.unwrap_or_default());
            desired.insert(keys::link(&node.name, &self.id), link);
        }
        for (model, requests) in waiting.levels() {
            let record = WaitingRecord { requests };
            desired.insert(keys::waiting(model, &self.id), encode(&record));
        }
        desired
    }
}

/// Returns whether the store has no fleet and never had one, as far as this controller knows. To an empty
/// store under another id the nodes of a fleet that it has lost could not come back.
fn may_found_fleet(view: &FleetView) -> bool {
    view.synced && view.kept_since.is_none() && view.fleet_id.is_none() && view.lost_fleet.is_none()
}

/// Returns whether the store has a fleet whose controllers share no secret yet.
fn needs_controller_secret(view: &FleetView) -> bool {
    view.is_of_store()
        && view.fleet_id.is_some()
        && view.controller_secret.is_none()
        && !view.undecoded.keys.contains(keys::CONTROLLER_SECRET)
}

/// Waits until a time, or for ever if there is none.
async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The writes that turn `published` into `desired`.
fn difference(published: &KeyValues, desired: &KeyValues, lease: LeaseId) -> Vec<StoreWrite> {
    let changed = desired
        .iter()
        .filter(|(key, value)| published.get(*key) != Some(value));
    let puts =
        changed.map(|(key, value)| StoreWrite::put_leased(key.clone(), value.clone(), lease));
    let removed = published.keys().filter(|key| !desired.contains_key(*key));
    puts.chain(removed.map(|key| StoreWrite::Delete { key: key.clone() }))
        .collect()
}
