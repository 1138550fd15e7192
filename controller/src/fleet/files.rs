//! The files of models as the store has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::ArtifactName;
use flotilla_core::ModelRevision;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, ModelSource};
use sha2::Digest;

use super::FetchRecord;
use crate::store::keys;

/// The files of all models.
#[derive(Debug, Clone, Default)]
pub struct ModelManifests {
    /// What was pushed, by name.
    pub pushed: BTreeMap<ArtifactName, Arc<Manifest>>,
    /// What was fetched, by [`keys::source_id`].
    pub fetched: BTreeMap<String, Arc<Manifest>>,
    /// How fetching goes.
    pub fetches: BTreeMap<String, FetchRecord>,
}

impl ModelManifests {
    /// The files of a source, once they are known.
    #[must_use]
    pub fn of(&self, source: &ModelSource) -> Option<&Arc<Manifest>> {
        match source {
            ModelSource::Path(_) => None,
            ModelSource::Artifact(name) => self.pushed.get(name),
            other => self.fetched.get(&keys::source_id(other)),
        }
    }
}

/// The revision that nodes serve: that of the spec, and where controllers deliver the files,
/// of what is in them.
pub(super) fn revision(model: &Model, files: Option<&Manifest>) -> ModelRevision {
    let serving = model.serving_revision();
    let Some(files) = files else { return serving };
    let mut hash = sha2::Sha256::new();
    hash.update(serving.0.to_be_bytes());
    hash.update(files.digest().0);
    ModelRevision::from_digest(&hash.finalize().into())
}
