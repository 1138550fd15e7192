//! The files of models as the store has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::ArtifactName;
use flotilla_core::artifact::Manifest;
use flotilla_core::rollout::Revision;
use flotilla_core::spec::{Model, Sha256, Source};
use sha2::Digest;

use super::FetchRecord;
use crate::store::keys;

/// The files of all models.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// What was pushed, by name.
    pub pushed: BTreeMap<ArtifactName, Arc<Manifest>>,
    /// What was fetched, by [`keys::source_id`].
    pub fetched: BTreeMap<String, Arc<Manifest>>,
    /// How fetching goes.
    pub fetches: BTreeMap<String, FetchRecord>,
}

impl Files {
    /// The files of a source, once they are known.
    #[must_use]
    pub fn of(&self, source: &Source) -> Option<&Arc<Manifest>> {
        match source {
            Source::Path(_) => None,
            Source::Artifact(name) => self.pushed.get(name),
            other => self.fetched.get(&keys::source_id(other)),
        }
    }
}

/// The revision that nodes serve: that of the spec, and where controllers deliver the files,
/// of what is in them.
pub(super) fn revision(model: &Model, files: Option<&Manifest>) -> Revision {
    let serving = model.serving_revision();
    let Some(files) = files else { return serving };
    let mut hash = sha2::Sha256::new();
    hash.update(serving.to_be_bytes());
    hash.update(files.digest().0);
    let Sha256([a, b, c, d, e, f, g, h, ..]) = Sha256(hash.finalize().into());
    Revision::from_be_bytes([a, b, c, d, e, f, g, h])
}
