//! A file that is being fetched.

use std::io;
use std::path::Path;

use flotilla_core::spec::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Number of bytes read at a time when a partial file is opened.
const READ_SIZE: usize = 256 << 10;

/// The part of a file that has been fetched, with its running digest.
pub(super) struct PartialFile {
    file: File,
    size: u64,
    hash: Sha256,
}

impl PartialFile {
    /// Opens or creates the file and hashes its content. A file longer than `max_size` bytes
    /// cannot be a part of the file to fetch: it is emptied.
    pub(super) async fn open(path: &Path, max_size: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.open(path).await?;
        if file.metadata().await?.len() > max_size {
            file.set_len(0).await?;
        }
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            size += read as u64;
        }
        Ok(Self { file, size, hash })
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a chunk.
    pub(super) async fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk).await?;
        self.hash.update(chunk);
        self.size += chunk.len() as u64;
        Ok(())
    }

    /// Writes the complete file to disk and returns its digest.
    pub(super) async fn finish(mut self) -> io::Result<Sha256Digest> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        Ok(Sha256Digest(self.hash.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_partial_file_is_resumed_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut partial = PartialFile::open(&path, 5).await.unwrap();
        partial.append(b"he").await.unwrap();
        // As a crash leaves it.
        partial.file.flush().await.unwrap();
        drop(partial);
        let mut partial = PartialFile::open(&path, 5).await.unwrap();
        assert_eq!(partial.size(), 2);
        partial.append(b"llo").await.unwrap();
        let digest: [u8; 32] = Sha256::digest(b"hello").into();
        assert_eq!(partial.finish().await.unwrap(), Sha256Digest(digest));
        let too_long = PartialFile::open(&path, 4).await.unwrap();
        assert_eq!(too_long.size(), 0);
    }
}
