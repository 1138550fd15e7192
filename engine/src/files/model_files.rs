//! The files of a model on this node.

use std::path::{Path, PathBuf};

use flotilla_core::artifact::gguf_parts;
use flotilla_core::spec::{ModelFormat, Pipeline};

use crate::LoadError;

/// The files of a model.
#[derive(Debug, Clone)]
pub(crate) enum ModelFiles {
    /// A Hugging Face folder with `*.safetensors`.
    Folder(PathBuf),
    /// A GGUF file in a folder: one file, or all parts of one that was split.
    Gguf { dir: PathBuf, files: Vec<String> },
}

impl ModelFiles {
    /// Finds the files at a path, a folder or a GGUF file.
    ///
    /// # Errors
    /// [`LoadError::NoSuchPath`], or [`LoadError::Unusable`] when it is neither.
    pub(crate) fn find(path: &Path) -> Result<Self, LoadError> {
        let unusable = |problem: &str| LoadError::Unusable {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        if path.is_dir() {
            if path.join("adapter_config.json").is_file() {
                let problem =
                    "it is a LoRA adapter: name the model that it was trained on as spec.base";
                return Err(unusable(problem));
            }
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
        let files = gguf_parts(&file.to_string_lossy());
        if let Some(missing) = files.iter().find(|file| !dir.join(file).is_file()) {
            return Err(unusable(&format!("its part {missing} is missing")));
        }
        Ok(Self::Gguf {
            dir: dir.to_owned(),
            files,
        })
    }

    /// The format of the weights.
    pub(crate) fn format(&self) -> ModelFormat {
        match self {
            Self::Folder(_) => ModelFormat::Safetensors,
            Self::Gguf { .. } => ModelFormat::Gguf,
        }
    }

    /// What the model computes: embeddings if its folder has the list of modules of
    /// sentence-transformers, as that of every embedding model has; else text.
    pub(crate) fn pipeline(&self) -> Pipeline {
        match self {
            Self::Folder(dir) if dir.join("modules.json").is_file() => Pipeline::Embedding,
            _ => Pipeline::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_part_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("a-00001-of-00002.gguf");
        std::fs::write(&first, "").unwrap();
        let error = ModelFiles::find(&first).unwrap_err().to_string();
        assert!(
            error.contains("a-00002-of-00002.gguf is missing"),
            "{error}"
        );
    }
}
