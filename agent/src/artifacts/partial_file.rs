//! A file that is being fetched.
//!
//! Every access runs on a thread for blocking work and takes the file with its lock along. A fetch that is
//! aborted in the middle of a write therefore keeps the lock until the write has ended, and no later fetch
//! can write at the same time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flotilla_core::artifact::ArtifactFile;
use flotilla_durable::is_full;

use super::blob_locks::BlobLock;
use super::verification;

/// The part of a file that has been fetched.
pub(super) struct PartialFile {
    path: PathBuf,
    file: File,
    size: u64,
    _lock: BlobLock,
}

impl PartialFile {
    /// Opens or creates the file. A file longer than `max_size` bytes cannot be a part of the file to
    /// fetch: it is emptied.
    pub(super) async fn open(path: PathBuf, max_size: u64, lock: BlobLock) -> io::Result<Self> {
        blocking(move || {
            let file = File::options().append(true).create(true).open(&path)?;
            let mut size = file.metadata()?.len();
            if size > max_size {
                file.set_len(0)?;
                size = 0;
            }
            Ok(Self {
                path,
                file,
                size,
                _lock: lock,
            })
        })
        .await
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a chunk. If the disk is full, the part is deleted.
    pub(super) async fn append(
        mut self,
        chunk: impl AsRef<[u8]> + Send + 'static,
    ) -> io::Result<Self> {
        blocking(move || {
            let chunk = chunk.as_ref();
            let written = self.file.write_all(chunk);
            written.inspect_err(|error| self.delete_if_full(error))?;
            self.size += chunk.len() as u64;
            Ok(self)
        })
        .await
    }

    /// Writes the complete file to the disk, reads it back, and moves it to `blob` if it is `expected`.
    /// Otherwise it is deleted. Returns whether it was.
    pub(super) async fn finish(self, expected: &ArtifactFile, blob: PathBuf) -> io::Result<bool> {
        let expected = expected.clone();
        blocking(move || {
            let synced = self.file.sync_all();
            synced.inspect_err(|error| self.delete_if_full(error))?;
            if !verification::has_content(&self.path, &expected)? {
                fs::remove_file(&self.path)?;
                return Ok(false);
            }
            verification::mark(&self.path, expected.sha256)?;
            fs::rename(&self.path, &blob)?;
            flotilla_durable::sync_dir(blob.parent().unwrap_or(Path::new("/")))?;
            Ok(true)
        })
        .await
    }

    /// Deletes the part, while no other task can have opened it, if the disk is full: other programs need
    /// the space more than a later fetch needs the part.
    fn delete_if_full(&self, error: &io::Error) {
        if is_full(error) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Runs `work` on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::super::blob_locks::BlobLocks;
    use super::*;
    use flotilla_core::Bytes;
    use flotilla_core::spec::Sha256Digest;
    use sha2::{Digest, Sha256};

    fn hello() -> ArtifactFile {
        ArtifactFile {
            path: "w".into(),
            size: Bytes(5),
            sha256: Sha256Digest(Sha256::digest(b"hello").into()),
        }
    }

    #[tokio::test]
    async fn a_partial_file_is_resumed_and_counts_once_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (path, blob) = (dir.path().join("x"), dir.path().join("blob"));
        let locks = BlobLocks::default();
        let open = async |max_size| {
            let lock = locks.lock(hello().sha256).await;
            PartialFile::open(path.clone(), max_size, lock)
                .await
                .unwrap()
        };
        let partial = open(5).await.append(b"he".to_vec()).await.unwrap();
        // As a crash leaves it.
        drop(partial);
        let partial = open(5).await;
        assert_eq!(partial.size(), 2);
        let partial = partial.append(b"llo".to_vec()).await.unwrap();
        assert!(partial.finish(&hello(), blob.clone()).await.unwrap());
        assert_eq!(fs::read(&blob).unwrap(), b"hello");
        let partial = open(5).await.append(b"hallo".to_vec()).await.unwrap();
        assert!(!partial.finish(&hello(), blob).await.unwrap());
        assert!(!path.exists(), "a wrong file is deleted");
        fs::write(&path, "hello").unwrap();
        assert_eq!(open(4).await.size(), 0);
    }

    #[tokio::test]
    async fn a_part_that_does_not_fit_on_the_disk_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let lock = BlobLocks::default().lock(hello().sha256).await;
        let partial = PartialFile::open(path.clone(), 5, lock).await.unwrap();
        let error = partial.append(b"hello".to_vec()).await.err().unwrap();
        assert!(is_full(&error), "{error}");
        assert!(path.symlink_metadata().is_err());
    }

    #[tokio::test]
    async fn what_is_on_the_disk_counts_and_not_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let locks = BlobLocks::default();
        let lock = locks.lock(hello().sha256).await;
        let partial = PartialFile::open(path.clone(), 5, lock).await.unwrap();
        let partial = partial.append(b"hello".to_vec()).await.unwrap();
        fs::write(&path, "jello").unwrap();
        let blob = dir.path().join("blob");
        assert!(!partial.finish(&hello(), blob.clone()).await.unwrap());
        assert!(!blob.exists());
    }
}
