//! Reads the files of models for controllers that have lost them.

use std::io;
use std::path::{Path, PathBuf};

use flotilla_core::spec::Sha256Digest;
use flotilla_proto::v1::BlobChunk;
use futures::{Stream, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Size of one chunk, in bytes.
const CHUNK_BYTES: u64 = 256 << 10;

/// Reads the complete files of an artifact store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BlobReader {
    blobs: PathBuf,
}

impl BlobReader {
    /// Creates a reader of the artifact store below `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            blobs: dir.join("blobs"),
        }
    }

    /// Reads a file from the byte `offset` to its end. `None` if the node does not have it.
    pub(crate) async fn read(
        &self,
        sha256: Sha256Digest,
        offset: u64,
    ) -> io::Result<Option<impl Stream<Item = io::Result<BlobChunk>> + Send + use<>>> {
        let mut file = match File::open(self.blobs.join(sha256.to_string())).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(Some(stream::try_unfold(file, async |mut file| {
            let mut data = Vec::new();
            (&mut file).take(CHUNK_BYTES).read_to_end(&mut data).await?;
            Ok((!data.is_empty()).then_some((BlobChunk { data: data.into() }, file)))
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn file_is_read_from_an_offset_in_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let sha256 = Sha256Digest([7; 32]);
        let reader = BlobReader::new(dir.path());
        assert!(reader.read(sha256, 0).await.unwrap().is_none());
        let blobs = dir.path().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(sha256.to_string()), vec![1; 300 << 10]).unwrap();
        let chunks = reader.read(sha256, 10).await.unwrap().unwrap();
        let chunks: Vec<_> = chunks.try_collect().await.unwrap();
        let sizes: Vec<_> = chunks.iter().map(|chunk| chunk.data.len()).collect();
        assert_eq!(sizes, [256 << 10, (44 << 10) - 10]);
    }
}
