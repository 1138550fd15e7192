//! Watches whether changes can be written to a store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Leadership, Lease, Store, StoreEntry, StoreError, StoreRevision, StoreWatch, StoreWrite, keys,
};

/// How often a store that takes changes is asked whether it still would.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a store that takes no changes is tried again.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A store that keeps the error for which it takes no changes, from its own writes and from checks
/// between them.
pub(crate) struct MonitoredStore {
    store: Arc<dyn Store>,
    /// The error, while there is one.
    blocked: watch::Sender<Option<String>>,
}

impl MonitoredStore {
    /// Watches the writes to `store`.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            blocked: watch::Sender::new(None),
        }
    }

    /// Returns a receiver of the error for which the store takes no changes, while there is one. The present
    /// value counts as a change: it may have been set before anybody has asked.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<String>> {
        let mut blocked = self.blocked.subscribe();
        blocked.mark_changed();
        blocked
    }

    /// Checks the store from time to time until `stop` is cancelled.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let is_blocked = self.blocked.borrow().is_some();
            let interval = if is_blocked {
                PROBE_INTERVAL
            } else {
                CHECK_INTERVAL
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            if let Err(error) = self.store.check_health().await
                && error.blocks_changes()
            {
                self.record_error(&error);
            } else if is_blocked {
                let put = StoreWrite::put(keys::marker("write-probe"), b"{}".to_vec());
                // The result is recorded.
                let _ = self.write(vec![put]).await;
            }
        }
    }

    /// Records what a write shows about the store. One that only deletes succeeds in a full store, too.
    fn record<T>(&self, needed_room: bool, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if needed_room => {
                let was_blocked = self
                    .blocked
                    .send_if_modified(|blocked| blocked.take().is_some());
                if was_blocked {
                    tracing::info!("the store takes changes again");
                }
            }
            Err(error) if error.blocks_changes() => self.record_error(error),
            Ok(_) => {}
            // An outage, which the watch reports, or an error of this change alone.
            Err(_) => {}
        }
        result
    }

    fn record_error(&self, error: &StoreError) {
        let text = error.to_string();
        let is_new = self.blocked.send_if_modified(|blocked| {
            let is_new = blocked.as_ref() != Some(&text);
            *blocked = Some(text);
            is_new
        });
        if is_new {
            tracing::error!(%error, "changes of the fleet cannot be written");
        }
    }
}

#[async_trait]
impl Store for MonitoredStore {
    async fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        self.store.list(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        self.store.get(key).await
    }

    async fn current_revision(&self) -> Result<StoreRevision, StoreError> {
        self.store.current_revision().await
    }

    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        let puts = |write: &StoreWrite| matches!(write, StoreWrite::Put { .. });
        let needs_room = writes.iter().any(puts);
        self.record(needs_room, self.store.write(writes).await)
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError> {
        self.store.watch(prefix).await
    }

    async fn try_lead(&self, id: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
        match self.store.try_lead(id).await {
            // That another controller leads was only read.
            Ok(None) => Ok(None),
            written => self.record(true, written),
        }
    }

    async fn check_health(&self) -> Result<(), StoreError> {
        self.store.check_health().await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Arc<dyn Lease>, StoreError> {
        let granted = self.store.grant_lease(ttl).await;
        // A lease is granted without a change of any entry: that shows nothing.
        match &granted {
            Err(error) if error.blocks_changes() => self.record_error(error),
            _ => {}
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EmbeddedStore;

    #[tokio::test]
    async fn store_is_full_from_the_first_refused_write_until_one_that_needs_room_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        let monitored = MonitoredStore::new(Arc::new(store));
        let blocked = monitored.blocked();
        let refused = monitored.record::<()>(true, Err(StoreError::EtcdFull));
        assert!(refused.is_err() && blocked.borrow().is_some());
        assert!(monitored.blocked().has_changed().unwrap());
        let delete = StoreWrite::Delete { key: "/a".into() };
        monitored.write(vec![delete]).await.unwrap();
        assert!(blocked.borrow().is_some());
        let put = StoreWrite::put("/a".into(), Vec::new());
        monitored.write(vec![put]).await.unwrap();
        assert!(blocked.borrow().is_none());
    }
}
