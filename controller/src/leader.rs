//! Leader election. All controllers serve requests; the leader alone writes placement.

use std::sync::Arc;

use backon::Retryable;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Leadership, Store, StoreChange, StoreError, WatchEvent, backoff, keys};

/// Campaigns for leadership as the controller `id`, again after each loss. `leader` holds the
/// leadership while this controller leads. Gives the leadership up when `stop` is cancelled.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    id: String,
    leader: watch::Sender<Option<Arc<dyn Leadership>>>,
    stop: CancellationToken,
) {
    loop {
        let leadership = tokio::select! {
            () = stop.cancelled() => return,
            leadership = acquire(store.as_ref(), &id) => leadership,
        };
        tracing::info!("this controller is now the leader");
        leader.send_replace(Some(leadership.clone()));
        tokio::select! {
            () = stop.cancelled() => {
                leader.send_replace(None);
                return leadership.resign().await;
            }
            () = leadership.lost() => {
                tracing::warn!("the leader's lease has expired: this controller no longer leads");
            }
        }
        leader.send_replace(None);
    }
}

/// Waits until this controller is the leader, for as long as another one leads or the store does
/// not answer.
async fn acquire(store: &dyn Store, id: &str) -> Arc<dyn Leadership> {
    loop {
        let leadership = (|| try_lead_or_wait(store, id))
            .retry(backoff::policy())
            .notify(|error, _| tracing::debug!(%error, "the store does not answer"))
            .await;
        if let Ok(Some(leadership)) = leadership {
            return leadership;
        }
    }
}

/// Acquires the leadership, or waits until the current leader is gone and returns `None`.
async fn try_lead_or_wait(
    store: &dyn Store,
    id: &str,
) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
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
            | WatchEvent::PutBack
            | WatchEvent::Unavailable(_)
            | WatchEvent::Available => {}
        }
    }
}
