//! The files of models on this node: fetched from controllers over the links, verified, shared between
//! models with equal files, and kept for a while after the last model that needed them.
//!
//! ```text
//! blobs/<sha256>              a complete, verified file
//! incoming/<sha256>           a partial file, at whose end fetching resumes
//! models/<digest>/<path>      the folder of a model: hard links to blobs; exists only when complete
//! unneeded.json               for how long files have not been needed
//! ```

mod artifact_error;
mod blob_locks;
mod blob_reader;
mod blob_sources;
mod disk_budget;
mod fetch;
mod file_collector;
mod model_folder;
mod partial_file;
mod rate_limiter;
mod scrub;
mod verification;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::Sha256Digest;
use flotilla_durable::{is_below, space_at};
use flotilla_engine::{FileReading, LoadError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use artifact_error::ArtifactError;
use blob_locks::BlobLocks;
pub(crate) use blob_reader::BlobReader;
pub(crate) use blob_sources::BlobSources;
#[cfg(test)]
pub(crate) use blob_sources::NoSources;
use disk_budget::{Reservation, ReservedSpace};
pub(crate) use file_collector::DiskUsage;
use file_collector::FileCollector;
use partial_file::blocking;
use rate_limiter::RateLimiter;

/// How often files are looked through for what can be deleted.
const COLLECT_INTERVAL: Duration = Duration::from_secs(60);
/// Free space of the file system below which unneeded files are deleted early, in bytes.
const MIN_FREE: u64 = 256 << 20;
/// How often a model's files are fetched before it is an error that some are missing again.
const MAX_ROUNDS: u32 = 3;

/// The settings of the store of model files.
pub(crate) struct ArtifactSettings {
    /// The directory of all files.
    pub(crate) dir: PathBuf,
    /// See [`AgentConfig::fetch_rate`](crate::AgentConfig::fetch_rate).
    pub(crate) fetch_rate: Option<Bytes>,
    /// See [`AgentConfig::disk`](crate::AgentConfig::disk).
    pub(crate) disk: Option<Bytes>,
    /// See [`AgentConfig::disk_agents`](crate::AgentConfig::disk_agents).
    pub(crate) disk_agents: u32,
    /// See [`AgentConfig::file_retention`](crate::AgentConfig::file_retention).
    pub(crate) retention: Duration,
    /// See [`AgentConfig::model_roots`](crate::AgentConfig::model_roots).
    pub(crate) model_roots: Vec<PathBuf>,
}

/// The store of model files on this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ArtifactStore {
    inner: Arc<StoreState>,
}

struct StoreState {
    dir: PathBuf,
    model_roots: Vec<PathBuf>,
    sources: Arc<dyn BlobSources>,
    rate_limiter: Option<RateLimiter>,
    locks: BlobLocks,
    collector: FileCollector,
    /// The space for all files.
    budget: Mutex<Bytes>,
    /// The number of agents that share the disk, if the budget follows from what is free on it. `None`: it
    /// is configured.
    sharing_agents: Option<u32>,
    reserved: ReservedSpace,
    /// Bounds the lookups of models.
    lookups: FileReading,
    /// Held while space is looked for and reserved.
    making_room: tokio::sync::Mutex<()>,
    usage: Mutex<DiskUsage>,
    /// The files of the models that the node should run or still runs. `None` until they are set: nothing counts as not
    /// needed before.
    needed: watch::Sender<Option<Vec<Manifest>>>,
    /// The digests of the models whose files were verified since the start.
    verified: Mutex<HashSet<Sha256Digest>>,
    /// Notified when the files of a model were verified.
    newly_verified: watch::Sender<()>,
    /// The files that were read and found right, since the start or the last period of the scrub.
    read: Mutex<HashSet<Sha256Digest>>,
    /// Damaged files that could not be deleted. They count as not there.
    undeletable: Mutex<HashSet<Sha256Digest>>,
    /// Notified when a verified model has turned out to be damaged.
    damaged: watch::Sender<()>,
}

impl ArtifactStore {
    /// Whether a model's spec may name this path of the node.
    pub(crate) async fn is_allowed(&self, path: &Path) -> bool {
        let (path, store) = (path.to_owned(), self.inner.clone());
        let below = tokio::task::spawn_blocking(move || is_below(&path, &store.model_roots));
        matches!(below.await, Ok(Ok(true)))
    }

    /// Creates a store that fetches from `sources`.
    pub(crate) fn new(settings: ArtifactSettings, sources: Arc<dyn BlobSources>) -> Self {
        let ArtifactSettings {
            dir,
            fetch_rate,
            disk,
            disk_agents,
            retention,
            model_roots,
        } = settings;
        let collector = FileCollector::new(&dir, retention);
        let usage = collector.usage(&[]).unwrap_or_default();
        // Without a figure the disk itself is the only bound.
        let budget = disk.unwrap_or(Bytes(u64::MAX));
        let inner = StoreState {
            dir,
            model_roots,
            sources,
            rate_limiter: fetch_rate.map(RateLimiter::new),
            locks: BlobLocks::default(),
            collector,
            budget: Mutex::new(budget),
            sharing_agents: disk.is_none().then_some(disk_agents),
            reserved: ReservedSpace::default(),
            lookups: FileReading::default(),
            making_room: tokio::sync::Mutex::default(),
            usage: Mutex::new(usage),
            needed: watch::Sender::new(None),
            verified: Mutex::default(),
            newly_verified: watch::Sender::new(()),
            read: Mutex::default(),
            undeletable: Mutex::default(),
            damaged: watch::Sender::new(()),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        store.adjust_budget();
        store
    }

    /// Follows the space that is free on the disk, unless the budget is configured. Warns when there is none.
    /// Blocks.
    fn adjust_budget(&self) {
        let inner = &self.inner;
        let (Some(agents), Some(space)) = (inner.sharing_agents, space_at(&inner.dir)) else {
            return;
        };
        let computed = disk_budget::default_budget(space, self.usage().used, agents);
        let mut budget = inner.budget.lock();
        let adjusted = disk_budget::adjusted_budget(*budget, computed);
        if adjusted.0 == 0 && budget.0 > 0 {
            tracing::warn!(
                "there is no disk space for files of models in {}: free some, or set the space with --disk",
                inner.dir.display()
            );
        }
        *budget = adjusted;
    }

    /// The space for all files. `None`: not known.
    pub(crate) fn budget(&self) -> Option<Bytes> {
        Some(*self.inner.budget.lock()).filter(|budget| budget.0 < u64::MAX)
    }

    /// The space that the files take.
    pub(crate) fn usage(&self) -> DiskUsage {
        *self.inner.usage.lock()
    }

    /// Notifies when the files of a model that was loaded have turned out to be damaged. Its files are
    /// no longer [found](Self::find).
    pub(crate) fn damages(&self) -> watch::Receiver<()> {
        self.inner.damaged.subscribe()
    }

    /// Sets the files that are kept: those of the models that the node should run or still runs.
    pub(crate) fn set_needed(&self, needed: Vec<Manifest>) {
        let needed = Some(needed);
        self.inner.needed.send_if_modified(|current| {
            let has_changed = *current != needed;
            *current = needed;
            has_changed
        });
    }

    /// Deletes files that were not needed for long, and finds damaged ones, until `stop` is cancelled.
    pub(crate) async fn maintain(self, stop: CancellationToken) {
        let scrub = scrub::run(self.clone(), stop.clone());
        let collect = async {
            let mut needed = self.inner.needed.subscribe();
            loop {
                needed.borrow_and_update();
                self.collect(0).await;
                // The store has the sender, so that this ends with a change or the time.
                let _ = tokio::time::timeout(COLLECT_INTERVAL, needed.changed()).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = collect => {}
            () = scrub => {}
        }
    }

    /// Returns whether all files of a model were verified since the start, and none has turned out to be
    /// damaged since.
    pub(crate) fn is_verified(&self, manifest: &Manifest) -> bool {
        self.inner.verified.lock().contains(&manifest.digest())
    }

    /// Returns the path to load a model from: its GGUF file if it has one, else its folder. `None`
    /// unless all files are on the node and were verified since the start. The files may lie on a drive that
    /// hangs.
    ///
    /// # Errors
    /// [`LoadError::SlowFiles`] if the folder does not answer in time.
    pub(crate) async fn find(&self, manifest: &Manifest) -> Result<Option<PathBuf>, LoadError> {
        let (store, wanted) = (self.clone(), manifest.clone());
        let folder = self.model_dir(manifest);
        let find = move || Ok(store.find_blocking(&wanted));
        self.inner.lookups.run(&folder, find).await
    }

    fn find_blocking(&self, manifest: &Manifest) -> Option<PathBuf> {
        let folder = self.model_dir(manifest);
        if !self.is_verified(manifest) || !folder.is_dir() {
            return None;
        }
        let gguf = manifest.gguf_file();
        Some(gguf.map_or_else(|| folder.clone(), |file| folder.join(&file.path)))
    }

    /// Verifies the files of a model, fetches the missing ones and creates its folder. `progress` receives
    /// the part that is there, 0 to 1.
    pub(crate) async fn fetch(
        &self,
        manifest: &Manifest,
        progress: impl Fn(f32),
    ) -> Result<(), ArtifactError> {
        let total = manifest.size().0.max(1) as f64;
        progress(0.0);
        for _ in 0..MAX_ROUNDS {
            let missing = self.missing(manifest).await?;
            let missing_bytes: u64 = missing.iter().map(|file| file.size.0).sum();
            let mut complete = manifest.size().0.saturating_sub(missing_bytes);
            let room = self.make_room(&missing).await?;
            for file in &missing {
                let file_progress = |bytes: u64| {
                    progress(((complete + bytes) as f64 / total) as f32);
                    room.shrink_to(manifest.size().0.saturating_sub(complete + bytes));
                };
                fetch::fetch_file(self, file, file_progress).await?;
                complete += file.size.0;
            }
            let (store, created) = (self.clone(), manifest.clone());
            match blocking(move || model_folder::create(&store, &created)).await {
                Ok(()) => {
                    self.inner.verified.lock().insert(manifest.digest());
                    self.inner.newly_verified.send_replace(());
                    self.collect(0).await;
                    return Ok(());
                }
                // A file was deleted meanwhile, since it was not needed before: it is fetched again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(folder_error(&error)),
            }
        }
        Err(folder_error(&io::ErrorKind::NotFound.into()))
    }

    /// Returns the files of a model that have to be fetched, each once. Files that were written since they
    /// were verified are read, and deleted if they are damaged.
    async fn missing(&self, manifest: &Manifest) -> Result<Vec<ArtifactFile>, ArtifactError> {
        let (store, files) = (self.clone(), manifest.files.clone());
        let missing = blocking(move || {
            let mut missing = BTreeMap::new();
            for file in files {
                if !store.has_blob(&file)? {
                    missing.insert(file.sha256.0, file);
                }
            }
            Ok(missing.into_values().collect())
        });
        missing.await.map_err(|error| folder_error(&error))
    }

    /// Reserves space for these files, for which unneeded ones may have to be deleted.
    async fn make_room(&self, missing: &[ArtifactFile]) -> Result<Reservation, ArtifactError> {
        let needed = self.missing_bytes(missing).await?;
        let _one_at_a_time = self.inner.making_room.lock().await;
        if needed > 0 {
            // What other fetches have written since counts as used and is no longer reserved.
            self.collect(0).await;
        }
        let mut available = self.available().await?;
        if needed > available {
            self.collect(needed - available).await;
            available = self.available().await?;
        }
        if needed > available {
            return Err(ArtifactError::NoRoom {
                needed: Bytes(needed),
                free: Bytes(available),
                budget: *self.inner.budget.lock(),
            });
        }
        Ok(self.inner.reserved.reserve(needed))
    }

    /// The bytes that are still to be fetched of these files.
    async fn missing_bytes(&self, missing: &[ArtifactFile]) -> Result<u64, ArtifactError> {
        let partial = |file: &ArtifactFile| (self.partial_path(file.sha256), file.size.0);
        let partial: Vec<_> = missing.iter().map(partial).collect();
        let bytes = blocking(move || {
            let missing = partial.iter().map(|(path, size)| {
                let present = fs::metadata(path).map_or(0, |metadata| metadata.len());
                size.saturating_sub(present)
            });
            Ok(missing.sum())
        });
        bytes.await.map_err(|error| folder_error(&error))
    }

    /// The bytes that may be written now.
    async fn available(&self) -> Result<u64, ArtifactError> {
        let dir = self.inner.dir.clone();
        let space = blocking(move || Ok(space_at(&dir))).await;
        let space = space.map_err(|error| folder_error(&error))?;
        let used = self.usage().used;
        let reserved = self.inner.reserved.bytes();
        Ok(disk_budget::available(
            *self.inner.budget.lock(),
            used,
            reserved,
            space,
        ))
    }

    /// Deletes files that were not needed for long, and others that are not needed until
    /// `needed_bytes` are freed, if that is possible, or as many as are above the budget or as the disk
    /// lacks.
    async fn collect(&self, needed_bytes: u64) {
        let store = self.clone();
        let collected = blocking(move || {
            let inner = &store.inner;
            store.adjust_budget();
            let Some(needed) = inner.needed.borrow().clone() else {
                return Ok(());
            };
            let above_budget = store.usage().used.saturating_sub(inner.budget.lock().0);
            let free = space_at(&inner.dir).map_or(u64::MAX, |space| space.free);
            let excess_bytes = above_budget.max(MIN_FREE.saturating_sub(free));
            let collector = &inner.collector;
            let (usage, folders) = collector.collect(&needed, needed_bytes, excess_bytes)?;
            *inner.usage.lock() = usage;
            store.adjust_budget();
            let mut verified = inner.verified.lock();
            verified.retain(|digest| !folders.contains(&digest.to_string()));
            Ok(())
        });
        if let Err(error) = collected.await {
            tracing::warn!(%error, "unneeded files of models could not be deleted");
        }
    }

    /// Returns whether a file is on the node with its content. A damaged one is deleted. Blocks.
    fn has_blob(&self, file: &ArtifactFile) -> io::Result<bool> {
        if self.inner.undeletable.lock().contains(&file.sha256) {
            return Ok(false);
        }
        let path = self.blob_path(file.sha256);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if verification::is_marked(&metadata, file) {
            return Ok(true);
        }
        if verification::has_content(&path, file)? {
            verification::mark(&path, file.sha256)?;
            self.set_read(file.sha256);
            return Ok(true);
        }
        tracing::error!(
            file = file.path,
            sha256 = %file.sha256,
            "a file of a model is damaged: it is deleted and fetched again; check the disk"
        );
        fs::remove_file(&path)?;
        Ok(false)
    }

    /// Deletes a file that the scrub found damaged, so that the models with it are fetched and loaded
    /// again.
    async fn drop_damaged(&self, file: &ArtifactFile) {
        tracing::error!(
            file = file.path,
            sha256 = %file.sha256,
            "the disk has damaged a file of a model: its models are unloaded, and it is fetched again; check the disk"
        );
        if let Err(error) = tokio::fs::remove_file(self.blob_path(file.sha256)).await {
            tracing::error!(%error, "the damaged file could not be deleted");
            self.inner.undeletable.lock().insert(file.sha256);
        }
        let affected = |manifest: &&Manifest| {
            let mut files = manifest.files.iter();
            files.any(|other| other.sha256 == file.sha256)
        };
        let mut verified = self.inner.verified.lock();
        let needed = self.inner.needed.borrow();
        for manifest in needed.iter().flatten().filter(affected) {
            verified.remove(&manifest.digest());
        }
        drop((verified, needed));
        self.inner.damaged.send_replace(());
    }

    /// Notifies when the files of a model were verified.
    fn verified_models(&self) -> watch::Receiver<()> {
        self.inner.newly_verified.subscribe()
    }

    /// The files of verified models that were not read lately, each once.
    async fn unread_files(&self) -> Vec<ArtifactFile> {
        let store = self.clone();
        let listed = blocking(move || {
            let needed = store.inner.needed.borrow().clone().unwrap_or_default();
            let mut unread = BTreeMap::new();
            for manifest in needed {
                // The digest of a manifest takes long, so that no lock is held meanwhile.
                let digest = manifest.digest();
                if store.inner.verified.lock().contains(&digest) {
                    let files = manifest.files.into_iter();
                    unread.extend(files.map(|file| (file.sha256.0, file)));
                }
            }
            let read = store.inner.read.lock();
            unread.retain(|_, file| !read.contains(&file.sha256));
            Ok(unread.into_values().collect())
        });
        listed.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the files of models could not be listed");
            Vec::new()
        })
    }

    /// Notes that a file was read and is right.
    fn set_read(&self, digest: Sha256Digest) {
        self.inner.undeletable.lock().remove(&digest);
        self.inner.read.lock().insert(digest);
    }

    /// Makes all files be read again.
    fn forget_read(&self) {
        self.inner.read.lock().clear();
    }

    fn locks(&self) -> &BlobLocks {
        &self.inner.locks
    }

    fn sources(&self) -> &dyn BlobSources {
        self.inner.sources.as_ref()
    }

    fn rate_limiter(&self) -> Option<&RateLimiter> {
        self.inner.rate_limiter.as_ref()
    }

    fn model_dir(&self, manifest: &Manifest) -> PathBuf {
        let models = self.inner.dir.join("models");
        models.join(manifest.digest().to_string())
    }

    fn blob_path(&self, sha256: Sha256Digest) -> PathBuf {
        self.inner.dir.join("blobs").join(sha256.to_string())
    }

    fn partial_path(&self, sha256: Sha256Digest) -> PathBuf {
        self.inner.dir.join("incoming").join(sha256.to_string())
    }
}

/// Converts an error that concerns no single file.
fn folder_error(error: &io::Error) -> ArtifactError {
    ArtifactError::Io("models".into(), error.to_string())
}

#[cfg(test)]
mod tests;
