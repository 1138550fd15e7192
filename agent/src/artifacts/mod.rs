//! The files of models on this node: fetched from controllers over the links, checked, shared
//! between models that have equal ones, and collected once nothing needs them.
//!
//! ```text
//! blobs/<sha256>              a file, whole and checked
//! incoming/<sha256>           the beginning of a file: fetching goes on where it ends
//! models/<digest>/<path>      a model's folder: links to blobs; there only when complete
//! ```

mod fetch;
mod rate_limiter;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::Bytes;
use flotilla_core::artifact::Manifest;

use crate::link::LinkedControllers;
use flotilla_engine::LoadProgress;
use rate_limiter::RateLimiter;

/// Why files are not on this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArtifactError {
    #[error("no controller has the file '{0}' any more")]
    Vanished(String),
    #[error("the file '{0}' came with another SHA-256 than it should have")]
    Digest(String),
    #[error("the node's disk is full: '{0}' needs {1} more")]
    DiskFull(String, Bytes),
    #[error("the file '{0}' could not be kept: {1}")]
    Disk(String, String),
}

impl ArtifactError {
    /// What to do about it.
    #[must_use]
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Vanished(_) => "push the model again, or check the controllers' --data-dir",
            Self::Digest(_) => "check the disks and the memory of the controller and of the node",
            Self::DiskFull(..) => "free space below the agent's --data-dir, or choose another node",
            Self::Disk(..) => "check the disk below the agent's --data-dir",
        }
    }
}

/// The files of models on this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ArtifactStore {
    dir: PathBuf,
    peers: Arc<LinkedControllers>,
    throttle: Option<Arc<RateLimiter>>,
}

impl ArtifactStore {
    /// Files below `dir`, fetched from `peers` with at most `rate` bytes per second.
    pub(crate) fn new(dir: PathBuf, peers: Arc<LinkedControllers>, rate: Option<Bytes>) -> Self {
        Self {
            dir,
            peers,
            throttle: rate.map(|rate| Arc::new(RateLimiter::new(rate))),
        }
    }

    /// Where a model of these files is, if all are there: its folder, or its GGUF file.
    pub(crate) fn find(&self, files: &Manifest) -> Option<PathBuf> {
        let folder = self.folder(files);
        if !folder.is_dir() {
            return None;
        }
        let gguf = files.files.iter().find(|file| file.path.ends_with(".gguf"));
        Some(gguf.map_or_else(|| folder.clone(), |file| folder.join(&file.path)))
    }

    /// Fetches the files that are not there and puts the model's folder together.
    pub(crate) async fn fetch(
        &self,
        files: &Manifest,
        progress: LoadProgress,
    ) -> Result<(), ArtifactError> {
        let total = files.size().0.max(1) as f64;
        let mut before = 0;
        progress("fetching", 0.0);
        for file in &files.files {
            let part = |done: u64| progress("fetching", ((before + done) as f64 / total) as f32);
            fetch::file(self, file, part).await?;
            before += file.size.0;
        }
        let (this, files) = (self.clone(), files.clone());
        let assembled = tokio::task::spawn_blocking(move || this.assemble(&files)).await;
        let problem = match assembled {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(ArtifactError::Disk("models".into(), problem))
    }

    /// Removes what is not needed for these any more.
    pub(crate) fn collect(&self, needed: &[Manifest]) -> io::Result<()> {
        let folders: HashSet<String> = needed.iter().map(|m| m.digest().to_string()).collect();
        let files = needed.iter().flat_map(|manifest| &manifest.files);
        let files: HashSet<String> = files.map(|file| file.sha256.to_string()).collect();
        for (dir, keep) in [
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
                let kept = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| keep.contains(name));
                if kept {
                    continue;
                }
                tracing::info!(path = %entry.path().display(), "nothing needs it any more");
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn folder(&self, files: &Manifest) -> PathBuf {
        self.dir.join("models").join(files.digest().to_string())
    }

    fn blob(&self, sha256: flotilla_core::spec::Sha256Digest) -> PathBuf {
        self.dir.join("blobs").join(sha256.to_string())
    }

    fn incoming(&self, sha256: flotilla_core::spec::Sha256Digest) -> PathBuf {
        self.dir.join("incoming").join(sha256.to_string())
    }

    /// Links the files into a folder, which is there only once it is complete.
    fn assemble(&self, files: &Manifest) -> io::Result<()> {
        let folder = self.folder(files);
        if folder.is_dir() {
            return Ok(());
        }
        let new = folder.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        for file in &files.files {
            let path = new.join(&file.path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs::hard_link(self.blob(file.sha256), path)?;
        }
        fs::rename(new, folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::artifact::ArtifactFile;
    use flotilla_core::spec::Sha256Digest;

    fn manifest(files: &[(&str, u8)]) -> Manifest {
        let file = |(path, byte): &(&str, u8)| ArtifactFile {
            path: (*path).into(),
            size: Bytes(1),
            sha256: Sha256Digest([*byte; 32]),
        };
        Manifest::new(files.iter().map(file).collect()).unwrap()
    }

    fn with_blobs(bytes: &[u8]) -> (tempfile::TempDir, ArtifactStore) {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = ArtifactStore::new(dir.path().to_owned(), Arc::default(), None);
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        for byte in bytes {
            fs::write(artifacts.blob(Sha256Digest([*byte; 32])), [*byte]).unwrap();
        }
        (dir, artifacts)
    }

    #[tokio::test]
    async fn a_folder_is_there_when_complete_and_models_share_equal_files() {
        let (dir, artifacts) = with_blobs(&[1, 2, 3]);
        let one = manifest(&[("config.json", 1), ("sub/model.safetensors", 2)]);
        let other = manifest(&[("tokenizer.json", 1), ("m.gguf", 3)]);
        assert_eq!(artifacts.find(&one), None);
        let progress: LoadProgress = Arc::new(|_, _| {});
        artifacts.fetch(&one, progress.clone()).await.unwrap();
        artifacts.fetch(&other, progress).await.unwrap();
        let folder = artifacts.find(&one).unwrap();
        assert_eq!(fs::read(folder.join("sub/model.safetensors")).unwrap(), [2]);
        assert!(artifacts.find(&other).unwrap().ends_with("m.gguf"));
        artifacts.collect(std::slice::from_ref(&other)).unwrap();
        assert_eq!(artifacts.find(&one), None);
        assert!(artifacts.find(&other).is_some());
        let left = fs::read_dir(dir.path().join("blobs")).unwrap().count();
        assert_eq!(left, 2, "the shared one and its own");
    }
}
