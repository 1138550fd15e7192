//! The store in etcd, for fleets that must outlive one machine.
//!
//! Nothing here waits for etcd when a store is opened: the connection is made by the first
//! call, and made anew by the client whenever it breaks. A watch goes on from the revision
//! it saw last, and begins again with a snapshot where etcd has compacted that away.

mod lead;
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
    StoreWatch, StoreWrite,
};
use crate::config::EtcdAddress;

/// How long one call may take. etcd's own election takes about a second.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is checked, so that a half-open one is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Pause before something broken is begun again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A store in etcd. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct EtcdStore {
    address: Arc<EtcdAddress>,
    client: Arc<OnceCell<Client>>,
}

impl EtcdStore {
    /// The store at `address`. Connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Etcd`] when a certificate cannot be read.
    pub fn open(address: EtcdAddress) -> Result<Self, StoreError> {
        options(&address)?;
        Ok(Self {
            address: Arc::new(address),
            client: Arc::default(),
        })
    }

    async fn client(&self) -> Result<Client, StoreError> {
        let client = self.client.get_or_try_init(|| async {
            let options = options(&self.address)?;
            let connect = Client::connect(self.address.urls(), Some(options));
            within(connect).await
        });
        client.await.cloned()
    }

    /// The entries whose keys begin with `prefix`, and the revision they are of.
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<StoreEntry>, i64), StoreError> {
        let mut client = self.client().await?;
        let options = GetOptions::new().with_prefix();
        let mut reply = within(client.get(prefix, Some(options))).await?;
        let revision = reply.header().map_or(0, |header| header.revision());
        let entries = reply.take_kvs().into_iter().map(entry);
        Ok((entries.collect::<Result<_, _>>()?, revision))
    }
}

/// How to connect.
fn options(address: &EtcdAddress) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
        // A member that has lost its cluster refuses instead of serving what is old.
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

/// A call's result, within the time it may take.
async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
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

/// Converts a revision as etcd counts them: from 1, so that a negative number never occurs.
fn store_revision(revision: i64) -> StoreRevision {
    StoreRevision(u64::try_from(revision).unwrap_or_default())
}

/// An entry as etcd has it.
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
    String::from_utf8(key).map_err(|_| StoreError::Etcd("a key is no text".into()))
}

/// The revision a key must have; 0 for a key that must not be there.
fn wanted(expect: Precondition) -> Option<i64> {
    match expect {
        Precondition::Any => None,
        Precondition::Absent => Some(0),
        // Beyond what etcd counts to no revision is: never met.
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
        let mut reply = within(client.get(key, None)).await?;
        reply.take_kvs().pop().map(entry).transpose()
    }

    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        if writes.len() > MAX_WRITES {
            return Err(StoreError::TooMany(writes.len()));
        }
        let mut conditions = Vec::new();
        let mut operations = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                StoreWrite::Put {
                    key,
                    value,
                    expect,
                    lease,
                } => {
                    conditions.extend(wanted(expect).map(|revision| (key.clone(), revision)));
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                    operations.push(TxnOp::put(key, value, options));
                }
                StoreWrite::Delete { key } => operations.push(TxnOp::delete(key, None)),
                StoreWrite::Require { key, expect } => {
                    conditions.extend(wanted(expect).map(|revision| (key, revision)));
                }
            }
        }
        let compares: Vec<_> = conditions
            .iter()
            .map(|(key, revision)| Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision))
            .collect();
        // Where they are not met, etcd says what it has, and so which one it was.
        let looks: Vec<_> = conditions
            .iter()
            .map(|(key, _)| TxnOp::get(key.as_str(), None))
            .collect();
        let transaction = Txn::new()
            .when(compares)
            .and_then(operations)
            .or_else(looks);
        let mut client = self.client().await?;
        let reply = within(client.txn(transaction)).await?;
        if !reply.succeeded() {
            let found = reply.op_responses();
            let unmet = conditions.iter().zip(&found).find(|((_, wanted), found)| {
                let TxnOpResponse::Get(found) = found else {
                    return false;
                };
                found.kvs().first().map_or(0, KeyValue::mod_revision) != *wanted
            });
            let key = unmet.map_or_else(String::new, |((key, _), _)| key.clone());
            return Err(StoreError::Conflict(key));
        }
        let revision = reply.header().map_or(0, |header| header.revision());
        Ok(store_revision(revision))
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError> {
        Ok(Box::new(watch::EtcdWatch::new(self.clone(), prefix)))
    }

    async fn try_lead(&self, who: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
        Box::pin(lead::try_lead(self, who)).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Arc<dyn Lease>, StoreError> {
        Ok(Arc::new(lease::EtcdLease::grant(self, ttl).await?))
    }
}
