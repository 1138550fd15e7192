//! The files of a model on this node.

use std::path::{Path, PathBuf};

use flotilla_core::spec::{ModelFormat, Pipeline};

use crate::LoadError;

/// The files of a model.
#[derive(Debug, Clone)]
pub(super) enum ModelFiles {
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
        let files = parts(&file.to_string_lossy());
        if let Some(missing) = files.iter().find(|file| !dir.join(file).is_file()) {
            return Err(unusable(&format!("its part {missing} is missing")));
        }
        Ok(Self::Gguf {
            dir: dir.to_owned(),
            files,
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

/// The names of all parts of a GGUF file. One that was split is named `NAME-00001-of-00003.gguf`; any part
/// names them all.
fn parts(file: &str) -> Vec<String> {
    let split = || {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (name, part) = rest.rsplit_once('-')?;
        let number = |digits: &str| {
            let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u32>().ok()).flatten()
        };
        let (count, part) = (number(count)?, number(part)?);
        let parts = (1..=count).map(|part| format!("{name}-{part:05}-of-{count:05}.gguf"));
        (1..=count).contains(&part).then(|| parts.collect())
    };
    split().unwrap_or_else(|| vec![file.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_split_file_names_all() {
        let all = [
            "a-b-00001-of-00003.gguf",
            "a-b-00002-of-00003.gguf",
            "a-b-00003-of-00003.gguf",
        ];
        assert_eq!(parts("a-b-00001-of-00003.gguf"), all);
        assert_eq!(parts("a-b-00003-of-00003.gguf"), all);
        for whole in [
            "a.gguf",
            "a-1-of-3.gguf",
            "a-00004-of-00003.gguf",
            "-of-.gguf",
        ] {
            assert_eq!(parts(whole), [whole]);
        }
    }

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
