//! Errors of the artifact store.

use std::io;

use flotilla_core::Bytes;
use flotilla_core::artifact::ArtifactFile;
use flotilla_durable::is_full;

/// Why the files of a model are not on this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// No linked controller has the file with this path.
    #[error("no controller has the file '{0}'")]
    NotOnControllers(String),
    /// The file with this path arrived with a wrong digest.
    #[error("the file '{0}' arrived with a wrong SHA-256")]
    DigestMismatch(String),
    /// The files of the model take more than is left for them.
    #[error(
        "its files take {needed} more on the disk, {free} are free of the {budget} for files of models"
    )]
    NoRoom {
        /// The space that the missing files take.
        needed: Bytes,
        /// The space that is left.
        free: Bytes,
        /// The space for all files of models.
        budget: Bytes,
    },
    /// The disk has no room for the file with this path and size.
    #[error("the node's disk is full: the file '{0}' takes {1}")]
    DiskFull(String, Bytes),
    /// The file with this path could not be written, with the error.
    #[error("cannot write the file '{0}': {1}")]
    Io(String, String),
}

impl ArtifactError {
    /// Converts an I/O error on `file`.
    pub(super) fn from_io(file: &ArtifactFile, error: &io::Error) -> Self {
        if is_full(error) {
            Self::DiskFull(file.path.clone(), file.size)
        } else {
            Self::Io(file.path.clone(), error.to_string())
        }
    }

    /// What an operator can do about the error.
    #[must_use]
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::NotOnControllers(_) => {
                "push the model again, or check the controllers' --data-dir"
            }
            Self::DigestMismatch(_) => {
                "check the disks and the memory of the controller and of the node"
            }
            Self::NoRoom { .. } => {
                "remove a model from the node, raise the agent's --disk, free space below its --data-dir, or choose another node"
            }
            Self::DiskFull(..) => "free space below the agent's --data-dir, or choose another node",
            Self::Io(..) => "check the disk below the agent's --data-dir",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::Sha256Digest;

    #[test]
    fn a_full_disk_is_reported_as_full() {
        let file = ArtifactFile {
            path: "w".into(),
            size: Bytes(7),
            sha256: Sha256Digest([0; 32]),
        };
        let error = ArtifactError::from_io(&file, &io::ErrorKind::StorageFull.into());
        assert_eq!(error, ArtifactError::DiskFull("w".into(), Bytes(7)));
        assert!(error.remedy().contains("free space"));
    }
}
