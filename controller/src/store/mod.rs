//! Where the wish lives: models and assignments under `/flotilla/v1/`.

mod embedded;
pub mod keys;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::config::StoreAddress;
pub use embedded::Embedded;

/// A point in the store's history; every write makes a later one.
pub type Revision = u64;

/// A key with its value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: Revision,
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key, if it is still what the writer expects.
    Put {
        key: String,
        value: Vec<u8>,
        expect: Expect,
    },
    /// Removes a key. One that is not there is fine.
    Delete { key: String },
}

/// What a writer expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// No value.
    Absent,
    /// The value of this revision.
    Revision(Revision),
}

/// A change that others see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: String },
}

/// What a watch yields.
#[derive(Debug)]
pub enum WatchEvent {
    /// All entries as they are now: first, and again whenever changes may have been missed.
    Snapshot(Vec<Entry>),
    Change(Change),
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
    /// Anything else.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// A key-value store with transactions and a watch. Keys are texts in directory form.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entries whose keys begin with `prefix`, in order of their keys.
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError>;

    /// The entry of this key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Does all writes or none, durably, and returns their revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an expectation is not met; then nothing was written.
    async fn write(&self, writes: Vec<Write>) -> Result<Revision, StoreError>;

    /// Follows all keys that begin with `prefix`.
    async fn watch(&self, prefix: &str) -> Result<Box<dyn Watch>, StoreError>;
}

/// A running watch.
#[async_trait]
pub trait Watch: Send {
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
        StoreAddress::Embedded(dir) => Ok(Arc::new(Embedded::open(dir).await?)),
    }
}
