//! A file that was fetched from a source, and why files are not fetched.

use std::path::PathBuf;

use flotilla_core::Bytes;
use flotilla_core::artifact::ArtifactFile;
use flotilla_core::spec::{Sha256Digest, ValidationErrors};

use super::blob_error::BlobError;
use super::blobs::BlobStore;

/// Why the files of a model were not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} does not exist on the leading controller")]
    NoSuchPath(PathBuf),
    #[error("the controllers may not read models from {0}")]
    OutsideModelRoots(PathBuf),
    #[error("{path} cannot be read: {problem}")]
    Unreadable { path: PathBuf, problem: String },
    #[error("{url} cannot be fetched: {problem}")]
    Server { url: String, problem: String },
    #[error("{url}: {problem}")]
    File { url: String, problem: BlobError },
    #[error("the source has none of the files that a model needs")]
    NoFiles,
    #[error("the files of the source cannot be delivered: {0}")]
    Manifest(ValidationErrors),
    #[error("no artifact was pushed under this name")]
    NotPushed,
    #[error("the fetch has failed unexpectedly")]
    Panicked,
    #[error("files of the model are damaged or lost, and no controller or node has them: {0}")]
    Lost(String),
    #[error("files of the model are damaged or lost, and the source has others by now: {0}")]
    SourceChanged(String),
}

impl FetchError {
    /// What the user can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchPath(_) | Self::Unreadable { .. } => {
                "put the files there, or correct spec.source.controllerPath"
            }
            Self::OutsideModelRoots(_) => {
                "put the files below a folder that --model-root of the controllers names (/var/lib/flotilla/models by default), or add one"
            }
            Self::Server { problem, .. } if problem.contains("--source-host") => {
                "check that the address is meant"
            }
            Self::Server { problem, .. } if problem.contains("certificate") => {
                "give the authority that has signed it to the controllers: --ca-file"
            }
            Self::Server { .. } => {
                "check the address and the network, and HF_TOKEN if it is not public"
            }
            Self::File { problem, .. } => match problem {
                BlobError::Digest { .. } => {
                    "the source has changed: check it, then correct spec.source.sha256"
                }
                BlobError::DiskFull => "free space below --data-dir",
                BlobError::Io(_) => "check the disk below --data-dir",
                BlobError::TooLarge(_) => "check that the source is a model's file",
                BlobError::Source(_) => "check the network to the source",
            },
            Self::NoFiles => "name them in spec.source.huggingFace.files",
            Self::Manifest(_) => {
                "name the files that the model needs in spec.source.huggingFace.files, or remove the others from the folder"
            }
            Self::Lost(_) => "push the same files again: flotilla model push DIR --name NAME",
            Self::SourceChanged(_) => {
                "put the same files there again, or delete the model and apply it anew to take the new ones"
            }
            Self::Panicked => "look at the log of the controller that leads; it tries again",
            Self::NotPushed => "run: flotilla model push DIR --name NAME",
        }
    }
}

/// Called with the number of bytes fetched so far.
pub(super) type FetchProgress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Checks that files of `bytes` bytes have room, before the first of them is fetched.
pub(super) async fn check_room(url: &str, bytes: u64, blobs: &BlobStore) -> Result<(), FetchError> {
    let room = blobs.ensure_room(bytes).await;
    room.map_err(|problem| FetchError::File {
        url: url.to_owned(),
        problem,
    })
}

/// The manifest entry of a stored file.
pub(super) fn manifest_file(
    path: String,
    url: &str,
    put: Result<(Sha256Digest, u64), BlobError>,
) -> Result<ArtifactFile, FetchError> {
    let (sha256, size) = put.map_err(|problem| FetchError::File {
        url: url.to_owned(),
        problem,
    })?;
    Ok(ArtifactFile {
        path,
        size: Bytes(size),
        sha256,
    })
}
