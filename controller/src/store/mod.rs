//! The store of the desired state: a small key-value store with transactions, leases, leader
//! election and a watch.
//!
//! [`Store`] is the interface. [`EmbeddedStore`] keeps everything in one file for a single
//! controller, [`EtcdStore`] in etcd for several. [`keys`] names all keys under `/flotilla/v1/`;
//! the values are the JSON records of [`fleet::records`](crate::fleet).

pub(crate) mod backoff;
mod chunks;
mod embedded;
mod etcd;
pub mod keys;
mod monitored;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use flotilla_core::StoreRevision;

use crate::config::StoreAddress;
pub use chunks::MAX_CHUNK_BYTES;
pub use embedded::EmbeddedStore;
pub use etcd::EtcdStore;
pub(crate) use monitored::MonitoredStore;

/// The largest number of writes in one transaction: etcd's default for `--max-txn-ops`.
pub const MAX_WRITES: usize = 128;

/// The largest value, in bytes: etcd refuses requests above 1.5 MiB, its default for
/// `--max-request-bytes`. The difference is for the key and for framing.
pub const MAX_VALUE_BYTES: usize = (3 << 19) - (32 << 10);

/// Time to live of the leases of a controller: one that is silent for longer counts as gone.
pub const LEASE_TTL: Duration = Duration::from_secs(10);

/// A key, its value, and the revision of the write that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// The full key, for example `/flotilla/v1/models/chat`.
    pub key: String,
    /// The value; JSON for all records, text for names.
    pub value: Vec<u8>,
    /// The revision of the write that set the value.
    pub revision: StoreRevision,
}

/// Identifies a lease within its store.
pub type LeaseId = i64;

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWrite {
    /// Sets a key if its precondition holds.
    Put {
        /// The key to set.
        key: String,
        /// The new value.
        value: Vec<u8>,
        /// The state of the key that the writer relies on.
        precondition: Precondition,
        /// The lease that the key is bound to: the key is deleted when the lease ends. `None`: the
        /// key stays until it is deleted.
        lease: Option<LeaseId>,
    },
    /// Deletes a key. Deleting a missing key succeeds.
    Delete {
        /// The key to delete.
        key: String,
    },
    /// Changes nothing, but makes the whole transaction depend on the state of a key.
    Require {
        /// The key to check.
        key: String,
        /// The state that the key must be in.
        precondition: Precondition,
    },
}

impl StoreWrite {
    /// Sets a key unconditionally.
    #[must_use]
    pub fn put(key: String, value: Vec<u8>) -> Self {
        Self::put_if(key, value, Precondition::Any)
    }

    /// Sets a key if the precondition holds.
    #[must_use]
    pub fn put_if(key: String, value: Vec<u8>, precondition: Precondition) -> Self {
        Self::Put {
            key,
            value,
            precondition,
            lease: None,
        }
    }

    /// Sets a key unconditionally and binds it to a lease.
    #[must_use]
    pub fn put_leased(key: String, value: Vec<u8>, lease: LeaseId) -> Self {
        Self::Put {
            key,
            value,
            precondition: Precondition::Any,
            lease: Some(lease),
        }
    }
}

/// The state of a key that a write depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Every state is accepted.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists, and this revision wrote its value.
    Revision(StoreRevision),
}

/// One change of the store, as a watch reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChange {
    /// A key was created or got a new value.
    Put(StoreEntry),
    /// A key was deleted.
    Delete {
        /// The deleted key.
        key: String,
        /// The revision of the deletion.
        revision: StoreRevision,
    },
}

impl StoreChange {
    /// The key that was written or deleted.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the write that made this change.
    #[must_use]
    pub fn revision(&self) -> StoreRevision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// An event of a [`StoreWatch`].
#[derive(Debug)]
pub enum WatchEvent {
    /// All entries under the watched prefix. It is the first event of a watch, and comes again
    /// whenever changes may have been missed.
    Snapshot {
        /// The entries, in the order of their keys.
        entries: Vec<StoreEntry>,
        /// The revision of the store that the entries are from.
        revision: StoreRevision,
    },
    /// One change after the snapshot.
    Change(StoreChange),
    /// The store was put back to an earlier state, or is another one. A snapshot follows.
    PutBack,
    /// The store stopped answering, with the error. Every event of another kind ends this state.
    Unavailable(String),
    /// The store answers again.
    Available,
}

/// What happened to the file of an embedded store while it was open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLoss {
    /// There is no file at its path any more.
    Removed,
    /// Another file is at its path.
    Replaced,
    /// The file has no content any more.
    Emptied,
}

impl fmt::Display for FileLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Emptied => "emptied",
        })
    }
}

/// Where an embedded store that does not exist is created.
#[derive(Debug, Clone, Default)]
pub struct StoreCreation {
    /// Further directories in which the controller keeps files. A store is not created beside those of a
    /// fleet, which has then lost its store.
    pub data_dirs: Vec<PathBuf>,
    /// Whether a store is created all the same.
    pub forced: bool,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition on this key did not hold; nothing was written.
    #[error("'{0}' was changed by another client in the meantime: read it again and retry")]
    Conflict(String),
    /// The data directory or a file in it cannot be used.
    #[error(
        "the data directory {path} cannot be used: {reason}; give this user the right to write there, or use another --data-dir"
    )]
    Directory {
        /// The data directory.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// Another process has opened this file.
    #[error("the store {0} is in use by another process: stop it, or use another data directory")]
    InUse(PathBuf),
    /// The file of the embedded store is not there, and other files of a fleet are.
    #[error(
        "the store {path} does not exist or is empty, but there was a fleet here ({found}): put the store back from a backup, or start once with --init-store for a new, empty fleet and run `flotilla restore`"
    )]
    Missing {
        /// The file of the store.
        path: PathBuf,
        /// The file that a fleet has left.
        found: PathBuf,
    },
    /// The file of the embedded store has disappeared while it was open.
    #[error(
        "the store {path} was {loss} while this controller uses it, and no change is accepted: put the file back; if it is lost, save the fleet with `flotilla backup`, restart the controller with --init-store and run `flotilla restore`"
    )]
    FileLost {
        /// The file of the store.
        path: PathBuf,
        /// What happened to it.
        loss: FileLoss,
    },
    /// The file of the embedded store cannot be read.
    #[error(
        "the store {path} is damaged ({reason}): restore it from a backup, or move it away and start once with --init-store for an empty fleet"
    )]
    Damaged {
        /// The file of the store.
        path: PathBuf,
        /// The error of the database.
        reason: String,
    },
    /// etcd cannot be reached, or refused a call.
    #[error("the store in etcd does not answer ({0}): changes are refused until it does")]
    Etcd(String),
    /// A transaction has more than [`MAX_WRITES`] writes; holds their number.
    #[error("{0} writes are too many for one transaction, which holds at most {MAX_WRITES}")]
    TooManyWrites(usize),
    /// A value has more than [`MAX_VALUE_BYTES`].
    #[error("'{key}' would have {bytes} bytes, and the store takes at most {MAX_VALUE_BYTES}")]
    TooLarge {
        /// The key of the value.
        key: String,
        /// The size of the value.
        bytes: usize,
    },
    /// etcd takes smaller requests than this version writes.
    #[error(
        "etcd refused a write ({0}): do not set its --max-request-bytes below the default of 1.5 MiB"
    )]
    EtcdRequestTooLarge(String),
    /// The database of etcd has reached its quota.
    #[error(
        "etcd is full (alarm NOSPACE) and takes no changes: delete what is not needed, then compact and defragment it, or raise --quota-backend-bytes; then run `etcdctl alarm disarm`"
    )]
    EtcdFull,
    /// The members of etcd disagree about their data.
    #[error(
        "etcd's data is damaged ({0}) and it takes no changes: replace the damaged member, or restore a snapshot of etcd"
    )]
    EtcdCorrupt(String),
    /// etcd refused the user, the password or the permission.
    #[error(
        "etcd refused this controller ({0}): check the user, its password and its permission to read and write /flotilla/"
    )]
    EtcdAuth(String),
    /// The disk of the embedded store is full.
    #[error(
        "the disk of the store {0} is full: free some space, and changes are accepted again by themselves"
    )]
    DiskFull(PathBuf),
    /// Any other failure of the embedded store.
    #[error("the store failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// Returns whether no change can be written until somebody has mended the cause. An outage is
    /// none: the watch reports it.
    #[must_use]
    pub fn blocks_changes(&self) -> bool {
        matches!(
            self,
            Self::EtcdFull
                | Self::EtcdCorrupt(_)
                | Self::EtcdAuth(_)
                | Self::DiskFull(_)
                | Self::Failed(_)
                | Self::FileLost { .. }
                | Self::Damaged { .. }
                | Self::Directory { .. }
                | Self::InUse(_)
        )
    }
}

/// Checks the limits of one transaction.
fn check_limits(writes: &[StoreWrite]) -> Result<(), StoreError> {
    if writes.len() > MAX_WRITES {
        return Err(StoreError::TooManyWrites(writes.len()));
    }
    for write in writes {
        if let StoreWrite::Put { key, value, .. } = write
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(StoreError::TooLarge {
                key: key.clone(),
                bytes: value.len(),
            });
        }
    }
    Ok(())
}

/// A key-value store with transactions, leases and a watch. Keys are paths such as `/a/b`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the entries whose keys start with `prefix`, in the order of their keys.
    async fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError>;

    /// Returns the entry with exactly this key, or `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError>;

    /// Returns the revision of the store as it is now, not as some member of it last knew it.
    async fn current_revision(&self) -> Result<StoreRevision, StoreError>;

    /// Applies all writes in one durable transaction and returns its revision. A key may occur
    /// only once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a precondition does not hold, [`StoreError::TooManyWrites`] for
    /// more than [`MAX_WRITES`], [`StoreError::TooLarge`] for a value above [`MAX_VALUE_BYTES`];
    /// nothing is written then.
    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError>;

    /// Applies any number of writes in as many transactions as they need: each has at most
    /// [`MAX_WRITES`] writes and [`MAX_CHUNK_BYTES`] of keys and values, and repeats `fence`, a
    /// condition that every transaction depends on.
    ///
    /// The writes are **not atomic as a whole**: readers can observe some without the others, and
    /// after an error the writes of the earlier transactions stay. Use it only for writes that are
    /// correct one by one and that the caller repeats.
    ///
    /// # Errors
    /// The error of the first transaction that failed; the later ones were not tried. A value that
    /// is too large holds up none of the others: [`StoreError::TooLarge`] comes after they were
    /// written.
    async fn write_all(
        &self,
        fence: Option<StoreWrite>,
        writes: Vec<StoreWrite>,
    ) -> Result<(), StoreError> {
        let (writes, too_large) = chunks::separate_too_large(writes);
        for chunk in chunks::split(fence.as_ref(), writes) {
            self.write(chunk).await?;
        }
        too_large.map_or(Ok(()), Err)
    }

    /// Watches all keys that start with `prefix`.
    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError>;

    /// Acquires the leadership of all controllers on this store for the controller `id`. Returns
    /// `None` if another one leads. While one leads, [`keys::LEADER`] holds its id.
    async fn try_lead(&self, id: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError>;

    /// Returns the error that keeps changes from being written, if the store can tell without
    /// writing.
    async fn check_health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Grants a lease. It is kept alive while the returned value exists, and ends at the latest
    /// `ttl` after its process died.
    async fn grant_lease(&self, ttl: Duration) -> Result<Arc<dyn Lease>, StoreError>;
}

/// A lease: the keys bound to it are deleted when it ends.
#[async_trait]
pub trait Lease: Send + Sync {
    /// The id to bind keys with; see [`StoreWrite::put_leased`].
    fn id(&self) -> LeaseId;

    /// Waits until the lease has ended and its keys are deleted.
    async fn lost(&self);

    /// Ends the lease and deletes its keys now.
    async fn revoke(&self);
}

/// The leadership of the controllers of one store.
#[async_trait]
pub trait Leadership: Send + Sync {
    /// The condition to add to this leader's writes. It no longer holds once another controller
    /// leads, even if this one has not noticed. `None` if there can be no other controller.
    fn fence(&self) -> Option<StoreWrite>;

    /// Waits until the leadership is lost.
    async fn lost(&self);

    /// Gives up the leadership now, so that another controller can lead.
    async fn resign(&self);
}

/// A running watch.
#[async_trait]
pub trait StoreWatch: Send {
    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// When the store can never be watched again.
    async fn next(&mut self) -> Result<WatchEvent, StoreError>;
}

/// Opens the store at `address`. An embedded one that does not exist is created, unless its directory has
/// other files of a fleet.
///
/// # Errors
/// A [`StoreError`] whose message says what is wrong and what to do.
pub async fn open(address: &StoreAddress) -> Result<Arc<dyn Store>, StoreError> {
    open_or_create(address, StoreCreation::default()).await
}

/// Opens the store at `address`. An embedded one that does not exist is created as `creation` says.
///
/// # Errors
/// A [`StoreError`] whose message says what is wrong and what to do.
pub(crate) async fn open_or_create(
    address: &StoreAddress,
    creation: StoreCreation,
) -> Result<Arc<dyn Store>, StoreError> {
    match address {
        StoreAddress::Embedded(dir) => {
            let store = EmbeddedStore::open_or_create(dir, creation).await?;
            Ok(Arc::new(store))
        }
        StoreAddress::Etcd(address) => Ok(Arc::new(EtcdStore::open(address.clone())?)),
    }
}
