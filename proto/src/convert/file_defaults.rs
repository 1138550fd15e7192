//! What the files of a model say about sampling and about the context.

use flotilla_core::generate;

use crate::v1;

impl From<&generate::FileDefaults> for v1::FileDefaults {
    fn from(files: &generate::FileDefaults) -> Self {
        Self {
            sampling: Some((&files.sampling).into()),
            source: files.source.clone(),
            warnings: files.warnings.clone(),
            context_length: files.context,
        }
    }
}

impl From<v1::FileDefaults> for generate::FileDefaults {
    fn from(files: v1::FileDefaults) -> Self {
        Self {
            context: files.context_length,
            sampling: files.sampling.unwrap_or_default().into(),
            source: files.source,
            warnings: files.warnings,
        }
    }
}
