//! Watches on etcd.

use std::collections::VecDeque;

use async_trait::async_trait;
use etcd_client::{EventType, WatchOptions, WatchStream};

use super::{EtcdStore, entry, failed, store_revision, text, with_timeout};
use crate::store::backoff::RetryDelays;
use crate::store::{StoreChange, StoreError, StoreWatch, WatchEvent};

/// A watch that survives failures of etcd: it reconnects and continues.
pub(super) struct EtcdWatch {
    store: EtcdStore,
    prefix: String,
    /// The revision up to which all changes were read. `None` before the first snapshot, and
    /// after etcd has compacted the changes that follow.
    last_revision: Option<i64>,
    /// `None` while disconnected.
    stream: Option<WatchStream>,
    /// Changes that were read but not yet returned.
    buffered: VecDeque<StoreChange>,
    /// Whether [`WatchEvent::Unavailable`] was returned and nothing since.
    unavailable: bool,
    /// The delays between attempts to reconnect.
    delays: RetryDelays,
}

#[async_trait]
impl StoreWatch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(change) = self.buffered.pop_front() {
                return Ok(WatchEvent::Change(change));
            }
            match self.step().await {
                Ok(Some(event)) => {
                    self.unavailable = false;
                    self.delays.reset();
                    return Ok(event);
                }
                Ok(None) => {}
                Err(error) => {
                    self.stream = None;
                    if !std::mem::replace(&mut self.unavailable, true) {
                        tracing::warn!(%error, "the watch on etcd is interrupted");
                        return Ok(WatchEvent::Unavailable(error.to_string()));
                    }
                    self.delays.wait().await;
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
            last_revision: None,
            stream: None,
            buffered: VecDeque::new(),
            unavailable: false,
            delays: RetryDelays::default(),
        }
    }

    /// Takes the next step: reads a snapshot, opens the stream, or reads one message of it.
    /// Returns an event if the step produced one that is not buffered.
    async fn step(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        let Some(last_revision) = self.last_revision else {
            let (entries, revision) = self.store.snapshot(&self.prefix).await?;
            self.last_revision = Some(revision);
            let revision = store_revision(revision);
            return Ok(Some(WatchEvent::Snapshot { entries, revision }));
        };
        let Some(stream) = &mut self.stream else {
            let mut client = self.store.client().await?;
            let options = WatchOptions::new()
                .with_prefix()
                .with_start_revision(last_revision + 1);
            let watch = client.watch(self.prefix.as_str(), Some(options));
            self.stream = Some(with_timeout(watch).await?);
            return Ok(None);
        };
        let message = stream.message().await.map_err(|error| failed(&error))?;
        let Some(message) = message else {
            return Err(StoreError::Etcd("the watch stream has ended".into()));
        };
        if message.compact_revision() > 0 {
            tracing::info!(
                "etcd has compacted changes that were not read yet: reading a new snapshot"
            );
            (self.last_revision, self.stream) = (None, None);
            return Ok(None);
        }
        if message.canceled() {
            let reason = message.cancel_reason();
            return Err(StoreError::Etcd(format!("the watch was refused: {reason}")));
        }
        if message.created() {
            let current = message
                .header()
                .map_or(last_revision, |header| header.revision());
            if current < last_revision {
                tracing::warn!(
                    current,
                    last_revision,
                    "etcd was put back to an earlier state: reading a new snapshot"
                );
                (self.last_revision, self.stream) = (None, None);
                return Ok(None);
            }
            return Ok(self.unavailable.then_some(WatchEvent::Available));
        }
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            self.last_revision = self.last_revision.max(Some(pair.mod_revision()));
            self.buffered.push_back(match event.event_type() {
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
