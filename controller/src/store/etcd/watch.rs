//! Watches on etcd.

use std::collections::{HashSet, VecDeque};

use async_trait::async_trait;
use etcd_client::{Client, Event, EventType, WatchOptions, WatchStream};

use tokio::sync::watch;

use super::members::{MemberIndex, TIMEOUT};
use super::{EtcdStore, MAX_MESSAGE, entry, failure, snapshot, store_revision, text};
use crate::store::backoff::RetryDelays;
use crate::store::{StoreChange, StoreError, StoreWatch, WatchEvent};

/// A watch that survives failures of etcd: it reconnects and continues.
pub(super) struct EtcdWatch {
    store: EtcdStore,
    prefix: String,
    /// How far the changes were read. `None` before the first snapshot, and after etcd has compacted
    /// the changes that follow.
    position: Option<Position>,
    /// The stream and the member that it is to. `None` while disconnected.
    stream: Option<(WatchStream, MemberIndex)>,
    /// Changes that were read but not yet returned.
    buffered: VecDeque<StoreChange>,
    /// Notified when etcd has another history.
    history: watch::Receiver<u64>,
    /// Whether [`WatchEvent::Unavailable`] was returned and nothing since.
    unavailable: bool,
    /// The delays between attempts to reconnect.
    delays: RetryDelays,
}

/// A point among the changes of a store. etcd splits the changes of a large revision into several
/// messages, so that a stream can break within a revision: the next one reads that revision again.
struct Position {
    /// The first revision that may not have been read completely.
    revision: i64,
    /// The keys of its changes that were read.
    read: HashSet<String>,
}

impl Position {
    /// The position after all changes of `revision`.
    fn after(revision: i64) -> Self {
        Self {
            revision: revision + 1,
            read: HashSet::new(),
        }
    }

    /// The last revision of which anything was read.
    fn last_read(&self) -> i64 {
        if self.read.is_empty() {
            self.revision - 1
        } else {
            self.revision
        }
    }

    /// Advances over a change. Returns whether it is read for the first time.
    fn advance(&mut self, revision: i64, key: &str) -> bool {
        if revision < self.revision {
            return false;
        }
        if revision > self.revision {
            self.revision = revision;
            self.read.clear();
        }
        self.read.insert(key.to_owned())
    }
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
                Err(mut error) => {
                    if let Some((_, member)) = self.stream.take() {
                        self.store.members.leave(member);
                        error = self.store.members.named(member, error);
                    }
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
        let history = store.history.changes();
        Self {
            store,
            prefix: prefix.to_owned(),
            position: None,
            stream: None,
            buffered: VecDeque::new(),
            history,
            unavailable: false,
            delays: RetryDelays::default(),
        }
    }

    /// Forgets what was read from a state of etcd that is gone: a snapshot follows.
    fn start_anew(&mut self) -> Option<WatchEvent> {
        let was_reading = self.position.take().is_some();
        self.stream = None;
        self.buffered.clear();
        was_reading.then_some(WatchEvent::PutBack)
    }

    /// Takes the next step: reads a snapshot, opens the stream, or reads one message of it.
    /// Returns an event if the step produced one that is not buffered.
    async fn step(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        if self.history.has_changed().unwrap_or(false) {
            self.history.mark_unchanged();
            return Ok(self.start_anew());
        }
        let Some(position) = &mut self.position else {
            let (entries, revision) = snapshot::read(&self.store, &self.prefix).await?;
            self.position = Some(Position::after(revision));
            let revision = store_revision(revision);
            return Ok(Some(WatchEvent::Snapshot { entries, revision }));
        };
        let Some((stream, _)) = &mut self.stream else {
            match self.store.history.observe(&self.store.members).await {
                // The user may not ask for the status: revisions have to do.
                Ok(_) | Err(StoreError::EtcdAuth(_)) => {}
                Err(error) => return Err(error),
            }
            if self.history.has_changed().unwrap_or(false) {
                return Ok(None);
            }
            let options = WatchOptions::new()
                .with_prefix()
                .with_fragment()
                .with_start_revision(position.revision);
            let prefix = self.prefix.clone();
            let watch = |client: Client| async move {
                let mut client = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
                client.watch(prefix, Some(options)).await
            };
            let member = self.store.members.preferred();
            let stream = self.store.members.call(TIMEOUT, watch).await?;
            self.stream = Some((stream, member));
            return Ok(None);
        };
        let message = tokio::select! {
            message = stream.message() => message,
            changed = self.history.changed() => {
                // The sender lives as long as the store.
                return Ok(changed.ok().and_then(|()| self.start_anew()));
            }
        };
        let message = message.map_err(|error| failure::classify(&error))?;
        let Some(message) = message else {
            return Err(StoreError::Etcd("the watch stream has ended".into()));
        };
        if message.compact_revision() > 0 {
            tracing::info!(
                "etcd has compacted changes that were not read yet: reading a new snapshot"
            );
            (self.position, self.stream) = (None, None);
            return Ok(None);
        }
        if message.canceled() {
            let reason = message.cancel_reason();
            return Err(StoreError::Etcd(format!("the watch was refused: {reason}")));
        }
        if message.created() {
            let last_read = position.last_read();
            let current = message
                .header()
                .map_or(last_read, |header| header.revision());
            if current < last_read {
                tracing::warn!(
                    current,
                    last_read,
                    "etcd has gone back to an earlier revision: it is read anew"
                );
                return Ok(self.start_anew());
            }
            return Ok(self.unavailable.then_some(WatchEvent::Available));
        }
        for event in message.events() {
            self.buffered.extend(change(position, event)?);
        }
        Ok(None)
    }
}

/// Converts an event. Returns `None` if it was read before.
fn change(position: &mut Position, event: &Event) -> Result<Option<StoreChange>, StoreError> {
    let Some(pair) = event.kv() else {
        return Ok(None);
    };
    let key = text(pair.key().to_vec())?;
    if !position.advance(pair.mod_revision(), &key) {
        return Ok(None);
    }
    Ok(Some(match event.event_type() {
        EventType::Put => StoreChange::Put(entry(pair.clone())?),
        EventType::Delete => StoreChange::Delete {
            key,
            revision: store_revision(pair.mod_revision()),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_revision_that_was_cut_off_are_read_again_but_not_twice() {
        let mut position = Position::after(6);
        assert!(position.advance(7, "a") && position.advance(8, "a"));
        // The stream breaks here: the next one starts at revision 8.
        assert_eq!(position.revision, 8);
        assert!(!position.advance(8, "a"));
        assert!(position.advance(8, "b"));
        assert!(position.advance(9, "a"));
        assert!(!position.advance(8, "c"));
    }
}
