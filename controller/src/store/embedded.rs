//! The store in a file: redb, durable with every write, for one controller.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use tokio::sync::broadcast;

use super::{
    Leadership, Lease, LeaseId, MAX_WRITES, Precondition, Store, StoreChange, StoreEntry,
    StoreError, StoreRevision, StoreWatch, StoreWrite, WatchEvent, keys,
};

/// Key to revision and value.
const ENTRIES: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("entries");
/// The one row `revision`: the last revision written.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// Keys that live no longer than the process that wrote them, with their lease.
const LEASED: TableDefinition<&str, i64> = TableDefinition::new("leased");
/// The file in the data directory.
const FILE: &str = "store.redb";

/// Changes a slow watcher may fall behind before it is given a snapshot instead.
const BACKLOG: usize = 1_024;

/// A store in one file. Cheap to clone; clones share the file.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<EmbeddedState>,
}

struct EmbeddedState {
    database: Database,
    /// Held while writing *and* telling watchers, so that they see changes in order, and
    /// while a watch begins, so that it misses none.
    changes: Mutex<broadcast::Sender<StoreChange>>,
    /// Leases given so far.
    leases: AtomicI64,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, creating both where missing.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::InUse`] or [`StoreError::Damaged`].
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|error| StoreError::Directory {
                path: dir.clone(),
                problem: error.to_string(),
            })?;
            let path = dir.join(FILE);
            let database = create(&path)?;
            let inner = EmbeddedState {
                database,
                changes: Mutex::new(broadcast::channel(BACKLOG).0),
                leases: AtomicI64::new(0),
            };
            // Whoever held them is gone.
            inner.end(None)?;
            Ok(Self {
                inner: Arc::new(inner),
            })
        })
        .await
    }
}

fn create(path: &Path) -> Result<Database, StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let database = Database::create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData =>
        {
            StoreError::Directory {
                path: path.parent().unwrap_or(path).to_owned(),
                problem: error.to_string(),
            }
        }
        other => damaged(other.to_string()),
    })?;
    // The tables exist from the start, so that reading never has to ask.
    let begun = database.begin_write().map_err(|e| damaged(e.to_string()))?;
    begun
        .open_table(ENTRIES)
        .map_err(|e| damaged(e.to_string()))?;
    begun.open_table(META).map_err(|e| damaged(e.to_string()))?;
    begun
        .open_table(LEASED)
        .map_err(|e| damaged(e.to_string()))?;
    begun.commit().map_err(|e| damaged(e.to_string()))?;
    Ok(database)
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed(error.into().to_string())
}

/// File work, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
}

impl EmbeddedState {
    fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
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

    /// The last revision written.
    fn revision(&self) -> Result<StoreRevision, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let meta = read.open_table(META).map_err(failed)?;
        let row = meta.get(REVISION).map_err(failed)?;
        Ok(StoreRevision(row.map_or(0, |row| row.value())))
    }

    fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        let sender = self.changes.lock();
        let begun = self.database.begin_write().map_err(failed)?;
        let mut changes = Vec::with_capacity(writes.len());
        let revision;
        {
            let mut entries = begun.open_table(ENTRIES).map_err(failed)?;
            let mut leased = begun.open_table(LEASED).map_err(failed)?;
            let mut meta = begun.open_table(META).map_err(failed)?;
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
                        expect,
                        lease,
                    } => {
                        check(&entries, &key, expect)?;
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
                    StoreWrite::Require { key, expect } => check(&entries, &key, expect)?,
                }
            }
        }
        begun.commit().map_err(failed)?;
        for change in changes {
            // Without a watcher there is nobody to tell.
            let _ = sender.send(change);
        }
        Ok(revision)
    }

    /// Ends a lease, or all: their keys go.
    fn end(&self, lease: Option<LeaseId>) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        {
            let read = self.database.begin_read().map_err(failed)?;
            let leased = read.open_table(LEASED).map_err(failed)?;
            for row in leased.iter().map_err(failed)? {
                let (key, held) = row.map_err(failed)?;
                if lease.is_none_or(|lease| lease == held.value()) {
                    gone.push(StoreWrite::Delete {
                        key: key.value().to_owned(),
                    });
                }
            }
        }
        if !gone.is_empty() {
            self.write(gone)?;
        }
        Ok(())
    }
}

/// Fails with a conflict unless the key is as expected.
fn check(
    entries: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    key: &str,
    expect: Precondition,
) -> Result<(), StoreError> {
    let found = entries.get(key).map_err(failed)?;
    let found = found.map(|row| row.value().0);
    let met = match expect {
        Precondition::Any => true,
        Precondition::Absent => found.is_none(),
        Precondition::Revision(wanted) => found == Some(wanted.0),
    };
    met.then_some(())
        .ok_or_else(|| StoreError::Conflict(key.to_owned()))
}

/// The one process that has the file open leads, as long as it lives.
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
        let entries = self.list(key).await?;
        Ok(entries.into_iter().find(|entry| entry.key == key))
    }

    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        if writes.len() > MAX_WRITES {
            return Err(StoreError::TooMany(writes.len()));
        }
        let inner = self.inner.clone();
        blocking(move || inner.write(writes)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Box<dyn StoreWatch>, StoreError> {
        Ok(Box::new(EmbeddedWatch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            changes: None,
        }))
    }

    async fn try_lead(&self, who: &str) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
        let lease = self.inner.leases.fetch_add(1, Ordering::Relaxed);
        let key = keys::LEADER.to_owned();
        self.write(vec![StoreWrite::put_leased(key, who.into(), lease)])
            .await?;
        Ok(Some(Arc::new(EmbeddedLeadership)))
    }

    async fn lease(&self, _: Duration) -> Result<Arc<dyn Lease>, StoreError> {
        Ok(Arc::new(EmbeddedLease {
            inner: self.inner.clone(),
            id: self.inner.leases.fetch_add(1, Ordering::Relaxed),
        }))
    }
}

/// A lease of the one process that has the file open.
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
        if let Err(error) = blocking(move || inner.end(Some(id))).await {
            tracing::warn!(%error, "a lease could not be ended");
        }
    }
}

struct EmbeddedWatch {
    store: EmbeddedStore,
    prefix: String,
    /// `None` until a snapshot was given, and after changes were missed.
    changes: Option<broadcast::Receiver<StoreChange>>,
}

#[async_trait]
impl StoreWatch for EmbeddedWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            let Some(changes) = &mut self.changes else {
                let (inner, prefix) = (self.store.inner.clone(), self.prefix.clone());
                let (entries, revision, changes) = blocking(move || {
                    let sender = inner.changes.lock();
                    Ok((inner.list(&prefix)?, inner.revision()?, sender.subscribe()))
                })
                .await?;
                self.changes = Some(changes);
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

    fn put(key: &str, value: &str, expect: Precondition) -> StoreWrite {
        StoreWrite::put_if(key.into(), value.into(), expect)
    }

    async fn store() -> (tempfile::TempDir, EmbeddedStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn what_was_written_survives_reopening() {
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
    async fn leased_keys_do_not_survive_their_process() {
        let (dir, store) = store().await;
        let lease = store.lease(Duration::from_secs(1)).await.unwrap();
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
    async fn a_watcher_that_falls_behind_gets_a_snapshot() {
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
    async fn a_second_process_is_told_that_the_store_is_in_use() {
        let (dir, _store) = store().await;
        let second = EmbeddedStore::open(dir.path()).await;
        assert!(matches!(second, Err(StoreError::InUse(_))));
    }

    #[tokio::test]
    async fn a_damaged_file_is_said_to_be_damaged() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"not a database").unwrap();
        let error = EmbeddedStore::open(dir.path()).await.err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}
