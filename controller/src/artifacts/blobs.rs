//! The blob store: files on the controller's disk, each under the SHA-256 digest of its content.
//!
//! Which files there are is known from an index in memory, so that nobody asks the disk about thousands
//! of files. A file's content is compared with its digest when it is sent from its beginning to its end,
//! before a push relies on it, and from time to time. A damaged file is put aside and counts as missing,
//! so that it is fetched again.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flotilla_core::spec::Sha256Digest;
use futures::{Stream, StreamExt, TryStreamExt};
use sha2::Digest;
use tempfile::TempPath;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::blob_index::{self, BlobIndex};
use crate::durable_file;

/// Size of the chunks that a file is read in, in bytes.
const CHUNK: usize = 256 << 10;
/// Longest wait for the next chunk of a file that is being stored.
const SILENCE: Duration = Duration::from_secs(60);
/// Age of a check after which a push has a file checked again.
const PUSH_CHECK_AGE: Duration = Duration::from_secs(3_600);
/// Age of a check after which a file is checked in the background.
const SCRUB_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Age up to which an unused file is kept: the manifest that names an uploaded file is published after
/// it.
const GRACE: Duration = Duration::from_secs(3_600);

/// Extension of a damaged file that was put aside.
const DAMAGED: &str = "damaged";

/// Why a file was not stored. The message continues a sentence whose subject is the file.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The content does not have the expected digest.
    #[error("its SHA-256 is {actual}, not {expected}")]
    Digest {
        /// The digest that the caller named.
        expected: Sha256Digest,
        /// The digest of the content.
        actual: Sha256Digest,
    },
    /// There is no space left, or the quota is used up.
    #[error("the controller's disk is full")]
    DiskFull,
    /// The disk failed in another way.
    #[error("it cannot be written: {0}")]
    Io(io::Error),
    /// The content did not arrive completely.
    #[error("the transfer was interrupted: {0}")]
    Source(String),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io(error),
        }
    }
}

/// Why the content of a stored file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum BlobReadError {
    /// The content does not have the digest that the file is stored under.
    #[error("the controller's copy of the file is damaged; it is fetched again")]
    Damaged,
    /// The disk failed.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Files by the SHA-256 of their content. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
    index: Arc<BlobIndex>,
}

impl BlobStore {
    /// A store in `dir`, which is created with the first file. The files that are there already are
    /// known after the first [`BlobStore::rescan`].
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            index: Arc::default(),
        }
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
    /// `None` when it is not stored, or damaged.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn verified_size(&self, sha256: Sha256Digest) -> io::Result<Option<u64>> {
        self.verify(sha256, PUSH_CHECK_AGE).await
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
            let size = file.metadata()?.len();
            if store.index.is_verified(sha256, size, age) {
                return Ok(Some(size));
            }
            if digest_of(&mut file)? == sha256 {
                store.index.insert_verified(sha256, size);
                return Ok(Some(size));
            }
            store.put_aside(sha256)?;
            Ok(None)
        })
        .await
    }

    /// Puts a damaged file aside, so that it counts as missing. Blocks the thread.
    fn put_aside(&self, sha256: Sha256Digest) -> io::Result<()> {
        tracing::error!(
            %sha256,
            "a file of a model is damaged on this controller's disk: it is put aside and fetched again"
        );
        self.index.remove(sha256);
        let path = self.path(sha256);
        match std::fs::rename(&path, path.with_extension(DAMAGED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
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
        mut progress: impl FnMut(u64),
    ) -> Result<(Sha256Digest, u64), BlobError> {
        let (mut file, partial) = self.create_partial().await?;
        let mut hash = sha2::Sha256::new();
        let mut size = 0;
        let mut chunks = std::pin::pin!(chunks);
        loop {
            let chunk = tokio::time::timeout(SILENCE, chunks.next()).await;
            let chunk = chunk.map_err(|_| {
                BlobError::Source(format!("nothing arrived for {} s", SILENCE.as_secs()))
            })?;
            let Some(chunk) = chunk else {
                break;
            };
            let chunk = chunk.map_err(BlobError::Source)?;
            hash.update(&chunk);
            file.write_all(&chunk).await?;
            size += chunk.len() as u64;
            progress(size);
        }
        file.sync_all().await?;
        let actual = Sha256Digest(hash.finalize().into());
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(BlobError::Digest { expected, actual });
        }
        let path = self.path(actual);
        blocking(move || durable_file::persist(partial, &path)).await?;
        self.index.insert_verified(actual, size);
        Ok((actual, size))
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
        // Nobody resumes at the end of a file unless it was longer once.
        let resumes_at_end = offset > 0 && offset >= file.metadata().await?.len();
        if resumes_at_end && self.verify(sha256, Duration::ZERO).await?.is_none() {
            return Ok(None);
        }
        file.seek(io::SeekFrom::Start(offset)).await?;
        let hash = (offset == 0).then(sha2::Sha256::new);
        let store = self.clone();
        let chunks = async_stream::try_stream! {
            let mut chunks = std::pin::pin!(chunks(file));
            let mut hash = hash;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                if let Some(hash) = &mut hash {
                    hash.update(&chunk);
                }
                yield chunk;
            }
            let digest = hash.map(|hash| Sha256Digest(hash.finalize().into()));
            if digest.is_some_and(|digest| digest != sha256) {
                blocking(move || store.put_aside(sha256)).await?;
                Err(BlobReadError::Damaged)?;
            }
        };
        Ok(Some(chunks))
    }

    /// Removes the files that are `due` and older than an hour, and partial files of a controller that was
    /// killed.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn remove_unused(&self, mut due: impl FnMut(Sha256Digest) -> bool) -> io::Result<()> {
        let mut folders = match fs::read_dir(&self.dir).await {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(folder) = folders.next_entry().await? {
            if !folder.file_type().await?.is_dir() {
                continue;
            }
            let mut files = fs::read_dir(folder.path()).await?;
            while let Some(file) = files.next_entry().await? {
                let name = file.file_name();
                let digest: Option<Sha256Digest> = name.to_str().and_then(|name| name.parse().ok());
                let age = SystemTime::now().duration_since(file.metadata().await?.modified()?);
                let old = age.is_ok_and(|age| age > GRACE);
                if old && digest.is_none_or(&mut due) {
                    tracing::info!(file = ?name, "removing a file that no model needs");
                    if let Some(sha256) = digest {
                        self.index.remove(sha256);
                    }
                    fs::remove_file(file.path()).await?;
                }
            }
        }
        Ok(())
    }

    /// Creates a file that is removed when its path is dropped, unless it is persisted first. It is
    /// on the same file system as the blobs, so that persisting it is one atomic rename.
    async fn create_partial(&self) -> io::Result<(File, TempPath)> {
        let folder = self.dir.join("incoming");
        let (file, path) = blocking(move || {
            durable_file::create_dir_all(&folder)?;
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
async fn blocking<T: Send + 'static>(
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

/// The rest of a file, in chunks.
fn chunks(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::try_unfold(file, async |mut file| {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{TryStreamExt, stream};

    fn bytes(text: &'static str) -> impl Stream<Item = Result<Bytes, String>> {
        stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
    }

    #[tokio::test]
    async fn stored_files_are_read_from_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().join("blobs"));
        let (digest, size) = blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
        assert_eq!(size, 5);
        assert!(blobs.has(digest, 5) && !blobs.has(digest, 4));
        let read = blobs.read(digest, 2).await.unwrap().expect("it is there");
        let read: Vec<Bytes> = read.try_collect().await.unwrap();
        assert_eq!(read.concat(), b"llo");
        assert!(
            blobs
                .read(Sha256Digest([0; 32]), 0)
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn wrong_and_interrupted_uploads_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned());
        let wrong = blobs
            .put(Some(Sha256Digest([0; 32])), bytes("hello"), |_| {})
            .await;
        assert!(matches!(wrong, Err(BlobError::Digest { .. })));
        let interrupted = stream::iter([Ok(Bytes::from_static(b"he")), Err("cut".to_owned())]);
        let interrupted = blobs.put(None, interrupted, |_| {}).await;
        assert!(matches!(interrupted, Err(BlobError::Source(_))));
        let remaining = std::fs::read_dir(dir.path().join("incoming")).unwrap();
        assert_eq!(remaining.count(), 0);
    }

    #[tokio::test]
    async fn only_old_files_that_are_due_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned());
        let mut digests = Vec::new();
        for text in ["needed", "not needed", "new"] {
            let (digest, _) = blobs.put(None, bytes(text), |_| {}).await.unwrap();
            if text != "new" {
                let file = std::fs::File::open(blobs.path(digest)).unwrap();
                file.set_modified(SystemTime::now() - GRACE * 2).unwrap();
            }
            digests.push(digest);
        }
        blobs
            .remove_unused(|digest| digest != digests[0])
            .await
            .unwrap();
        let sizes = [6, 10, 3];
        let stored: Vec<bool> = digests
            .iter()
            .zip(sizes)
            .map(|(digest, size)| blobs.has(*digest, size))
            .collect();
        assert_eq!(stored, [true, false, true]);
    }

    #[tokio::test]
    async fn damaged_file_counts_as_missing_once_somebody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned());
        let (digest, _) = blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
        // Flipped bits: found at the end of a complete read.
        std::fs::write(blobs.path(digest), "hellO").unwrap();
        let read = blobs.read(digest, 0).await.unwrap().unwrap();
        let read: Result<Vec<_>, _> = read.try_collect().await;
        assert!(matches!(read, Err(BlobReadError::Damaged)));
        assert!(!blobs.has(digest, 5) && !blobs.path(digest).exists());
        // Truncated: found when a reader resumes where the file ends by now.
        blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
        std::fs::write(blobs.path(digest), "hel").unwrap();
        assert!(blobs.read(digest, 3).await.unwrap().is_none());
        assert!(!blobs.has(digest, 5));
        // Before a push relies on it.
        blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
        assert_eq!(blobs.verified_size(digest).await.unwrap(), Some(5));
        std::fs::write(blobs.path(digest), "hell").unwrap();
        assert_eq!(blobs.verified_size(digest).await.unwrap(), None);
        // In the background, after a restart.
        blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
        std::fs::write(blobs.path(digest), "hellO").unwrap();
        let restarted = BlobStore::new(dir.path().to_owned());
        restarted.rescan().await.unwrap();
        assert!(restarted.has(digest, 5));
        assert!(restarted.scrub_next().await.unwrap());
        assert!(!restarted.has(digest, 5));
        assert!(!restarted.scrub_next().await.unwrap());
    }
}
