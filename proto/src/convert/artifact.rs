//! The files of a model.

use flotilla_core::{Bytes, artifact};

use super::ConvertError;
use crate::v1;

impl From<&artifact::ArtifactFile> for v1::ArtifactFile {
    fn from(file: &artifact::ArtifactFile) -> Self {
        Self {
            path: file.path.clone(),
            size: file.size.0,
            sha256: file.sha256.to_string(),
        }
    }
}

impl TryFrom<v1::ArtifactFile> for artifact::ArtifactFile {
    type Error = ConvertError;

    fn try_from(file: v1::ArtifactFile) -> Result<Self, ConvertError> {
        let sha256 = file.sha256.parse().map_err(|e| ConvertError::Invalid {
            field: "sha256",
            reason: format!("{e}"),
        })?;
        Ok(Self {
            path: file.path,
            size: Bytes(file.size),
            sha256,
        })
    }
}
