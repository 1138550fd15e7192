//! The store in etcd, for fleets with several controllers.
//!
//! Opening a store does not wait for etcd: the first call connects, and the client reconnects
//! after a failure. `members.rs` chooses the member to call. A watch continues from the last
//! revision it has seen, and starts again with a snapshot if etcd has compacted that revision.

mod failure;
mod history;
mod leadership;
mod lease;
mod members;
mod snapshot;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
};

use super::{
    Leadership, Lease, Precondition, Store, StoreEntry, StoreError, StoreRevision, StoreWatch,
    StoreWrite, keys,
};
use crate::config::EtcdAddress;
use history::History;
use members::{Members, TIMEOUT};

/// The largest message that is read from etcd, in bytes. It is above the largest transaction that
/// etcd may be configured for in practice, and bounds the memory that a reply takes.
const MAX_MESSAGE: usize = 16 << 20;

/// The store in etcd. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct EtcdStore {
    members: Members,
    history: Arc<History>,
}

impl EtcdStore {
    /// Returns the store at `address`, without connecting to it yet.
    ///
    /// # Errors
    /// [`StoreError::Etcd`] if a certificate or key file cannot be read.
    pub fn open(address: EtcdAddress) -> Result<Self, StoreError> {
        Ok(Self {
            members: Members::new(address)?,
            history: Arc::default(),
        })
    }
}

/// Converts a revision of etcd. They start at 1, so that a negative number never occurs.
fn store_revision(revision: i64) -> StoreRevision {
    StoreRevision(u64::try_from(revision).unwrap_or_default())
}

/// Converts a key-value pair of etcd.
fn entry(pair: KeyValue) -> Result<StoreEntry, StoreError> {
    let revision = store_revision(pair.mod_revision());
    let (key, value) = pair.into_key_value();
    Ok(StoreEntry {
        key: text(key)?,
        value,
        revision,
    })
}

fn text(key: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(key).map_err(|_| StoreError::Etcd("a key is not valid UTF-8".into()))
}

/// The `mod_revision` that a key must have; 0 if it must not exist, `None` if any will do.
fn required_revision(precondition: Precondition) -> Option<i64> {
    match precondition {
        Precondition::Any => None,
        Precondition::Absent => Some(0),
        // etcd's revisions are `i64`: a larger one never exists, and the precondition fails.
        Precondition::Revision(revision) => Some(i64::try_from(revision.0).unwrap_or(i64::MAX)),
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        Ok(snapshot::read(self, prefix).await?.0)
    }

    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let read = |client: Client| async move {
            let mut client = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
            client.get(key, None).await
        };
        let mut reply = self.members.call(TIMEOUT, read).await?;
        reply.take_kvs().pop().map(entry).transpose()
    }

    async fn current_revision(&self) -> Result<StoreRevision, StoreError> {
        let options = GetOptions::new().with_count_only();
        // A read of etcd is linearizable unless it is asked not to be.
        let read =
            |mut client: Client| async move { client.get(keys::FLEET_ID, Some(options)).await };
        let reply = self.members.call(TIMEOUT, read).await?;
        let revision = reply.header().map_or(0, |header| header.revision());
        Ok(store_revision(revision))
    }

    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        super::check_limits(&writes)?;
        let mut conditions = Vec::new();
        let mut operations = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                StoreWrite::Put {
                    key,
                    value,
                    precondition,
                    lease,
                } => {
                    let required = required_revision(precondition);
                    conditions.extend(required.map(|revision| (key.clone(), revision)));
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                    operations.push(TxnOp::put(key, value, options));
                }
                StoreWrite::Delete { key } => operations.push(TxnOp::delete(key, None)),
                StoreWrite::Require { key, precondition } => {
                    let required = required_revision(precondition);
                    conditions.extend(required.map(|revision| (key, revision)));
                }
            }
        }
        let compares: Vec<_> = conditions
            .iter()
            .map(|(key, revision)| Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision))
            .collect();
        // If a condition fails, etcd returns the keys' current revisions, which show which one failed.
        let reads: Vec<_> = conditions
            .iter()
            .map(|(key, _)| TxnOp::get(key.as_str(), Some(GetOptions::new().with_keys_only())))
            .collect();
        let transaction = Txn::new()
            .when(compares)
            .and_then(operations)
            .or_else(reads);
        let write = |mut client: Client| async move { client.txn(transaction).await };
        let reply = self.members.call(TIMEOUT, write).await?;
        if !reply.succeeded() {
            let current = reply.op_responses();
            let failed = conditions
                .iter()
                .zip(&current)
                .find(|((_, required), current)| {
                    let TxnOpResponse::Get(current) = current else {
                        return false;
                    };
                    current.kvs().first().map_or(0, KeyValue::mod_revision) != *required
                });
            let key = failed.map_or_else(String::new, |((key, _), _)| key.clone());
            return Err(StoreError::Conflict(key));
        }
        let revision = reply.header().map_or(0, |header| header.revision());
        Ok(store_revision(revision))
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError> {
        Ok(Box::new(watch::EtcdWatch::new(self.clone(), prefix)))
    }

    async fn try_lead(&self, id: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
        Box::pin(leadership::try_lead(self, id)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Arc<dyn Lease>, StoreError> {
        Ok(Arc::new(lease::EtcdLease::grant(&self.members, ttl).await?))
    }

    async fn check_health(&self) -> Result<(), StoreError> {
        let status = match self.history.observe(&self.members).await {
            Ok(status) => status,
            // The user may read and write keys, but not ask for the status.
            Err(StoreError::EtcdAuth(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut entries = status.errors().iter();
        entries.try_for_each(|entry| failure::check_alarm(entry))
    }
}
