//! Where the wish lives, and who is there: keys and values under `/flotilla/v1/`, which
//! [`keys`] names.

mod embedded;
mod etcd;
pub mod keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use flotilla_core::StoreRevision;

use crate::config::StoreAddress;
pub use embedded::EmbeddedStore;
pub use etcd::EtcdStore;

/// Most writes of one transaction: etcd does 128 unless it is told otherwise.
pub const MAX_WRITES: usize = 128;

/// A key with its value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: StoreRevision,
}

/// Which lease.
pub type LeaseId = i64;

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWrite {
    /// Sets a key, if it is still what the writer expects.
    Put {
        key: String,
        value: Vec<u8>,
        expect: Precondition,
        /// The key goes when this lease does.
        lease: Option<LeaseId>,
    },
    /// Removes a key. One that is not there is fine.
    Delete { key: String },
    /// Writes nothing: the other writes are done only if this key is what the writer expects.
    Require { key: String, expect: Precondition },
}

impl StoreWrite {
    /// Sets a key, whatever it was.
    #[must_use]
    pub fn put(key: String, value: Vec<u8>) -> Self {
        Self::put_if(key, value, Precondition::Any)
    }

    /// Sets a key, if it is still what the writer expects.
    #[must_use]
    pub fn put_if(key: String, value: Vec<u8>, expect: Precondition) -> Self {
        Self::Put {
            key,
            value,
            expect,
            lease: None,
        }
    }

    /// Sets a key that goes when the lease does.
    #[must_use]
    pub fn put_leased(key: String, value: Vec<u8>, lease: LeaseId) -> Self {
        Self::Put {
            key,
            value,
            expect: Precondition::Any,
            lease: Some(lease),
        }
    }
}

/// What a writer expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Anything.
    Any,
    /// No value.
    Absent,
    /// The value of this revision.
    Revision(StoreRevision),
}

/// A change that others see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChange {
    Put(StoreEntry),
    /// With the revision that deleted it.
    Delete {
        key: String,
        revision: StoreRevision,
    },
}

impl StoreChange {
    /// The revision that made it.
    #[must_use]
    pub fn revision(&self) -> StoreRevision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch yields.
#[derive(Debug)]
pub enum WatchEvent {
    /// All entries as they are at a revision: first, and again whenever changes may have been
    /// missed.
    Snapshot {
        entries: Vec<StoreEntry>,
        revision: StoreRevision,
    },
    Change(StoreChange),
    /// The store does not answer, with what it says: until the next event of another kind,
    /// changes wait.
    Away(String),
    /// The store answers again.
    Back,
}

/// Why the store did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first.
    #[error("'{0}' was changed by somebody else in the meantime: read it again and retry")]
    Conflict(String),
    /// The directory cannot be used.
    #[error("the data directory {path} cannot be used: {problem}")]
    Directory { path: PathBuf, problem: String },
    /// Another process has it open.
    #[error("the store {0} is in use by another process: stop it, or use another data directory")]
    InUse(PathBuf),
    /// The file is damaged.
    #[error(
        "the store {path} is damaged ({problem}): restore it from a backup, or move it away to start empty"
    )]
    Damaged { path: PathBuf, problem: String },
    /// etcd cannot be reached or does not do as told.
    #[error("the store in etcd does not answer ({0}): changes wait until it does")]
    Etcd(String),
    /// More writes than a transaction can hold.
    #[error("{0} writes are too many for one transaction of {MAX_WRITES}")]
    TooMany(usize),
    /// Anything else.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// A key-value store with transactions and a watch. Keys are texts in directory form.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entries whose keys begin with `prefix`, in order of their keys.
    async fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError>;

    /// The entry of this key.
    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError>;

    /// Does all writes or none, durably, and returns their revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an expectation is not met; then nothing was written.
    /// [`StoreError::TooMany`] for more than [`MAX_WRITES`]. A key may be written once.
    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError>;

    /// Follows all keys that begin with `prefix`.
    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError>;

    /// Leads the controllers of this store under the name `who`, if no other one does:
    /// [`keys::LEADER`] is there, with that name, while one leads.
    async fn try_lead(&self, who: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError>;

    /// A lease that lives as long as it is held, and for `ttl` after its holder fell silent.
    async fn lease(&self, ttl: Duration) -> Result<Arc<dyn Lease>, StoreError>;
}

/// Keys that live as long as their holder.
#[async_trait]
pub trait Lease: Send + Sync {
    /// For [`StoreWrite::Put`].
    fn id(&self) -> LeaseId;

    /// Waits until it has run out: its keys are gone.
    async fn lost(&self);

    /// Ends it and its keys now.
    async fn revoke(&self);
}

/// Leading the controllers of a store.
#[async_trait]
pub trait Leadership: Send + Sync {
    /// The condition under which this leader's writes are to be made: not met any more once
    /// another one leads, whatever this one believes. `None` where there is no other.
    fn fence(&self) -> Option<StoreWrite>;

    /// Waits until this one does not lead any more.
    async fn lost(&self);

    /// Lets another one lead now.
    async fn resign(&self);
}

/// A running watch.
#[async_trait]
pub trait StoreWatch: Send {
    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// When the store is gone for good.
    async fn next(&mut self) -> Result<WatchEvent, StoreError>;
}

/// Opens the store at `address`.
///
/// # Errors
/// What is wrong with it, and what to do.
pub async fn open(address: &StoreAddress) -> Result<Arc<dyn Store>, StoreError> {
    match address {
        StoreAddress::Embedded(dir) => Ok(Arc::new(EmbeddedStore::open(dir).await?)),
        StoreAddress::Etcd(address) => Ok(Arc::new(EtcdStore::open(address.clone())?)),
    }
}
