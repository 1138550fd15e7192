//! Files on the controller's disk, each under the digest of its content.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flotilla_core::spec::Sha256Digest;
use futures::{Stream, StreamExt};
use sha2::Digest;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Bytes read from a file at once.
const PIECE: usize = 256 << 10;
/// A file that nothing needs is kept for this long: what was just uploaded is about to be
/// named.
const GRACE: Duration = Duration::from_secs(3_600);

/// Why a file was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("its SHA-256 is {found}, not {wanted}")]
    Digest {
        wanted: Sha256Digest,
        found: Sha256Digest,
    },
    #[error("the controller's disk is full")]
    DiskFull,
    #[error("it could not be kept: {0}")]
    Io(io::Error),
    #[error("it broke off: {0}")]
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

/// The files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    /// Files in `dir`, which is made where it is missing once there is one.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a file is, if it is there.
    #[must_use]
    pub fn path(&self, sha256: Sha256Digest) -> PathBuf {
        let name = sha256.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// The size of a file, if it is there.
    pub async fn size(&self, sha256: Sha256Digest) -> Option<u64> {
        let found = fs::metadata(self.path(sha256)).await.ok()?;
        Some(found.len())
    }

    /// Takes a file in: what `pieces` bring, with the digest and the size of it. It is there
    /// whole, and as it is `wanted` to be, or not at all.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn put(
        &self,
        wanted: Option<Sha256Digest>,
        pieces: impl Stream<Item = Result<Bytes, String>>,
        mut progress: impl FnMut(u64),
    ) -> Result<(Sha256Digest, u64), BlobError> {
        let new = PartialBlob::create(&self.dir).await?;
        let mut file = File::create(&new.path).await?;
        let mut hash = sha2::Sha256::new();
        let mut size = 0;
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(BlobError::Source)?;
            hash.update(&piece);
            file.write_all(&piece).await?;
            size += piece.len() as u64;
            progress(size);
        }
        file.sync_all().await?;
        let found = Sha256Digest(hash.finalize().into());
        if let Some(wanted) = wanted
            && wanted != found
        {
            return Err(BlobError::Digest { wanted, found });
        }
        let path = self.path(found);
        // Below the folder of all: it has a parent.
        fs::create_dir_all(path.parent().unwrap_or(&self.dir)).await?;
        fs::rename(&new.path, path).await?;
        Ok((found, size))
    }

    /// Takes a file of this machine in.
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
        self.put(None, pieces(file), progress).await
    }

    /// Reads a file from a byte on. `None` where it is not there.
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
        Ok(Some(pieces(file)))
    }

    /// Removes the files that are not `needed` any more.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn collect(&self, needed: impl Fn(Sha256Digest) -> bool) -> io::Result<()> {
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
                    tracing::info!(file = ?name, "nothing needs it any more");
                    fs::remove_file(file.path()).await?;
                }
            }
        }
        Ok(())
    }
}

/// A file that is not whole yet; removed when dropped, unless it was moved away before.
struct PartialBlob {
    path: PathBuf,
}

impl PartialBlob {
    async fn create(dir: &Path) -> io::Result<Self> {
        let incoming = dir.join("incoming");
        fs::create_dir_all(&incoming).await?;
        let path = incoming.join(format!("{:016x}", fastrand::u64(..)));
        Ok(Self { path })
    }
}

impl Drop for PartialBlob {
    fn drop(&mut self) {
        // It may have been moved, or never made.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What is left of a file, piece by piece.
fn pieces(file: File) -> impl Stream<Item = Result<Bytes, String>> + Send {
    futures::stream::try_unfold(file, async |mut file| {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await.map_err(|e| e.to_string())?;
        Ok((read > 0).then(|| (piece.freeze(), file)))
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
    async fn what_is_put_is_read_from_any_byte_on() {
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
    async fn what_is_wrong_or_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned());
        let wrong = blobs
            .put(Some(Sha256Digest([0; 32])), bytes("hello"), |_| {})
            .await;
        assert!(matches!(wrong, Err(BlobError::Digest { .. })));
        let broken = stream::iter([Ok(Bytes::from_static(b"he")), Err("cut".to_owned())]);
        let broken = blobs.put(None, broken, |_| {}).await;
        assert!(matches!(broken, Err(BlobError::Source(_))));
        let left = std::fs::read_dir(dir.path().join("incoming")).unwrap();
        assert_eq!(left.count(), 0);
    }

    #[tokio::test]
    async fn only_what_is_old_and_not_needed_is_collected() {
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
        blobs.collect(|digest| digest == digests[0]).await.unwrap();
        let there = futures::future::join_all(digests.iter().map(|d| blobs.size(*d))).await;
        assert_eq!(there, [Some(6), None, Some(3)]);
    }
}
