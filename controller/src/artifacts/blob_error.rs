//! Why a file of a model is not stored or not read.

use std::io;

use flotilla_core::spec::Sha256Digest;

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
    /// There is no space left beside the reserve, or the quota is used up.
    #[error("the controller's disk has no space for it beside the reserve for its store")]
    DiskFull,
    /// The content is larger than it may be.
    #[error("it has more than {0}")]
    TooLarge(flotilla_core::Bytes),
    /// The disk failed in another way.
    #[error("it cannot be written: {0}")]
    Io(io::Error),
    /// The content did not arrive completely.
    #[error("the transfer was interrupted: {0}")]
    Source(String),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        if flotilla_durable::is_full(&error) {
            Self::DiskFull
        } else {
            Self::Io(error)
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
