//! Watches on the embedded store.

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{EmbeddedStore, blocking, tables};
use crate::store::backoff::RetryDelays;
use crate::store::{StoreChange, StoreEntry, StoreError, StoreRevision, StoreWatch, WatchEvent};

pub(super) struct EmbeddedWatch {
    store: EmbeddedStore,
    prefix: String,
    /// `None` until the watch has subscribed to the file that is open.
    changes: Option<broadcast::Receiver<StoreChange>>,
    /// The revision whose changes were read last. `None` before the first snapshot, and after changes were
    /// missed.
    read: Option<StoreRevision>,
    /// Whether [`WatchEvent::Unavailable`] was returned and nothing since.
    unavailable: bool,
    /// The delays between attempts to subscribe.
    delays: RetryDelays,
}

/// What a watch begins with.
struct Subscription {
    revision: StoreRevision,
    /// `None` if the watch has read this revision already.
    entries: Option<Vec<StoreEntry>>,
    changes: broadcast::Receiver<StoreChange>,
}

impl EmbeddedWatch {
    pub(super) fn new(store: EmbeddedStore, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            changes: None,
            read: None,
            unavailable: false,
            delays: RetryDelays::default(),
        }
    }

    async fn subscribe(&self) -> Result<Subscription, StoreError> {
        let (inner, prefix, read) = (self.store.inner.clone(), self.prefix.clone(), self.read);
        blocking(move || {
            let _order = inner.order.lock();
            inner.run(|open| {
                let revision = tables::revision(&open.database)?;
                let is_read = read == Some(revision);
                Ok(Subscription {
                    revision,
                    entries: if is_read {
                        None
                    } else {
                        Some(tables::list(&open.database, &prefix)?)
                    },
                    changes: open.changes.subscribe(),
                })
            })
        })
        .await
    }
}

#[async_trait]
impl StoreWatch for EmbeddedWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            let Some(changes) = &mut self.changes else {
                match self.subscribe().await {
                    Ok(subscription) => {
                        self.changes = Some(subscription.changes);
                        self.read = Some(subscription.revision);
                        self.delays.reset();
                        let was_unavailable = std::mem::take(&mut self.unavailable);
                        if let Some(entries) = subscription.entries {
                            let revision = subscription.revision;
                            return Ok(WatchEvent::Snapshot { entries, revision });
                        }
                        if was_unavailable {
                            return Ok(WatchEvent::Available);
                        }
                    }
                    Err(error) if !self.unavailable => {
                        tracing::warn!(%error, "the store cannot be read");
                        self.unavailable = true;
                        return Ok(WatchEvent::Unavailable(error.to_string()));
                    }
                    Err(_) => self.delays.wait().await,
                }
                continue;
            };
            match changes.recv().await {
                Ok(change) => {
                    self.read = Some(change.revision());
                    let key = match &change {
                        StoreChange::Put(entry) => &entry.key,
                        StoreChange::Delete { key, .. } => key,
                    };
                    if key.starts_with(&self.prefix) {
                        return Ok(WatchEvent::Change(change));
                    }
                }
                Err(RecvError::Lagged(_)) => (self.changes, self.read) = (None, None),
                // The file was closed after an error. What is durable is known once it is open again.
                Err(RecvError::Closed) => self.changes = None,
            }
        }
    }
}
