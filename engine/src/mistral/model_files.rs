//! The files of a model on this node.

use std::path::{Path, PathBuf};

use flotilla_core::spec::{ModelFormat, Pipeline};

use crate::LoadError;

/// The files of a model.
#[derive(Debug, Clone)]
pub(super) enum ModelFiles {
    /// A Hugging Face folder with `*.safetensors`.
    Folder(PathBuf),
    /// A GGUF file in a folder.
    Gguf { dir: PathBuf, file: String },
}

impl ModelFiles {
    /// Finds the files at a path, a folder or a GGUF file.
    ///
    /// # Errors
    /// [`LoadError::NoSuchPath`], or [`LoadError::Unusable`] when it is neither.
    pub(super) fn find(path: &Path) -> Result<Self, LoadError> {
        let unusable = |problem: &str| LoadError::Unusable {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        if path.is_dir() {
            for required in ["config.json", "tokenizer.json"] {
                if !path.join(required).is_file() {
                    return Err(unusable(&format!("it has no {required}")));
                }
            }
            return Ok(Self::Folder(path.to_owned()));
        }
        if !path.is_file() {
            return Err(LoadError::NoSuchPath(path.to_owned()));
        }
        if path.extension().is_none_or(|extension| extension != "gguf") {
            return Err(unusable("its name does not end in .gguf"));
        }
        let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(unusable("it is not a file in a folder"));
        };
        Ok(Self::Gguf {
            dir: dir.to_owned(),
            file: file.to_string_lossy().into_owned(),
        })
    }

    /// The format of the weights.
    pub(super) fn format(&self) -> ModelFormat {
        match self {
            Self::Folder(_) => ModelFormat::Safetensors,
            Self::Gguf { .. } => ModelFormat::Gguf,
        }
    }

    /// What the model computes: embeddings if its folder has the list of modules of
    /// sentence-transformers, as that of every embedding model has; else text.
    pub(super) fn pipeline(&self) -> Pipeline {
        match self {
            Self::Folder(dir) if dir.join("modules.json").is_file() => Pipeline::Embedding,
            _ => Pipeline::Text,
        }
    }
}
