//! Becoming the leader, and staying it. Every controller serves; the one that leads decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Leadership, Store, StoreChange, StoreError, WatchEvent, keys};

/// Pause after the store failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Leads as the controller `id` whenever nobody else does, and says so in `leader`. At `stop`
/// the leadership is given back.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    id: String,
    leader: watch::Sender<Option<Arc<dyn Leadership>>>,
    stop: CancellationToken,
) {
    loop {
        let leadership = tokio::select! {
            () = stop.cancelled() => return,
            leadership = win(store.as_ref(), &id) => leadership,
        };
        tracing::info!("this controller leads");
        leader.send_replace(Some(leadership.clone()));
        tokio::select! {
            () = stop.cancelled() => {
                leader.send_replace(None);
                return leadership.resign().await;
            }
            () = leadership.lost() => tracing::warn!("the leader's lease has run out"),
        }
        leader.send_replace(None);
    }
}

/// Waits until this controller leads. While another one does, or the store does not answer,
/// that may be for ever.
async fn win(store: &dyn Store, id: &str) -> Arc<dyn Leadership> {
    loop {
        match attempt(store, id).await {
            Ok(Some(leadership)) => return leadership,
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "waiting for the store");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Leads, or waits until the one that does has gone.
async fn attempt(store: &dyn Store, id: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
    if let Some(leadership) = store.try_lead(id).await? {
        return Ok(Some(leadership));
    }
    let mut watch = store.watch(keys::LEADER).await?;
    loop {
        match watch.next().await? {
            WatchEvent::Snapshot { entries, .. } if entries.is_empty() => return Ok(None),
            WatchEvent::Change(StoreChange::Delete { .. }) => return Ok(None),
            WatchEvent::Snapshot { .. }
            | WatchEvent::Change(StoreChange::Put(_))
            | WatchEvent::Away(_)
            | WatchEvent::Back => {}
        }
    }
}
