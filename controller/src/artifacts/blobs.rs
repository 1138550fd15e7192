//! The blob store: files on the controller's disk, each under the SHA-256 digest of its content.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flotilla_core::spec::Sha256Digest;
use futures::{Stream, StreamExt};
use sha2::Digest;
use tempfile::TempPath;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Size of the chunks that a file is read in, in bytes.
const CHUNK: usize = 256 << 10;
/// Age up to which an unused file is kept: the manifest that names an uploaded file is published after
/// it.
const GRACE: Duration = Duration::from_secs(3_600);

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

/// Files by the SHA-256 of their content. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    /// A store in `dir`, which is created with the first file.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The path of a file, whether or not the file exists.
    #[must_use]
    pub fn path(&self, sha256: Sha256Digest) -> PathBuf {
        let name = sha256.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// The size of a file in bytes. `None` when it does not exist.
    pub async fn size(&self, sha256: Sha256Digest) -> Option<u64> {
        let metadata = fs::metadata(self.path(sha256)).await.ok()?;
        Some(metadata.len())
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
        while let Some(chunk) = chunks.next().await {
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
        // `path` is below `dir`, so it has a parent.
        fs::create_dir_all(path.parent().unwrap_or(&self.dir)).await?;
        blocking(move || partial.persist(path).map_err(|error| error.error)).await?;
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
        self.put(None, chunks(file), progress).await
    }

    /// Reads a file from the byte `offset` to its end. `None` when it does not exist.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn read(
        &self,
        sha256: Sha256Digest,
        offset: u64,
    ) -> io::Result<Option<impl Stream<Item = Result<Bytes, String>> + Send + use<>>> {
        let mut file = match File::open(self.path(sha256)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(Some(chunks(file)))
    }

    /// Removes the files that are not `needed` and older than an hour, among them partial files of a
    /// controller that was killed.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn remove_unused(&self, needed: impl Fn(Sha256Digest) -> bool) -> io::Result<()> {
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
                let digest = name.to_str().and_then(|name| name.parse().ok());
                let age = SystemTime::now().duration_since(file.metadata().await?.modified()?);
                let old = age.is_ok_and(|age| age > GRACE);
                if old && !digest.is_some_and(&needed) {
                    tracing::info!(file = ?name, "removing a file that no model needs");
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
            std::fs::create_dir_all(&folder)?;
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

/// The rest of a file, in chunks.
fn chunks(file: File) -> impl Stream<Item = Result<Bytes, String>> + Send {
    futures::stream::try_unfold(file, async |mut file| {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        let read = file.read_buf(&mut chunk).await.map_err(|e| e.to_string())?;
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
        assert_eq!((size, blobs.size(digest).await), (5, Some(5)));
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
    async fn only_old_files_that_are_not_needed_are_removed() {
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
            .remove_unused(|digest| digest == digests[0])
            .await
            .unwrap();
        let sizes = futures::future::join_all(digests.iter().map(|d| blobs.size(*d))).await;
        assert_eq!(sizes, [Some(6), None, Some(3)]);
    }
}
