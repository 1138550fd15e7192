//! The blob store: files on the controller's disk, each under the SHA-256 digest of its content.
//!
//! Which files there are is known from an index in memory, so that nobody asks the disk about thousands
//! of files. A file's content is compared with its digest when it is sent from its beginning to its end,
//! before a push relies on it, and from time to time. A damaged file is put aside and counts as missing,
//! so that it is fetched again.

use std::collections::HashSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use flotilla_core::disk::DiskSpace;
use flotilla_core::spec::Sha256Digest;
use futures::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use sha2::Digest;
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;

use super::blob_error::{BlobError, BlobReadError};
use super::blob_index::{self, BlobIndex};
use super::file_collector::FileCollector;
use super::transfer_pace::{MIN_PROGRESS, SILENCE, TransferPace};

/// Size of the chunks that a file is read in, in bytes.
const CHUNK: usize = 256 << 10;
/// After so many bytes it is checked whether the disk still has space.
const SPACE_CHECK: u64 = 64 << 20;
/// Age of a check after which a push has a file checked again.
const PUSH_CHECK_AGE: Duration = Duration::from_secs(3_600);
/// Age of a check after which a file is checked in the background.
const SCRUB_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Age up to which an unused file is kept: the manifest that names an uploaded file is published after
/// it.
const GRACE: Duration = Duration::from_secs(3_600);

/// Extension of a damaged file that was put aside.
const DAMAGED: &str = "damaged";

/// Files by the SHA-256 of their content. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
    index: Arc<BlobIndex>,
    /// Held while a file appears under its path or leaves it, so that nobody removes another file than
    /// the one that was looked at.
    changing: Arc<Mutex<()>>,
    pub(super) collector: Arc<FileCollector>,
}

/// Identifies a file on the disk while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl From<&std::fs::Metadata> for FileIdentity {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl BlobStore {
    /// A store in `dir`, which is created with the first file. The files that are there already are
    /// known after the first [`BlobStore::rescan`].
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            index: Arc::default(),
            changing: Arc::default(),
            collector: Arc::default(),
        }
    }

    /// The folder of the store.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks which files there are: somebody may have removed or changed some.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn rescan(&self) -> io::Result<()> {
        let store = self.clone();
        blocking(move || {
            let scan = blob_index::scan(&store.dir)?;
            let size_now = |sha256| Some(std::fs::metadata(store.path(sha256)).ok()?.len());
            store.index.apply_scan(scan, size_now);
            Ok(())
        })
        .await
    }

    /// Returns a number that differs whenever files were added or removed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.index.generation()
    }

    /// The path of a file, whether or not the file exists.
    #[must_use]
    pub fn path(&self, sha256: Sha256Digest) -> PathBuf {
        let name = sha256.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Returns whether a file of this size is stored, without asking the disk.
    #[must_use]
    pub fn has(&self, sha256: Sha256Digest, size: u64) -> bool {
        self.index.size(sha256) == Some(size)
    }

    /// Returns the size in bytes of a file whose content was compared with its digest, lately or now.
    /// `None` when it is not stored, or damaged. It is kept for as long as one that is stored now: the
    /// manifest that names it is published later.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn verified_size(&self, sha256: Sha256Digest) -> io::Result<Option<u64>> {
        let store = self.clone();
        let kept = blocking(move || store.postpone_removal(sha256)).await?;
        if !kept {
            self.index.remove(sha256);
            return Ok(None);
        }
        self.verify(sha256, PUSH_CHECK_AGE).await
    }

    /// Makes a file count as new for the removal of unused files. Returns whether there is one. Blocks the
    /// thread.
    fn postpone_removal(&self, sha256: Sha256Digest) -> io::Result<bool> {
        let _changing = self.changing.lock();
        match std::fs::File::open(self.path(sha256)) {
            Ok(file) => file.set_modified(SystemTime::now()).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares the content of one file with its digest, if there is one that was not checked for a
    /// week. Returns whether there was.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn scrub_next(&self) -> io::Result<bool> {
        let Some(sha256) = self.index.next_unverified(SCRUB_AGE) else {
            return Ok(false);
        };
        self.verify(sha256, SCRUB_AGE).await?;
        Ok(true)
    }

    /// Compares a file's content with its digest, unless that was done within `age`. Returns its size;
    /// `None` when it is not stored, or damaged.
    async fn verify(&self, sha256: Sha256Digest, age: Duration) -> io::Result<Option<u64>> {
        let store = self.clone();
        blocking(move || {
            let mut file = match std::fs::File::open(store.path(sha256)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    store.index.remove(sha256);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let metadata = file.metadata()?;
            let size = metadata.len();
            if store.index.is_verified(sha256, size, age) {
                return Ok(Some(size));
            }
            if digest_of(&mut file)? == sha256 {
                store.index.insert_verified(sha256, size);
                return Ok(Some(size));
            }
            // The file is open until here, so that no other one has its identity.
            store.put_aside(sha256, FileIdentity::from(&metadata))?;
            Ok(None)
        })
        .await
    }

    /// Puts a damaged file aside, so that it counts as missing, unless another file has taken its place
    /// meanwhile. Blocks the thread.
    fn put_aside(&self, sha256: Sha256Digest, damaged: FileIdentity) -> io::Result<()> {
        let path = self.path(sha256);
        let _changing = self.changing.lock();
        match std::fs::metadata(&path) {
            Ok(current) if FileIdentity::from(&current) != damaged => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index.remove(sha256);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        tracing::error!(
            %sha256,
            "a file of a model is damaged on this controller's disk: it is put aside and fetched again"
        );
        self.index.remove(sha256);
        std::fs::rename(&path, path.with_extension(DAMAGED))
    }

    /// Stores the content of `chunks` and returns its digest and size in bytes. The file appears under its
    /// path only when it is complete and has the `expected` digest, if there is one. `progress` is
    /// called with the number of bytes so far.
    ///
    /// # Errors
    /// [`BlobError`]; nothing is left on the disk then.
    pub async fn put(
        &self,
        expected: Option<Sha256Digest>,
        chunks: impl Stream<Item = Result<Bytes, String>>,
        progress: impl FnMut(u64),
    ) -> Result<(Sha256Digest, u64), BlobError> {
        self.put_at_most(u64::MAX, expected, chunks, progress).await
    }

    /// Like [`put`](Self::put), for content of at most `max` bytes.
    ///
    /// # Errors
    /// [`BlobError`]; nothing is left on the disk then.
    pub async fn put_at_most(
        &self,
        max: u64,
        expected: Option<Sha256Digest>,
        chunks: impl Stream<Item = Result<Bytes, String>>,
        mut progress: impl FnMut(u64),
    ) -> Result<(Sha256Digest, u64), BlobError> {
        let (mut file, partial) = self.create_partial().await?;
        let mut hash = sha2::Sha256::new();
        let mut size = 0;
        let mut chunks = std::pin::pin!(chunks);
        let mut pace = TransferPace::new(Instant::now());
        let mut next_check = 0;
        loop {
            if size >= next_check {
                self.check_space().await?;
                next_check = size + SPACE_CHECK;
            }
            let chunk = tokio::time::timeout_at(pace.deadline, chunks.next()).await;
            let chunk = chunk.map_err(|_| {
                BlobError::Source(format!(
                    "less than {} arrived within {} s",
                    flotilla_core::Bytes(MIN_PROGRESS),
                    SILENCE.as_secs()
                ))
            })?;
            let Some(chunk) = chunk else {
                break;
            };
            let chunk = chunk.map_err(BlobError::Source)?;
            size += chunk.len() as u64;
            if size > max {
                return Err(BlobError::TooLarge(flotilla_core::Bytes(max)));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await?;
            pace.advance(size, Instant::now());
            progress(size);
        }
        file.sync_all().await?;
        let actual = Sha256Digest(hash.finalize().into());
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(BlobError::Digest { expected, actual });
        }
        let store = self.clone();
        blocking(move || {
            let _changing = store.changing.lock();
            flotilla_durable::persist(partial, &store.path(actual))?;
            store.index.insert_verified(actual, size);
            Ok(())
        })
        .await?;
        Ok((actual, size))
    }

    /// Returns the space of the disk. `None`: not known.
    async fn space(&self) -> Option<DiskSpace> {
        let dir = self.dir.clone();
        let space = blocking(move || Ok(flotilla_durable::space_at(&dir))).await;
        space.ok().flatten()
    }

    /// Makes room for `needed` bytes beside the reserve, so that nothing is removed and written in vain.
    ///
    /// # Errors
    /// [`BlobError::DiskFull`] if there is none to be made.
    pub async fn ensure_room(&self, needed: u64) -> Result<(), BlobError> {
        match self.make_room(needed).await {
            Some(room) if room < needed => Err(BlobError::DiskFull),
            _ => Ok(()),
        }
    }

    /// Returns the sizes of the stored files, in bytes.
    pub(super) fn sizes(&self) -> HashSet<u64> {
        self.index.sizes()
    }

    /// Removes files that no model needs until this many bytes may be written beside the reserve, or none
    /// if there are too few of them. Returns the bytes that may be written now. `None`: not known.
    async fn make_room(&self, needed: u64) -> Option<u64> {
        let missing = self.space().await?.missing(needed);
        if missing > 0
            && let Err(error) = self.collect(missing).await
        {
            tracing::warn!(%error, "files that no model needs cannot be removed");
        }
        self.space().await.map(DiskSpace::usable)
    }

    /// Makes some room if only the reserve is left: the store and others need the disk as well.
    ///
    /// # Errors
    /// [`BlobError::DiskFull`] if there is none to be made.
    async fn check_space(&self) -> Result<(), BlobError> {
        if self.space().await.is_none_or(|space| space.usable() > 0) {
            return Ok(());
        }
        match self.make_room(SPACE_CHECK).await {
            Some(0) => Err(BlobError::DiskFull),
            _ => Ok(()),
        }
    }

    /// Stores a copy of a file of this machine.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn put_file(
        &self,
        path: &Path,
        progress: impl FnMut(u64),
    ) -> Result<(Sha256Digest, u64), BlobError> {
        let file = File::open(path).await.map_err(|error| {
            BlobError::Source(format!("{} cannot be read: {error}", path.display()))
        })?;
        let chunks = chunks(file).map_err(|error| error.to_string());
        self.put(None, chunks, progress).await
    }

    /// Reads a file from the byte `offset` to its end. `None` when it does not exist, or is damaged so
    /// that it has no such byte. The stream ends with an error if a file that was read from its
    /// beginning turns out to be damaged.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn read(
        &self,
        sha256: Sha256Digest,
        offset: u64,
    ) -> io::Result<Option<impl Stream<Item = Result<Bytes, BlobReadError>> + Send + use<>>> {
        let mut file = match File::open(self.path(sha256)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index.remove(sha256);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata().await?;
        let identity = FileIdentity::from(&metadata);
        // Nobody resumes at the end of a file unless it was longer once.
        let resumes_at_end = offset > 0 && offset >= metadata.len();
        if resumes_at_end && self.verify(sha256, Duration::ZERO).await?.is_none() {
            return Ok(None);
        }
        file.seek(io::SeekFrom::Start(offset)).await?;
        let hash = (offset == 0).then(sha2::Sha256::new);
        let store = self.clone();
        let chunks = async_stream::try_stream! {
            let mut hash = hash;
            while let Some(chunk) = next_chunk(&mut file).await? {
                if let Some(hash) = &mut hash {
                    hash.update(&chunk);
                }
                yield chunk;
            }
            let digest = hash.map(|hash| Sha256Digest(hash.finalize().into()));
            if digest.is_some_and(|digest| digest != sha256) {
                blocking(move || store.put_aside(sha256, identity)).await?;
                // It is open until here, so that no other file has its identity.
                drop(file);
                Err(BlobReadError::Damaged)?;
            }
        };
        Ok(Some(chunks))
    }

    /// Removes a file that no model needs, unless a new one has taken its place. Blocks the thread.
    pub(super) fn remove_old(&self, path: &Path, digest: Option<Sha256Digest>) -> io::Result<()> {
        let _changing = self.changing.lock();
        match std::fs::metadata(path) {
            Ok(current) if !is_old(&current)? => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        tracing::info!(file = %path.display(), "removing a file that no model needs");
        if let Some(sha256) = digest {
            self.index.remove(sha256);
        }
        std::fs::remove_file(path)
    }

    /// Creates a file that is removed when its path is dropped, unless it is persisted first. It is
    /// on the same file system as the blobs, so that persisting it is one atomic rename.
    async fn create_partial(&self) -> io::Result<(File, TempPath)> {
        let folder = self.dir.join("incoming");
        let (file, path) = blocking(move || {
            flotilla_durable::create_dir_all(&folder)?;
            // By default, only the owner can read the files that tempfile creates.
            let mode = Permissions::from_mode(0o666);
            let partial = tempfile::Builder::new()
                .permissions(mode)
                .tempfile_in(folder)?;
            Ok(partial.into_parts())
        })
        .await?;
        Ok((File::from_std(file), path))
    }
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

/// The digest of a file's content. Blocks the thread.
fn digest_of(file: &mut std::fs::File) -> io::Result<Sha256Digest> {
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = io::Read::read(file, &mut chunk)?;
        if read == 0 {
            return Ok(Sha256Digest(hash.finalize().into()));
        }
        hash.update(&chunk[..read]);
    }
}

/// Returns whether a file is old enough to be removed when nothing needs it.
pub(super) fn is_old(metadata: &std::fs::Metadata) -> io::Result<bool> {
    let age = SystemTime::now().duration_since(metadata.modified()?);
    Ok(age.is_ok_and(|age| age > GRACE))
}

/// The next chunk of a file. `None` at its end.
async fn next_chunk(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    let read = file.read_buf(&mut chunk).await?;
    Ok((read > 0).then(|| chunk.freeze()))
}

/// The rest of a file, in chunks.
fn chunks(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::try_unfold(file, async |mut file| {
        let chunk = next_chunk(&mut file).await?;
        Ok(chunk.map(|chunk| (chunk, file)))
    })
}

#[cfg(test)]
mod tests;
