//! Following etcd.

use std::collections::VecDeque;

use async_trait::async_trait;
use etcd_client::{EventType, WatchOptions, WatchStream};

use super::store_revision;
use super::{EtcdStore, RETRY_PAUSE, entry, failed, text, within};
use crate::store::{StoreChange, StoreError, StoreWatch, WatchEvent};

/// A watch that goes on through whatever happens to etcd.
pub(super) struct EtcdWatch {
    store: EtcdStore,
    prefix: String,
    /// The revision up to which all is told. `None` until a snapshot was given, and after
    /// etcd has forgotten what came next.
    seen: Option<i64>,
    /// `None` while it is broken.
    stream: Option<WatchStream>,
    /// Changes read but not yet told.
    ready: VecDeque<StoreChange>,
    /// Whether it was told that etcd does not answer.
    away: bool,
}

#[async_trait]
impl StoreWatch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(WatchEvent::Change(change));
            }
            match self.step().await {
                Ok(Some(event)) => {
                    self.away = false;
                    return Ok(event);
                }
                Ok(None) => {}
                Err(error) => {
                    self.stream = None;
                    if !std::mem::replace(&mut self.away, true) {
                        tracing::warn!(%error, "changes in etcd wait");
                        return Ok(WatchEvent::Away(error.to_string()));
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl EtcdWatch {
    pub(super) fn new(store: EtcdStore, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            seen: None,
            stream: None,
            ready: VecDeque::new(),
            away: false,
        }
    }

    /// Does what comes next: a snapshot, beginning the stream, or one message of it.
    async fn step(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        let Some(seen) = self.seen else {
            let (entries, revision) = self.store.snapshot(&self.prefix).await?;
            self.seen = Some(revision);
            let revision = store_revision(revision);
            return Ok(Some(WatchEvent::Snapshot { entries, revision }));
        };
        let Some(stream) = &mut self.stream else {
            let mut client = self.store.client().await?;
            let options = WatchOptions::new()
                .with_prefix()
                .with_start_revision(seen + 1);
            let watch = client.watch(self.prefix.as_str(), Some(options));
            self.stream = Some(within(watch).await?);
            return Ok(None);
        };
        let message = stream.message().await.map_err(|error| failed(&error))?;
        let Some(message) = message else {
            return Err(StoreError::Etcd("the watch has ended".into()));
        };
        if message.compact_revision() > 0 {
            tracing::info!("etcd has compacted what was not yet read: reading all anew");
            (self.seen, self.stream) = (None, None);
            return Ok(None);
        }
        if message.canceled() {
            let reason = message.cancel_reason();
            return Err(StoreError::Etcd(format!("the watch was refused: {reason}")));
        }
        if message.created() {
            return Ok(self.away.then_some(WatchEvent::Back));
        }
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            self.seen = self.seen.max(Some(pair.mod_revision()));
            self.ready.push_back(match event.event_type() {
                EventType::Put => StoreChange::Put(entry(pair.clone())?),
                EventType::Delete => StoreChange::Delete {
                    key: text(pair.key().to_vec())?,
                    revision: store_revision(pair.mod_revision()),
                },
            });
        }
        Ok(None)
    }
}
