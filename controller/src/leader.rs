//! Becoming the leader, and staying it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Change, Leadership, Store, StoreError, WatchEvent, keys};

/// Pause after the store failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Waits until this controller leads. While another one does, or the store does not answer,
/// that may be for ever.
pub(crate) async fn lead(store: &dyn Store) -> Arc<dyn Leadership> {
    let mut told = false;
    loop {
        match attempt(store, &mut told).await {
            Ok(Some(leadership)) => return leadership,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "waiting for the store");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Leads, or waits until the one that does has gone.
async fn attempt(
    store: &dyn Store,
    told: &mut bool,
) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
    if let Some(leadership) = store.try_lead().await? {
        return Ok(Some(leadership));
    }
    if !std::mem::replace(told, true) {
        tracing::info!("another controller leads: standing by");
    }
    let mut watch = store.watch(keys::LEADER).await?;
    loop {
        match watch.next().await? {
            WatchEvent::Snapshot(entries) if entries.is_empty() => return Ok(None),
            WatchEvent::Change(Change::Delete { .. }) => return Ok(None),
            WatchEvent::Snapshot(_) | WatchEvent::Change(Change::Put(_)) => {}
        }
    }
}

/// Leads again whenever the leadership was lost and nobody else took it, and tells `leader`
/// of the new one. Ends when another one leads, and, with the leadership given back, at
/// `stop`.
pub(crate) async fn stay(
    store: Arc<dyn Store>,
    leader: watch::Sender<Arc<dyn Leadership>>,
    stop: CancellationToken,
) {
    loop {
        let leadership = leader.borrow().clone();
        tokio::select! {
            () = stop.cancelled() => return leadership.resign().await,
            () = leadership.lost() => tracing::warn!("the leader's lease has run out"),
        }
        let again = async {
            loop {
                match store.try_lead().await {
                    Ok(leadership) => return leadership,
                    Err(error) => {
                        tracing::warn!(%error, "waiting for the store");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
        };
        let again = tokio::select! {
            () = stop.cancelled() => return,
            again = again => again,
        };
        match again {
            Some(leadership) => leader.send_replace(leadership),
            None => {
                tracing::error!("another controller leads now");
                return;
            }
        };
    }
}
