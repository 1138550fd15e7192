//! The embedded store: a redb file that one controller opens alone. Every write is durable.
//!
//! redb refuses everything after an error of the disk. The file is then closed, and opened again by
//! the next call, so that the store works again once the disk does. Watchers are disconnected with it: a
//! commit that failed may have become durable, so that they compare revisions before they go on.
//!
//! `file.rs` has the file itself, `tables.rs` the transactions, `watch.rs` and `lease.rs` the rest of the
//! interface.

mod file;
mod lease;
mod tables;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::Database;
use tokio::sync::broadcast;

use self::file::StoreFile;
use self::lease::{EmbeddedLeadership, EmbeddedLease};
use self::watch::EmbeddedWatch;
use super::{
    Leadership, Lease, LeaseId, Store, StoreChange, StoreCreation, StoreEntry, StoreError,
    StoreRevision, StoreWatch, StoreWrite, keys,
};

/// The number of changes that a slow watcher can fall behind before it gets a new snapshot.
const BACKLOG: usize = 1_024;

/// The embedded store. Cheap to clone; clones share the file.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<EmbeddedState>,
}

struct EmbeddedState {
    file: StoreFile,
    /// `None` after an error of the disk, until the next call opens it again.
    open: RwLock<Option<OpenFile>>,
    /// Whether the keys of the previous process's leases are still there. Locked while they are deleted, so
    /// that a write that comes meanwhile keeps the keys of its own lease.
    has_stale_leases: Mutex<bool>,
    /// Locked during a write and the sending of its changes, so that watchers see changes in order, and
    /// while a watch starts, so that it misses none.
    order: Mutex<()>,
    /// The id of the next lease.
    next_lease: AtomicI64,
}

/// The file while it is open.
struct OpenFile {
    database: Database,
    /// Sends changes to the watchers. It ends with the file: its watchers then start anew.
    changes: broadcast::Sender<StoreChange>,
}

impl EmbeddedStore {
    /// Opens the store in the directory `dir`; creates the directory and the store if they do not
    /// exist and the directory has no other files of a fleet.
    ///
    /// # Errors
    /// Those of [`EmbeddedStore::open_or_create`].
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_or_create(dir, StoreCreation::default()).await
    }

    /// Opens the store in the directory `dir`, or creates it as `creation` says.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::InUse`], [`StoreError::Damaged`], [`StoreError::Missing`],
    /// or [`StoreError::DiskFull`] if there is no room for a new store. A store that exists is opened on
    /// a full disk, too.
    pub async fn open_or_create(dir: &Path, creation: StoreCreation) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        blocking(move || {
            let file = StoreFile::create_if_new(&dir, &creation)?;
            let inner = EmbeddedState {
                file,
                open: RwLock::new(None),
                has_stale_leases: Mutex::new(true),
                order: Mutex::new(()),
                next_lease: AtomicI64::new(0),
            };
            inner.run(|_| Ok(()))?;
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

/// Runs file I/O on the blocking thread pool.
async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(operation)
        .await
        .unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())))
}

impl EmbeddedState {
    /// Runs an operation on the file, which is opened first if it is closed, and closed after an
    /// error of the disk.
    fn run<T>(
        &self,
        operation: impl FnOnce(&OpenFile) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut open = self.open.read();
        if open.is_none() {
            drop(open);
            let mut closed = self.open.write();
            if closed.is_none() {
                *closed = Some(OpenFile {
                    database: self.file.open()?,
                    changes: broadcast::channel(BACKLOG).0,
                });
            }
            open = parking_lot::RwLockWriteGuard::downgrade(closed);
        }
        let Some(file) = &*open else {
            return Err(StoreError::Failed("the store is closed".into()));
        };
        let error = match operation(file) {
            Err(StoreError::DiskFull(_)) => StoreError::DiskFull(self.file.path().to_owned()),
            Err(error @ StoreError::Failed(_)) => error,
            other => return other,
        };
        drop(open);
        *self.open.write() = None;
        Err(error)
    }

    fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        self.run(|open| tables::list(&open.database, prefix))
    }

    /// Returns the revision of the last write.
    fn revision(&self) -> Result<StoreRevision, StoreError> {
        self.run(|open| tables::revision(&open.database))
    }

    fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        self.end_stale_leases()?;
        self.commit(writes)
    }

    /// Writes in one transaction, and sends the changes to the watchers.
    fn commit(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        let _order = self.order.lock();
        self.file.check()?;
        let revision = self.run(|open| {
            let (revision, changes) = tables::commit(&open.database, writes)?;
            for change in changes {
                // Sending fails only if nobody watches.
                let _ = open.changes.send(change);
            }
            Ok(revision)
        })?;
        // What went into a file that is gone is not acknowledged.
        self.file.check()?;
        Ok(revision)
    }

    /// Deletes the keys of the previous process's leases, which ended with it.
    fn end_stale_leases(&self) -> Result<(), StoreError> {
        let mut has_stale_leases = self.has_stale_leases.lock();
        if *has_stale_leases {
            self.end_leases(None)?;
            *has_stale_leases = false;
        }
        Ok(())
    }

    /// Ends one lease, or all leases for `None`, and deletes their keys.
    fn end_leases(&self, lease: Option<LeaseId>) -> Result<(), StoreError> {
        let deletes = self.run(|open| tables::leased_keys(&open.database, lease))?;
        if !deletes.is_empty() {
            let deletes = deletes.into_iter();
            self.commit(deletes.map(|key| StoreWrite::Delete { key }).collect())?;
        }
        Ok(())
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn list(&self, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
        let (inner, prefix) = (self.inner.clone(), prefix.to_owned());
        blocking(move || inner.list(&prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        blocking(move || inner.run(|open| tables::get(&open.database, key))).await
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
        Ok(Box::new(EmbeddedWatch::new(self.clone(), prefix)))
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

    async fn check_health(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        blocking(move || inner.file.check()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{FileLoss, MAX_WRITES, Precondition, WatchEvent};

    /// The name of the file in the data directory.
    const FILE: &str = "store.redb";

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

    async fn write(store: &EmbeddedStore, key: &str) -> Result<StoreRevision, StoreError> {
        store.write(vec![put(key, "", Precondition::Any)]).await
    }

    #[tokio::test]
    async fn store_is_not_created_where_the_files_of_a_fleet_have_lost_theirs() {
        for left in ["desired-state.jsonl", "desired-state.f.jsonl", "blobs/ab"] {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            for in_data_dir in [false, true] {
                let data_dir = dirs[1].path();
                let left_in = dirs[usize::from(in_data_dir)].path();
                let left = left_in.join(left);
                std::fs::create_dir_all(left.parent().unwrap()).unwrap();
                std::fs::write(&left, "").unwrap();
                let creation = |forced| StoreCreation {
                    data_dirs: vec![data_dir.to_owned()],
                    forced,
                };
                let dir = dirs[0].path();
                for empty in [false, true] {
                    if empty {
                        std::fs::write(dir.join(FILE), "").unwrap();
                    }
                    let refused = EmbeddedStore::open_or_create(dir, creation(false)).await;
                    let error = refused.err().unwrap();
                    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
                    let text = error.to_string();
                    assert!(text.contains("--init-store"), "{text}");
                }
                let store = EmbeddedStore::open_or_create(dir, creation(true)).await;
                drop(store.unwrap());
                // From now on it is there.
                EmbeddedStore::open_or_create(dir, creation(false))
                    .await
                    .unwrap();
                std::fs::remove_file(dir.join(FILE)).unwrap();
                std::fs::remove_file(left).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn changes_are_refused_while_the_file_is_gone_and_accepted_when_it_is_back() {
        let (dir, store) = store().await;
        write(&store, "/kept").await.unwrap();
        let (path, aside) = (dir.path().join(FILE), dir.path().join("aside"));
        let refused = async |expected| {
            let error = write(&store, "/lost").await.unwrap_err();
            assert!(
                matches!(error, StoreError::FileLost { loss, .. } if loss == expected),
                "{error}"
            );
            assert!(error.blocks_changes());
            assert!(store.check_health().await.is_err());
        };
        std::fs::rename(&path, &aside).unwrap();
        refused(FileLoss::Removed).await;
        std::fs::copy(&aside, &path).unwrap();
        refused(FileLoss::Replaced).await;
        // It is not opened either.
        *store.inner.open.write() = None;
        refused(FileLoss::Replaced).await;
        std::fs::rename(&aside, &path).unwrap();
        write(&store, "/again").await.unwrap();
        assert_eq!(store.list("/").await.unwrap().len(), 2);
        std::fs::File::options()
            .write(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        refused(FileLoss::Emptied).await;
    }

    #[tokio::test]
    async fn watch_gets_a_snapshot_after_the_file_was_closed_only_if_it_has_missed_changes() {
        let (_dir, store) = store().await;
        write(&store, "/1").await.unwrap();
        let mut watch = store.watch("/").await.unwrap();
        watch.next().await.unwrap();
        // An error of the disk without a change.
        *store.inner.open.write() = None;
        let next = tokio::spawn(async move {
            let event = watch.next().await.unwrap();
            (event, watch)
        });
        // The watch may start anew before or after this write.
        write(&store, "/2").await.unwrap();
        let (event, mut watch) = next.await.unwrap();
        assert!(
            matches!(&event, WatchEvent::Change(change) if change.revision() == StoreRevision(2))
                || matches!(&event, WatchEvent::Snapshot { entries, .. } if entries.len() == 2),
            "{event:?}"
        );
        // A commit that became durable although its call failed.
        store
            .inner
            .run(|open| {
                tables::commit(&open.database, vec![put("/3", "", Precondition::Any)])?;
                Err::<(), _>(StoreError::Failed("the disk".into()))
            })
            .unwrap_err();
        let event = watch.next().await.unwrap();
        assert!(
            matches!(&event, WatchEvent::Snapshot { entries, .. } if entries.len() == 3),
            "{event:?}"
        );
    }
}
