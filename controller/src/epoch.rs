//! Raises the epoch of the store when the store has gone back to an earlier revision, as after the
//! restore of a snapshot or of an older file.
//!
//! Nodes follow the newest desired state. After such a restore all new revisions are lower than the one
//! that a node follows, and it would ignore them for ever. A controller that sees a linked node ahead of
//! the store asks the store for its current revision, since it may itself be behind, and raises the epoch
//! if the node is ahead of that too. The write is made under the condition that nobody else has changed
//! the epoch, so that it does not matter which of several controllers raises it.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::StateVersion;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetHandle, FleetView};
use crate::store::backoff::RetryDelays;
use crate::store::{Precondition, Store, StoreError, StoreWrite, keys};

/// How often the nodes' versions are checked while no view is published.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Runs until `stop` is cancelled.
pub(crate) async fn run(fleet: FleetHandle, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut changes = fleet.changes();
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    let mut delays = RetryDelays::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            _ = check.tick() => {}
        }
        let view = fleet.view();
        let applied = StateVersion {
            epoch: view.epoch,
            revision: fleet.applied_revision(),
        };
        let Some(followed) = newest_followed(&view).filter(|followed| *followed > applied) else {
            continue;
        };
        // A store without a fleet was not put back: it is empty.
        if !view.synced || view.store_error.is_some() || view.fleet_id.is_none() {
            continue;
        }
        match raise(store.as_ref(), followed).await {
            Ok(()) => delays.reset(),
            Err(error) => {
                tracing::warn!(%error, "the store's epoch could not be raised");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = delays.wait() => {}
                }
            }
        }
    }
}

/// The newest version that a node linked to this controller follows. A node with an epoch that cannot be
/// true says nothing about the store.
fn newest_followed(view: &FleetView) -> Option<StateVersion> {
    let linked = view.nodes.values().filter(|node| node.linked_locally);
    let followed = linked.map(|node| node.report.load().followed);
    let plausible = followed.filter(|followed| followed.is_plausible(view.epoch));
    plausible.max()
}

/// Raises the epoch of the store, unless it is not behind `followed`.
async fn raise(store: &dyn Store, followed: StateVersion) -> Result<(), StoreError> {
    // The epoch is read first: if the store is put back in between, the write is refused.
    let entry = store.get(keys::EPOCH).await?;
    let epoch = match &entry {
        Some(entry) => match keys::parse_epoch(&entry.value) {
            Some(epoch) => epoch,
            // A later version may have written it.
            None => return Ok(()),
        },
        None => 0,
    };
    let current = StateVersion {
        epoch,
        revision: store.current_revision().await?,
    };
    let raised = current.raised_epoch(followed);
    let Some(raised) = raised.filter(|_| followed.is_plausible(current.epoch)) else {
        return Ok(());
    };
    tracing::warn!(
        "the store is at revision {current} and a node follows {followed}: the store was put back to an earlier state, which counts from now on as epoch {raised}"
    );
    let precondition = match entry {
        Some(entry) => Precondition::Revision(entry.revision),
        None => Precondition::Absent,
    };
    let value = raised.to_string().into_bytes();
    let write = StoreWrite::put_if(keys::EPOCH.to_owned(), value, precondition);
    match store.write(vec![write]).await {
        // Another controller was faster.
        Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EmbeddedStore;
    use flotilla_core::StoreRevision;

    #[tokio::test]
    async fn the_epoch_is_raised_once_for_a_store_that_has_gone_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        let epoch = async || {
            let entry = store.get(keys::EPOCH).await.unwrap()?;
            keys::parse_epoch(&entry.value)
        };
        let version = |epoch, revision| StateVersion {
            epoch,
            revision: StoreRevision(revision),
        };
        store
            .write(vec![StoreWrite::put("/x".into(), Vec::new())])
            .await
            .unwrap();
        raise(&store, version(0, 1)).await.unwrap();
        assert_eq!(epoch().await, None, "the node is not ahead");
        raise(&store, version(0, 500)).await.unwrap();
        raise(&store, version(0, 500)).await.unwrap();
        assert_eq!(epoch().await, Some(1));
        raise(&store, version(4, 1)).await.unwrap();
        assert_eq!(epoch().await, Some(5));
        raise(&store, version(u64::MAX, 1)).await.unwrap();
        assert_eq!(epoch().await, Some(5), "the node is at fault");
    }
}
