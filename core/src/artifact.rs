//! The files of a model, by what is in them.

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::Bytes;
use crate::spec::{FieldError, Sha256Digest, ValidationErrors};

/// The files of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// In order of their paths.
    pub files: Vec<ArtifactFile>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// Relative to the model's folder, its parts separated by `/`.
    pub path: String,
    pub size: Bytes,
    pub sha256: Sha256Digest,
}

/// What a running model takes beyond its weights, as a part of them; what the engine's own
/// estimate adds too.
const OVERHEAD: f64 = 0.2;

impl Manifest {
    /// The files, in order.
    ///
    /// # Errors
    /// Every path that leads out of the folder, or is there twice.
    pub fn new(mut files: Vec<ArtifactFile>) -> Result<Self, ValidationErrors> {
        files.sort();
        let mut faults = ValidationErrors::default();
        faults.add_if(files.is_empty(), "files", "must not be empty");
        for (i, file) in files.iter().enumerate() {
            let inside =
                |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
            if !file.path.split('/').all(inside) {
                let problem = format!("'{}' is no path inside a folder", file.path);
                faults.0.push(FieldError::new("files", problem));
            }
            if i > 0 && files[i - 1].path == file.path {
                let problem = format!("'{}' is there twice", file.path);
                faults.0.push(FieldError::new("files", problem));
            }
        }
        faults.into_result()?;
        Ok(Self { files })
    }

    /// Tells these files from any others.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let mut hash = sha2::Sha256::new();
        for file in &self.files {
            hash.update(file.sha256.0);
            hash.update(file.path.as_bytes());
            hash.update([0]);
        }
        Sha256Digest(hash.finalize().into())
    }

    /// All files together.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Memory that a model of these files is likely to need, from the size of its weights. A
    /// guess until a node has loaded it.
    #[must_use]
    pub fn estimated_memory(&self) -> Bytes {
        let weights = |file: &&ArtifactFile| {
            [".safetensors", ".gguf"]
                .iter()
                .any(|end| file.path.ends_with(end))
        };
        let weights: Bytes = self
            .files
            .iter()
            .filter(weights)
            .map(|file| file.size)
            .sum();
        Bytes((weights.0 as f64 * (1.0 + OVERHEAD)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, byte: u8) -> ArtifactFile {
        ArtifactFile {
            path: path.into(),
            size: Bytes(10),
            sha256: Sha256Digest([byte; 32]),
        }
    }

    #[test]
    fn order_does_not_matter_and_content_does() {
        let one = Manifest::new(vec![file("a", 1), file("b/c.gguf", 2)]).unwrap();
        let other = Manifest::new(vec![file("b/c.gguf", 2), file("a", 1)]).unwrap();
        assert_eq!(one.digest(), other.digest());
        let changed = Manifest::new(vec![file("a", 1), file("b/c.gguf", 3)]).unwrap();
        assert_ne!(one.digest(), changed.digest());
        assert_eq!((one.size(), one.estimated_memory()), (Bytes(20), Bytes(12)));
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        for path in ["/etc/passwd", "../x", "a/../b", "", "a//b", "a/.", "a\\b"] {
            let faults = Manifest::new(vec![file(path, 1)]).unwrap_err();
            assert!(faults.to_string().contains("no path inside"), "{path}");
        }
        let twice = Manifest::new(vec![file("a", 1), file("a", 2)]).unwrap_err();
        assert!(twice.to_string().contains("there twice"));
        assert!(Manifest::new(Vec::new()).is_err());
    }
}
