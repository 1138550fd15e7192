//! Fetching one file: from whichever controller has it, from the byte where the last try ended.

use std::io;
use std::path::Path;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::artifact::ArtifactFile;
use flotilla_core::spec::Sha256Digest;
use flotilla_proto::v1::FetchBlobRequest;
use sha2::Digest;
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::{ArtifactError, ArtifactStore};

/// Pause before the controllers are asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often all of them may say that they do not have it: another one may just be copying it.
const PATIENCE: u32 = 10;
/// Bytes read from a file at once.
const PIECE: usize = 256 << 10;

/// Makes sure that a file is there, whole and checked. Waits for controllers for as long as
/// none is linked.
pub(super) async fn file(
    artifacts: &ArtifactStore,
    file: &ArtifactFile,
    progress: impl Fn(u64),
) -> Result<(), ArtifactError> {
    let path = artifacts.blob(file.sha256);
    if path.exists() {
        return Ok(());
    }
    let incoming = artifacts.incoming(file.sha256);
    let disk = |error: io::Error| from_disk(file, &error);
    for folder in [path.parent(), incoming.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).await.map_err(disk)?;
    }
    let mut partial = PartialFile::open(&incoming, file.size.0)
        .await
        .map_err(disk)?;
    if partial.size > 0 {
        tracing::info!(file = file.path, byte = partial.size, "fetching goes on");
    }
    let mut refusals = 0;
    while partial.size < file.size.0 {
        let mut came = artifacts.peers.came();
        let mut clients = artifacts.peers.clients();
        fastrand::shuffle(&mut clients);
        let mut refused = !clients.is_empty();
        for mut client in clients {
            let request = FetchBlobRequest {
                sha256: file.sha256.to_string(),
                offset: partial.size,
            };
            let mut pieces = match client.fetch_blob(request).await {
                Ok(reply) => reply.into_inner(),
                Err(status) => {
                    refused &= status.code() == Code::NotFound;
                    continue;
                }
            };
            refused = false;
            // What breaks off goes on with the next one.
            while let Ok(Some(piece)) = pieces.message().await {
                if let Some(throttle) = &artifacts.throttle {
                    throttle.pass(piece.data.len()).await;
                }
                partial.add(&piece.data).await.map_err(disk)?;
                progress(partial.size);
            }
            if partial.size >= file.size.0 {
                break;
            }
        }
        if partial.size >= file.size.0 {
            break;
        }
        refusals += u32::from(refused);
        if refusals >= PATIENCE {
            return Err(ArtifactError::Vanished(file.path.clone()));
        }
        // Whichever is first: one more controller, or time for another try.
        let _ = tokio::time::timeout(PAUSE, came.changed()).await;
    }
    let found = partial.finish().await.map_err(disk)?;
    if found != file.sha256 {
        fs::remove_file(&incoming).await.map_err(disk)?;
        return Err(ArtifactError::Digest(file.path.clone()));
    }
    fs::rename(incoming, path).await.map_err(disk)
}

fn from_disk(file: &ArtifactFile, error: &io::Error) -> ArtifactError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ArtifactError::DiskFull(file.path.clone(), Bytes(file.size.0))
        }
        _ => ArtifactError::Disk(file.path.clone(), error.to_string()),
    }
}

/// The beginning of a file.
struct PartialFile {
    file: fs::File,
    size: u64,
    hash: sha2::Sha256,
}

impl PartialFile {
    /// Goes on with what is there. What is longer than the file should be is none of it.
    async fn open(path: &Path, most: u64) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.open(path).await?;
        if file.metadata().await?.len() > most {
            file.set_len(0).await?;
        }
        let mut hash = sha2::Sha256::new();
        let mut size = 0;
        let mut piece = vec![0; PIECE];
        loop {
            let read = file.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            hash.update(&piece[..read]);
            size += read as u64;
        }
        Ok(Self { file, size, hash })
    }

    async fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece).await?;
        self.hash.update(piece);
        self.size += piece.len() as u64;
        Ok(())
    }

    /// All of it is there. Returns its digest.
    async fn finish(mut self) -> io::Result<Sha256Digest> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        Ok(Sha256Digest(self.hash.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_to_be_full() {
        let file = ArtifactFile {
            path: "w".into(),
            size: Bytes(7),
            sha256: Sha256Digest([0; 32]),
        };
        let full = from_disk(&file, &io::ErrorKind::StorageFull.into());
        assert_eq!(full, ArtifactError::DiskFull("w".into(), Bytes(7)));
        assert!(full.remedy().contains("free space"));
    }

    #[tokio::test]
    async fn a_partial_file_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut partial = PartialFile::open(&path, 5).await.unwrap();
        partial.add(b"he").await.unwrap();
        // As a crash leaves it.
        partial.file.flush().await.unwrap();
        drop(partial);
        let mut partial = PartialFile::open(&path, 5).await.unwrap();
        assert_eq!(partial.size, 2);
        partial.add(b"llo").await.unwrap();
        let whole: [u8; 32] = sha2::Sha256::digest(b"hello").into();
        assert_eq!(partial.finish().await.unwrap(), Sha256Digest(whole));
        let longer = PartialFile::open(&path, 4).await.unwrap();
        assert_eq!(longer.size, 0);
    }
}
