//! The embedded store: a redb file that one controller opens alone. Every write is durable.
//!
//! redb refuses everything after an error of the disk. The file is then closed, and opened again by
//! the next call, so that the store works again once the disk does.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::broadcast;

use super::{
    Leadership, Lease, LeaseId, Precondition, Store, StoreChange, StoreEntry, StoreError,
    StoreRevision, StoreWatch, StoreWrite, WatchEvent, keys,
};
use crate::durable_file::{create_dir_all, sync_dir};
use crate::store::backoff::RetryDelays;

/// Maps a key to the revision of its last write and its value.
const ENTRIES: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("entries");
/// Holds one row, [`REVISION`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// The row with the revision of the last write.
const REVISION: &str = "revision";
/// Maps the keys that are bound to a lease to its id. They do not outlive the process.
const LEASED: TableDefinition<&str, i64> = TableDefinition::new("leased");
/// The name of the file in the data directory.
const FILE: &str = "store.redb";

/// The number of changes that a slow watcher can fall behind before it gets a new snapshot.
const BACKLOG: usize = 1_024;

/// The embedded store. Cheap to clone; clones share the file.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<EmbeddedState>,
}

struct EmbeddedState {
    path: PathBuf,
    /// `None` after an error of the disk, until the next call opens it again.
    database: RwLock<Option<Database>>,
    /// Whether the keys of the previous process's leases are still there.
    has_stale_leases: AtomicBool,
    /// Sends changes to the watchers. Locked during a write and the sending of its changes, so
    /// that watchers see changes in order, and while a watch starts, so that it misses none.
    changes: Mutex<broadcast::Sender<StoreChange>>,
    /// The id of the next lease.
    next_lease: AtomicI64,
}

impl EmbeddedStore {
    /// Opens the store in the directory `dir`; creates the directory and the store if they do not
    /// exist.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::InUse`], [`StoreError::Damaged`], or
    /// [`StoreError::DiskFull`] if there is no room for a new store. A store that exists is opened on
    /// a full disk, too.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        blocking(move || {
            create_dir_all(&dir).map_err(|error| directory_error(&dir, &error))?;
            let path = dir.join(FILE);
            let database = open_database(&path)?;
            let inner = EmbeddedState {
                path,
                database: RwLock::new(Some(database)),
                has_stale_leases: AtomicBool::new(true),
                changes: Mutex::new(broadcast::channel(BACKLOG).0),
                next_lease: AtomicI64::new(0),
            };
            match inner.end_stale_leases() {
                // They are ended before the first write that succeeds.
                Err(error @ StoreError::DiskFull(_)) => {
                    tracing::warn!(%error, "the store is opened without room for changes");
                }
                ended => ended?,
            }
            Ok(Self {
                inner: Arc::new(inner),
            })
        })
        .await
    }
}

/// Opens the database file and creates the tables that it does not have.
fn open_database(path: &Path) -> Result<Database, StoreError> {
    let damaged = |error: redb::Error| match failed(error) {
        StoreError::DiskFull(_) => StoreError::DiskFull(path.to_owned()),
        other => StoreError::Damaged {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    };
    let exists = path.exists();
    let database = Database::create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != ErrorKind::InvalidData && !is_disk_full(&error) =>
        {
            directory_error(path.parent().unwrap_or(path), &error)
        }
        other => damaged(other.into()),
    })?;
    // With all tables there, reads never meet a missing one. Nothing is written if they are: there
    // may be no room.
    if !has_tables(&database).map_err(damaged)? {
        create_tables(&database).map_err(damaged)?;
    }
    if !exists && let Some(dir) = path.parent() {
        // Without this, the file itself could be gone after a power cut.
        sync_dir(dir).map_err(|error| directory_error(dir, &error))?;
    }
    Ok(database)
}

fn has_tables(database: &Database) -> Result<bool, redb::Error> {
    let read = database.begin_read()?;
    let tables = [
        read.open_table(ENTRIES).map(drop),
        read.open_table(META).map(drop),
        read.open_table(LEASED).map(drop),
    ];
    for table in tables {
        match table {
            Ok(()) => {}
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(META)?;
    transaction.open_table(LEASED)?;
    transaction.commit()?;
    Ok(())
}

fn directory_error(dir: &Path, error: &std::io::Error) -> StoreError {
    if is_disk_full(error) {
        return StoreError::DiskFull(dir.to_owned());
    }
    StoreError::Directory {
        path: dir.to_owned(),
        reason: error.to_string(),
    }
}

fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Converts an error of redb. [`EmbeddedState::run`] fills in the path.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) if is_disk_full(&error) => StoreError::DiskFull(PathBuf::new()),
        other => StoreError::Failed(other.to_string()),
    }
}

/// Runs file I/O on the blocking thread pool.
async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(operation)
        .await
        .unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
}

impl EmbeddedState {
    /// Runs an operation on the database, which is opened first if it is closed, and closed after an
    /// error of the disk.
    fn run<T>(
        &self,
        operation: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut database = self.database.read();
        if database.is_none() {
            drop(database);
            let mut closed = self.database.write();
            if closed.is_none() {
                *closed = Some(open_database(&self.path)?);
            }
            database = parking_lot::RwLockWriteGuard::downgrade(closed);
        }
        let Some(open) = &*database else {
            return Err(StoreError::Failed("the store is closed".into()));
        };
        let error = match operation(open) {
            Err(StoreError::DiskFull(_)) => StoreError::DiskFull(self.path.clone()),
            Err(error @ StoreError::Failed(_)) => error,
            other => return other,
        };
        drop(database);
        *self.database.write() = None;
        Err(error)
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        self.run(|database| list(database, prefix))
    }

    /// Returns the revision of the last write.
    fn revision(&self) -> Result<StoreRevision, StoreError> {
        self.run(revision)
    }

    fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        self.end_stale_leases()?;
        self.commit(writes)
    }

    /// Writes in one transaction, and sends the changes to the watchers.
    fn commit(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        let sender = self.changes.lock();
        let (revision, changes) = self.run(|database| commit(database, writes))?;
        for change in changes {
            // Sending fails only if nobody watches.
            let _ = sender.send(change);
        }
        Ok(revision)
    }

    /// Deletes the keys of the previous process's leases, which ended with it.
    fn end_stale_leases(&self) -> Result<(), StoreError> {
        if self.has_stale_leases.load(Ordering::Acquire) {
            self.end_leases(None)?;
            self.has_stale_leases.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Ends one lease, or all leases for `None`, and deletes their keys.
    fn end_leases(&self, lease: Option<LeaseId>) -> Result<(), StoreError> {
        let deletes = self.run(|database| leased_keys(database, lease))?;
        if !deletes.is_empty() {
            let deletes = deletes.into_iter();
            self.commit(deletes.map(|key| StoreWrite::Delete { key }).collect())?;
        }
        Ok(())
    }
}

fn list(database: &Database, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let table = read.open_table(ENTRIES).map_err(failed)?;
    let mut entries = Vec::new();
    for row in table.range(prefix..).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let (revision, value) = value.value();
        entries.push(StoreEntry {
            key: key.value().to_owned(),
            value: value.to_owned(),
            revision: StoreRevision(revision),
        });
    }
    Ok(entries)
}

fn get(database: &Database, key: String) -> Result<Option<StoreEntry>, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let table = read.open_table(ENTRIES).map_err(failed)?;
    let row = table.get(key.as_str()).map_err(failed)?;
    Ok(row.map(|row| {
        let (revision, value) = row.value();
        StoreEntry {
            value: value.to_owned(),
            revision: StoreRevision(revision),
            key,
        }
    }))
}

/// Returns the revision of the last write.
fn revision(database: &Database) -> Result<StoreRevision, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let meta = read.open_table(META).map_err(failed)?;
    let row = meta.get(REVISION).map_err(failed)?;
    Ok(StoreRevision(row.map_or(0, |row| row.value())))
}

/// Writes in one transaction. Returns its revision and what it has changed.
fn commit(
    database: &Database,
    writes: Vec<StoreWrite>,
) -> Result<(StoreRevision, Vec<StoreChange>), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut changes = Vec::with_capacity(writes.len());
    let revision;
    {
        let mut entries = transaction.open_table(ENTRIES).map_err(failed)?;
        let mut leased = transaction.open_table(LEASED).map_err(failed)?;
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let last = meta
            .get(REVISION)
            .map_err(failed)?
            .map_or(0, |row| row.value());
        revision = StoreRevision(last + 1);
        meta.insert(REVISION, revision.0).map_err(failed)?;
        for write in writes {
            match write {
                StoreWrite::Put {
                    key,
                    value,
                    precondition,
                    lease,
                } => {
                    check(&entries, &key, precondition)?;
                    entries
                        .insert(key.as_str(), (revision.0, value.as_slice()))
                        .map_err(failed)?;
                    match lease {
                        Some(lease) => leased.insert(key.as_str(), lease),
                        None => leased.remove(key.as_str()),
                    }
                    .map_err(failed)?;
                    changes.push(StoreChange::Put(StoreEntry {
                        key,
                        value,
                        revision,
                    }));
                }
                StoreWrite::Delete { key } => {
                    leased.remove(key.as_str()).map_err(failed)?;
                    if entries.remove(key.as_str()).map_err(failed)?.is_some() {
                        changes.push(StoreChange::Delete { key, revision });
                    }
                }
                StoreWrite::Require { key, precondition } => check(&entries, &key, precondition)?,
            }
        }
    }
    transaction.commit().map_err(failed)?;
    Ok((revision, changes))
}

/// Returns the keys that are bound to a lease, or to any lease for `None`.
fn leased_keys(database: &Database, lease: Option<LeaseId>) -> Result<Vec<String>, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let leased = read.open_table(LEASED).map_err(failed)?;
    let mut keys = Vec::new();
    for row in leased.iter().map_err(failed)? {
        let (key, key_lease) = row.map_err(failed)?;
        if lease.is_none_or(|lease| lease == key_lease.value()) {
            keys.push(key.value().to_owned());
        }
    }
    Ok(keys)
}

/// Fails with a conflict unless the precondition holds.
fn check(
    entries: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    key: &str,
    precondition: Precondition,
) -> Result<(), StoreError> {
    let row = entries.get(key).map_err(failed)?;
    let current = row.map(|row| row.value().0);
    let holds = match precondition {
        Precondition::Any => true,
        Precondition::Absent => current.is_none(),
        Precondition::Revision(required) => current == Some(required.0),
    };
    holds
        .then_some(())
        .ok_or_else(|| StoreError::Conflict(key.to_owned()))
}

/// The leadership of the only process that has the file open; it is never lost.
struct EmbeddedLeadership;

#[async_trait]
impl Leadership for EmbeddedLeadership {
    fn fence(&self) -> Option<StoreWrite> {
        None
    }

    async fn lost(&self) {
        std::future::pending().await
    }

    async fn resign(&self) {}
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        let (inner, prefix) = (self.inner.clone(), prefix.to_owned());
        blocking(move || inner.list(&prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        blocking(move || inner.run(|database| get(database, key))).await
    }

    async fn current_revision(&self) -> Result<StoreRevision, StoreError> {
        let inner = self.inner.clone();
        blocking(move || inner.revision()).await
    }

    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        super::check_limits(&writes)?;
        let inner = self.inner.clone();
        blocking(move || inner.write(writes)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError> {
        Ok(Box::new(EmbeddedWatch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            changes: None,
            unavailable: false,
            delays: RetryDelays::default(),
        }))
    }

    async fn try_lead(&self, id: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
        let lease = self.inner.next_lease.fetch_add(1, Ordering::Relaxed);
        let key = keys::LEADER.to_owned();
        self.write(vec![StoreWrite::put_leased(key, id.into(), lease)])
            .await?;
        Ok(Some(Arc::new(EmbeddedLeadership)))
    }

    async fn grant_lease(&self, _: Duration) -> Result<Arc<dyn Lease>, StoreError> {
        Ok(Arc::new(EmbeddedLease {
            inner: self.inner.clone(),
            id: self.inner.next_lease.fetch_add(1, Ordering::Relaxed),
        }))
    }
}

/// A lease of the only process that has the file open; it lasts until it is revoked.
struct EmbeddedLease {
    inner: Arc<EmbeddedState>,
    id: LeaseId,
}

#[async_trait]
impl Lease for EmbeddedLease {
    fn id(&self) -> LeaseId {
        self.id
    }

    async fn lost(&self) {
        std::future::pending().await
    }

    async fn revoke(&self) {
        let (inner, id) = (self.inner.clone(), self.id);
        if let Err(error) = blocking(move || inner.end_leases(Some(id))).await {
            tracing::warn!(%error, "the lease could not be ended");
        }
    }
}

struct EmbeddedWatch {
    store: EmbeddedStore,
    prefix: String,
    /// `None` before the first snapshot, and after changes were missed.
    changes: Option<broadcast::Receiver<StoreChange>>,
    /// Whether [`WatchEvent::Unavailable`] was returned and nothing since.
    unavailable: bool,
    /// The delays between attempts to read a snapshot.
    delays: RetryDelays,
}

#[async_trait]
impl StoreWatch for EmbeddedWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            let Some(changes) = &mut self.changes else {
                let (inner, prefix) = (self.store.inner.clone(), self.prefix.clone());
                let snapshot = blocking(move || {
                    let sender = inner.changes.lock();
                    Ok((inner.list(&prefix)?, inner.revision()?, sender.subscribe()))
                });
                let (entries, revision, changes) = match snapshot.await {
                    Ok(snapshot) => snapshot,
                    Err(error) if !self.unavailable => {
                        tracing::warn!(%error, "the store cannot be read");
                        self.unavailable = true;
                        return Ok(WatchEvent::Unavailable(error.to_string()));
                    }
                    Err(_) => {
                        self.delays.wait().await;
                        continue;
                    }
                };
                (self.changes, self.unavailable) = (Some(changes), false);
                self.delays.reset();
                return Ok(WatchEvent::Snapshot { entries, revision });
            };
            match changes.recv().await {
                Ok(change) => {
                    let key = match &change {
                        StoreChange::Put(entry) => &entry.key,
                        StoreChange::Delete { key, .. } => key,
                    };
                    if key.starts_with(&self.prefix) {
                        return Ok(WatchEvent::Change(change));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.changes = None,
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(StoreError::Failed("the store was closed".into()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MAX_WRITES;

    fn put(key: &str, value: &str, precondition: Precondition) -> StoreWrite {
        StoreWrite::put_if(key.into(), value.into(), precondition)
    }

    async fn store() -> (tempfile::TempDir, EmbeddedStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn entries_and_revisions_survive_reopening() {
        let (dir, store) = store().await;
        let first = store
            .write(vec![put("/a/1", "x", Precondition::Absent)])
            .await
            .unwrap();
        drop(store);
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        let entry = store.get("/a/1").await.unwrap().unwrap();
        assert_eq!((entry.value.as_slice(), entry.revision), (&b"x"[..], first));
        let second = store
            .write(vec![put("/a/2", "y", Precondition::Any)])
            .await
            .unwrap();
        assert!(second > first);
    }

    #[tokio::test]
    async fn leased_keys_are_gone_after_reopening() {
        let (dir, store) = store().await;
        let lease = store.grant_lease(Duration::from_secs(1)).await.unwrap();
        let writes = vec![
            put("/kept", "", Precondition::Any),
            StoreWrite::put_leased("/leased".into(), Vec::new(), lease.id()),
            StoreWrite::put_leased("/kept/after/all".into(), Vec::new(), lease.id()),
        ];
        store.write(writes).await.unwrap();
        store
            .write(vec![put("/kept/after/all", "", Precondition::Any)])
            .await
            .unwrap();
        drop((store, lease));
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        let entries = store.list("/").await.unwrap();
        let keys: Vec<_> = entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["/kept", "/kept/after/all"]);
    }

    #[tokio::test]
    async fn slow_watcher_gets_a_new_snapshot() {
        let (_dir, store) = store().await;
        let mut watch = store.watch("/").await.unwrap();
        watch.next().await.unwrap();
        for round in 0..=BACKLOG / MAX_WRITES {
            let keys =
                (0..MAX_WRITES).map(|i| put(&format!("/{round}/{i}"), "", Precondition::Any));
            store.write(keys.collect()).await.unwrap();
        }
        let event = watch.next().await.unwrap();
        assert!(matches!(event, WatchEvent::Snapshot { entries, .. } if entries.len() > BACKLOG));
    }

    #[tokio::test]
    async fn second_process_gets_an_in_use_error() {
        let (dir, _store) = store().await;
        let second = EmbeddedStore::open(dir.path()).await;
        assert!(matches!(second, Err(StoreError::InUse(_))));
    }

    #[tokio::test]
    async fn damaged_file_is_reported_as_damaged() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"not a database").unwrap();
        let error = EmbeddedStore::open(dir.path()).await.err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}
