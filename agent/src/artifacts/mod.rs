//! The files of models on this node: fetched from controllers over the links, verified, shared between
//! models with equal files, and removed once no model needs them.
//!
//! ```text
//! blobs/<sha256>              a complete, verified file
//! incoming/<sha256>           a partial file, at whose end fetching resumes
//! models/<digest>/<path>      the folder of a model: hard links to blobs; exists only when complete
//! ```

mod artifact_error;
mod blob_reader;
mod blob_sources;
mod fetch;
mod partial_file;
mod rate_limiter;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::Bytes;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Sha256Digest;

pub(crate) use artifact_error::ArtifactError;
pub(crate) use blob_reader::BlobReader;
pub(crate) use blob_sources::BlobSources;
#[cfg(test)]
pub(crate) use blob_sources::NoSources;
use rate_limiter::RateLimiter;

/// The store of model files on this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ArtifactStore {
    dir: PathBuf,
    sources: Arc<dyn BlobSources>,
    rate_limiter: Option<Arc<RateLimiter>>,
}

impl ArtifactStore {
    /// Creates a store below `dir` that fetches from `sources`, with at most `rate` bytes per second over
    /// all fetches. `None`: no limit.
    pub(crate) fn new(dir: PathBuf, sources: Arc<dyn BlobSources>, rate: Option<Bytes>) -> Self {
        Self {
            dir,
            sources,
            rate_limiter: rate.map(|rate| Arc::new(RateLimiter::new(rate))),
        }
    }

    /// Returns the path to load a model from: its GGUF file if it has one, else its folder. `None`
    /// unless all files are on the node.
    pub(crate) fn find(&self, manifest: &Manifest) -> Option<PathBuf> {
        let folder = self.model_dir(manifest);
        if !folder.is_dir() {
            return None;
        }
        let mut files = manifest.files.iter();
        let gguf = files.find(|file| file.path.ends_with(".gguf"));
        Some(gguf.map_or_else(|| folder.clone(), |file| folder.join(&file.path)))
    }

    /// Fetches the missing files of a model and creates its folder. `progress` receives the fetched
    /// fraction, 0 to 1.
    pub(crate) async fn fetch(
        &self,
        manifest: &Manifest,
        progress: impl Fn(f32),
    ) -> Result<(), ArtifactError> {
        let total = manifest.size().0.max(1) as f64;
        let mut complete = 0;
        progress(0.0);
        for file in &manifest.files {
            let file_progress = |bytes: u64| progress(((complete + bytes) as f64 / total) as f32);
            fetch::fetch_file(self, file, file_progress).await?;
            complete += file.size.0;
        }
        let (store, manifest) = (self.clone(), manifest.clone());
        let created = tokio::task::spawn_blocking(move || store.create_model_dir(&manifest)).await;
        let error = match created {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(ArtifactError::Io("models".into(), error))
    }

    /// Removes all files and folders that no model of `needed` uses.
    pub(crate) fn remove_unused(&self, needed: &[Manifest]) -> io::Result<()> {
        let folders: HashSet<String> = needed.iter().map(|m| m.digest().to_string()).collect();
        let files = needed.iter().flat_map(|manifest| &manifest.files);
        let files: HashSet<String> = files.map(|file| file.sha256.to_string()).collect();
        for (dir, needed_names) in [
            ("models", &folders),
            ("blobs", &files),
            ("incoming", &files),
        ] {
            let entries = match fs::read_dir(self.dir.join(dir)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let is_needed = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| needed_names.contains(name));
                if is_needed {
                    continue;
                }
                tracing::info!(path = %entry.path().display(), "removing a model file that no model needs");
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn model_dir(&self, manifest: &Manifest) -> PathBuf {
        self.dir.join("models").join(manifest.digest().to_string())
    }

    fn blob_path(&self, sha256: Sha256Digest) -> PathBuf {
        self.dir.join("blobs").join(sha256.to_string())
    }

    fn partial_path(&self, sha256: Sha256Digest) -> PathBuf {
        self.dir.join("incoming").join(sha256.to_string())
    }

    /// Creates the folder of a model with hard links to its blobs. The folder gets its name last, so
    /// that it exists only when complete.
    fn create_model_dir(&self, manifest: &Manifest) -> io::Result<()> {
        let folder = self.model_dir(manifest);
        if folder.is_dir() {
            return Ok(());
        }
        let new = folder.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        for file in &manifest.files {
            let path = new.join(&file.path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs::hard_link(self.blob_path(file.sha256), path)?;
        }
        fs::rename(new, folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::artifact::ArtifactFile;

    fn manifest(files: &[(&str, u8)]) -> Manifest {
        let file = |(path, byte): &(&str, u8)| ArtifactFile {
            path: (*path).into(),
            size: Bytes(1),
            sha256: Sha256Digest([*byte; 32]),
        };
        Manifest::new(files.iter().map(file).collect()).unwrap()
    }

    fn store_with_blobs(bytes: &[u8]) -> (tempfile::TempDir, ArtifactStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::new(dir.path().to_owned(), Arc::new(NoSources::default()), None);
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        for byte in bytes {
            fs::write(store.blob_path(Sha256Digest([*byte; 32])), [*byte]).unwrap();
        }
        (dir, store)
    }

    #[tokio::test]
    async fn a_model_folder_exists_when_complete_and_models_share_equal_files() {
        let (dir, store) = store_with_blobs(&[1, 2, 3]);
        let first = manifest(&[("config.json", 1), ("sub/model.safetensors", 2)]);
        let second = manifest(&[("tokenizer.json", 1), ("m.gguf", 3)]);
        assert_eq!(store.find(&first), None);
        store.fetch(&first, |_| {}).await.unwrap();
        store.fetch(&second, |_| {}).await.unwrap();
        let folder = store.find(&first).unwrap();
        assert_eq!(fs::read(folder.join("sub/model.safetensors")).unwrap(), [2]);
        assert!(store.find(&second).unwrap().ends_with("m.gguf"));
        store.remove_unused(std::slice::from_ref(&second)).unwrap();
        assert_eq!(store.find(&first), None);
        assert!(store.find(&second).is_some());
        let blobs = fs::read_dir(dir.path().join("blobs")).unwrap().count();
        assert_eq!(blobs, 2, "the shared file and the second model's own");
    }
}
