//! Where the files of a model are.

use std::path::Path;

use flotilla_core::spec::{ModelSource, ModelSpec};

use crate::LoadError;

/// The path of a model's files.
///
/// # Errors
/// [`LoadError::Spec`] if the spec names none.
pub(crate) fn source_path(spec: &ModelSpec) -> Result<&Path, LoadError> {
    match &spec.source {
        Some(ModelSource::Path(path)) => Ok(path),
        _ => Err(LoadError::Spec(
            "spec.source must be a path on this node".into(),
        )),
    }
}
