//! The manifests of model files that controllers deliver.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::ArtifactName;
use flotilla_core::ModelRevision;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, ModelSource};
use sha2::Digest;

use super::FetchRecord;
use crate::store::keys;

/// The manifests of all model files in the store.
#[derive(Debug, Clone, Default)]
pub struct ModelManifests {
    /// The manifests of pushed files, by name.
    pub pushed: BTreeMap<ArtifactName, Arc<Manifest>>,
    /// The manifests of files that a controller fetched, by [`keys::source_id`].
    pub fetched: BTreeMap<String, Arc<Manifest>>,
    /// The progress of fetching, by [`keys::source_id`].
    pub fetches: BTreeMap<String, FetchRecord>,
}

impl ModelManifests {
    /// Returns the manifest of a source. `None` if the source was not pushed or fetched yet, or if
    /// it is a path on the nodes, whose files controllers do not deliver.
    #[must_use]
    pub fn get(&self, source: &ModelSource) -> Option<&Arc<Manifest>> {
        match source {
            ModelSource::Path(_) => None,
            ModelSource::Artifact(name) => self.pushed.get(name),
            other => self.fetched.get(&keys::source_id(other)),
        }
    }
}

/// Returns the revision that nodes serve: the serving revision of the spec and, if controllers
/// deliver the model's files, a hash of it and the files.
pub(super) fn model_revision(model: &Model, manifest: Option<&Manifest>) -> ModelRevision {
    let serving = model.serving_revision();
    let Some(manifest) = manifest else {
        return serving;
    };
    let mut hash = sha2::Sha256::new();
    hash.update(serving.0.to_be_bytes());
    hash.update(manifest.digest().0);
    ModelRevision::from_digest(&hash.finalize().into())
}
