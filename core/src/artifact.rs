//! The manifest of a model's files: their paths, sizes and digests.

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::Bytes;
use crate::spec::{Sha256Digest, ValidationErrors};

/// The list of a model's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The files, sorted by path.
    pub files: Vec<ArtifactFile>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile {
    /// Path relative to the model's folder, with `/` between its components.
    pub path: String,
    /// Size in bytes.
    pub size: Bytes,
    /// Digest of the content.
    pub sha256: Sha256Digest,
}

/// Memory of a running model beyond its weights, as a fraction of them: caches and activations of a few
/// sequences.
const RUNTIME_OVERHEAD: f64 = 0.2;

/// Returns the memory of a running model whose weights take so many bytes. Controllers and nodes estimate
/// alike.
#[must_use]
pub fn memory_of_weights(bytes: u64) -> Bytes {
    Bytes((bytes as f64 * (1.0 + RUNTIME_OVERHEAD)) as u64)
}

/// Largest manifest as JSON, in bytes: about 8,000 files. It is stored as one value, and every node of
/// the model receives it.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// What a file takes in a manifest beside its path, in bytes of JSON.
const FILE_BYTES: usize = 120;

/// Whether a relative path with `/` between its components stays inside the folder that it is relative to.
#[must_use]
pub fn is_inside_folder(path: &str) -> bool {
    let is_component =
        |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    path.split('/').all(is_component)
}

impl Manifest {
    /// Returns a manifest of these files, sorted.
    ///
    /// # Errors
    /// All paths that lead out of the folder or occur twice, that there are no files, or that there are
    /// too many of them.
    pub fn new(mut files: Vec<ArtifactFile>) -> Result<Self, ValidationErrors> {
        files.sort();
        let mut errors = ValidationErrors::default();
        errors.add_if(files.is_empty(), "files", "must not be empty");
        let bytes: usize = files.iter().map(|file| file.path.len() + FILE_BYTES).sum();
        if bytes > MAX_MANIFEST_BYTES {
            let problem = format!(
                "are too many: {} files, whose list takes {}, where a model can have {}; leave out those \
                 that it does not need",
                files.len(),
                Bytes(bytes as u64),
                Bytes(MAX_MANIFEST_BYTES as u64),
            );
            errors.add("files", problem);
            return Err(errors);
        }
        for (index, file) in files.iter().enumerate() {
            if !is_inside_folder(&file.path) {
                let problem = format!("has '{}', which is not a path inside a folder", file.path);
                errors.add("files", problem);
            }
            if index > 0 && files[index - 1].path == file.path {
                let problem = format!("has '{}' twice", file.path);
                errors.add("files", problem);
            }
        }
        errors.into_result()?;
        Ok(Self { files })
    }

    /// Returns a digest of all paths and contents, which identifies the manifest.
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

    /// Returns the size of all files together.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Returns the GGUF file that the model is loaded from, the first part of one that was split. `None`: it
    /// is loaded from its folder.
    #[must_use]
    pub fn gguf_file(&self) -> Option<&ArtifactFile> {
        let mut files = self.files.iter();
        files.find(|file| file.path.ends_with(".gguf"))
    }

    /// Estimates the memory that the model needs from the size of the weights that a node loads. Used until a
    /// node has read them, which knows in which number format it computes.
    #[must_use]
    pub fn estimated_memory(&self) -> Bytes {
        memory_of_weights(self.weights().0)
    }

    /// Returns the size of the weights that a node loads: the GGUF file, or the files `*.safetensors` of the
    /// folder. An adapter takes as much memory, as it computes in the process of its base.
    #[must_use]
    pub fn weights(&self) -> Bytes {
        if let Some(gguf) = self.gguf_file() {
            let parts = gguf_parts(&gguf.path);
            let parts = self.files.iter().filter(|file| parts.contains(&file.path));
            return parts.map(|file| file.size).sum();
        }
        let is_weights =
            |file: &&ArtifactFile| file.path.ends_with(".safetensors") && !file.path.contains('/');
        let weights = self.files.iter().filter(is_weights);
        weights.map(|file| file.size).sum()
    }
}

/// Returns the names of all parts of a GGUF file. One that was split is named `NAME-00001-of-00003.gguf`; any
/// part names them all.
#[must_use]
pub fn gguf_parts(file: &str) -> Vec<String> {
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
        assert_eq!(gguf_parts("a-b-00001-of-00003.gguf"), all);
        assert_eq!(gguf_parts("a-b-00003-of-00003.gguf"), all);
        for whole in [
            "a.gguf",
            "a-1-of-3.gguf",
            "a-00004-of-00003.gguf",
            "-of-.gguf",
        ] {
            assert_eq!(gguf_parts(whole), [whole]);
        }
    }

    fn file(path: &str, byte: u8) -> ArtifactFile {
        ArtifactFile {
            path: path.into(),
            size: Bytes(10),
            sha256: Sha256Digest([byte; 32]),
        }
    }

    #[test]
    fn digest_depends_on_content_and_not_on_order() {
        let one = Manifest::new(vec![file("a", 1), file("b/c.gguf", 2)]).unwrap();
        let other = Manifest::new(vec![file("b/c.gguf", 2), file("a", 1)]).unwrap();
        assert_eq!(one.digest(), other.digest());
        let changed = Manifest::new(vec![file("a", 1), file("b/c.gguf", 3)]).unwrap();
        assert_ne!(one.digest(), changed.digest());
        assert_eq!((one.size(), one.estimated_memory()), (Bytes(20), Bytes(12)));
        assert_eq!(one.weights(), Bytes(10));
    }

    #[test]
    fn memory_is_that_of_the_weights_that_a_node_loads() {
        let memory = |paths: &[&str]| {
            let files = paths.iter().map(|path| file(path, 1)).collect();
            Manifest::new(files).unwrap().estimated_memory()
        };
        assert_eq!(
            memory(&["a.safetensors", "b.safetensors", "config.json"]),
            Bytes(24)
        );
        assert_eq!(memory(&["a.safetensors", "onnx/a.safetensors"]), Bytes(12));
        assert_eq!(memory(&["a.gguf", "a.safetensors"]), Bytes(12));
        let split = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"];
        assert_eq!(memory(&split), Bytes(24));
    }

    #[test]
    fn paths_out_of_the_folder_and_duplicates_are_rejected() {
        for path in ["/etc/passwd", "../x", "a/../b", "", "a//b", "a/.", "a\\b"] {
            let errors = Manifest::new(vec![file(path, 1)]).unwrap_err();
            assert!(errors.to_string().contains("not a path inside"), "{path}");
        }
        let twice = Manifest::new(vec![file("a", 1), file("a", 2)]).unwrap_err();
        assert!(twice.to_string().contains("twice"));
        assert!(Manifest::new(Vec::new()).is_err());
    }

    #[test]
    fn manifest_of_too_many_files_is_rejected() {
        let files = |count: usize| (0..count).map(|i| file(&format!("data/{i:06}"), 1));
        assert!(Manifest::new(files(5_000).collect()).is_ok());
        let errors = Manifest::new(files(10_000).collect()).unwrap_err();
        assert!(errors.to_string().contains("10000 files"), "{errors}");
    }
}
