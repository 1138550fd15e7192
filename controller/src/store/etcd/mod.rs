//! The store in etcd, for fleets with several controllers.
//!
//! Opening a store does not wait for etcd: the first call connects, and the client reconnects
//! after a failure. A watch continues from the last revision it has seen, and starts again with a
//! snapshot if etcd has compacted that revision.

mod leadership;
mod lease;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::OnceCell;

use super::{
    Leadership, Lease, MAX_WRITES, Precondition, Store, StoreEntry, StoreError, StoreRevision,
    StoreWatch, StoreWrite, keys,
};
use crate::config::EtcdAddress;

/// Timeout of one call. An election within etcd takes about a second.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings on an idle connection, which detect a half-open one.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// The store in etcd. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct EtcdStore {
    address: Arc<EtcdAddress>,
    client: Arc<OnceCell<Client>>,
}

impl EtcdStore {
    /// Returns the store at `address`, without connecting to it yet.
    ///
    /// # Errors
    /// [`StoreError::Etcd`] if a certificate or key file cannot be read.
    pub fn open(address: EtcdAddress) -> Result<Self, StoreError> {
        connect_options(&address)?;
        Ok(Self {
            address: Arc::new(address),
            client: Arc::default(),
        })
    }

    /// Returns the shared client; connects on the first call.
    async fn client(&self) -> Result<Client, StoreError> {
        let client = self.client.get_or_try_init(|| async {
            let options = connect_options(&self.address)?;
            let connect = Client::connect(self.address.urls(), Some(options));
            with_timeout(connect).await
        });
        client.await.cloned()
    }

    /// Returns the entries whose keys start with `prefix`, and the revision of the store they are
    /// from.
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<StoreEntry>, i64), StoreError> {
        let mut client = self.client().await?;
        let options = GetOptions::new().with_prefix();
        let mut reply = with_timeout(client.get(prefix, Some(options))).await?;
        let revision = reply.header().map_or(0, |header| header.revision());
        let entries = reply.take_kvs().into_iter().map(entry);
        Ok((entries.collect::<Result<_, _>>()?, revision))
    }
}

/// Builds the connection options: timeouts, password and TLS.
fn connect_options(address: &EtcdAddress) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
        // A member that has lost its quorum then fails calls instead of serving stale data.
        .with_require_leader(true);
    if let Some((user, password)) = &address.user {
        options = options
            .with_user(user, password)
            .with_auto_token_refresh(true);
    }
    if let Some(tls) = &address.tls {
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|error| {
                StoreError::Etcd(format!("{} cannot be read: {error}", path.display()))
            })
        };
        let mut settings = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
        if let Some((certificate, key)) = &tls.identity {
            settings = settings.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        options = options.with_tls(settings);
    }
    Ok(options)
}

/// Waits for a call's result, at most [`TIMEOUT`].
async fn with_timeout<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(reply) => reply.map_err(|error| failed(&error)),
        Err(_) => Err(StoreError::Etcd(format!(
            "it did not answer within {} s",
            TIMEOUT.as_secs()
        ))),
    }
}

fn failed(error: &Error) -> StoreError {
    StoreError::Etcd(match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    })
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
        Ok(self.snapshot(prefix).await?.0)
    }

    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let mut client = self.client().await?;
        let mut reply = with_timeout(client.get(key, None)).await?;
        reply.take_kvs().pop().map(entry).transpose()
    }

    async fn current_revision(&self) -> Result<StoreRevision, StoreError> {
        let mut client = self.client().await?;
        let options = GetOptions::new().with_count_only();
        // A read of etcd is linearizable unless it is asked not to be.
        let reply = with_timeout(client.get(keys::FLEET_ID, Some(options))).await?;
        let revision = reply.header().map_or(0, |header| header.revision());
        Ok(store_revision(revision))
    }

    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        if writes.len() > MAX_WRITES {
            return Err(StoreError::TooManyWrites(writes.len()));
        }
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
            .map(|(key, _)| TxnOp::get(key.as_str(), None))
            .collect();
        let transaction = Txn::new()
            .when(compares)
            .and_then(operations)
            .or_else(reads);
        let mut client = self.client().await?;
        let reply = with_timeout(client.txn(transaction)).await?;
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
        Ok(Arc::new(lease::EtcdLease::grant(self, ttl).await?))
    }
}
