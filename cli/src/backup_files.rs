//! The files of pushed artifacts in a backup: a folder beside the backup's file, with each file under its
//! digest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::client::FleetClient;

/// Maximum number of missing files that a message names.
const MAX_NAMED: usize = 10;

/// Files of artifacts that nobody has, as `artifact/path`, by digest.
#[derive(Default)]
pub(crate) struct MissingFileList(BTreeMap<Sha256Digest, String>);

impl MissingFileList {
    /// Adds the files of an artifact that are missing.
    pub(crate) fn add(&mut self, artifact: &str, manifest: &Manifest, missing: &[Sha256Digest]) {
        for file in &manifest.files {
            if missing.contains(&file.sha256) {
                let name = format!("{artifact}/{}", file.path);
                self.0.insert(file.sha256, name);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of the first files, and how many more there are.
    pub(crate) fn text(&self) -> String {
        let names = self.0.values().take(MAX_NAMED).cloned();
        let names = names.collect::<Vec<_>>().join(", ");
        match self.len().saturating_sub(MAX_NAMED) {
            0 => names,
            more => format!("{names} and {more} more"),
        }
    }
}

/// Returns the folder with the files of the backup `file`.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".files");
    file.with_file_name(name)
}

/// Downloads the files of an artifact that are not in `folder` yet. Returns those that the fleet does not
/// have.
pub(crate) async fn download(
    fleet: &FleetClient,
    manifest: &Manifest,
    folder: &Path,
) -> anyhow::Result<Vec<Sha256Digest>> {
    let mut missing = Vec::new();
    for file in &manifest.files {
        let path = folder.join(file.sha256.to_string());
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        // A file gets its name only once it is complete and verified.
        if size.is_ok_and(|size| size == file.size.0) {
            continue;
        }
        if !download_file(fleet, file.sha256, &path).await? {
            missing.push(file.sha256);
        }
    }
    Ok(missing)
}

/// Downloads a file to `path`. Returns `false` if the fleet does not have it, or only a damaged one.
async fn download_file(
    fleet: &FleetClient,
    sha256: Sha256Digest,
    path: &Path,
) -> anyhow::Result<bool> {
    let context = || format!("cannot write {}", path.display());
    let segments = ["api", "v1", "blobs", &sha256.to_string()];
    let Some(mut response) = fleet.get_if_found(&segments).await? else {
        return Ok(false);
    };
    let partial = path.with_extension("part");
    let mut file = tokio::fs::File::create(&partial)
        .await
        .with_context(context)?;
    let mut hash = Sha256::new();
    // A controller ends the response of a damaged file early.
    while let Ok(Some(chunk)) = response.chunk().await {
        hash.update(&chunk);
        file.write_all(&chunk).await.with_context(context)?;
    }
    file.sync_all().await.with_context(context)?;
    let is_complete = Sha256Digest(hash.finalize().into()) == sha256;
    if is_complete {
        std::fs::rename(&partial, path).with_context(context)?;
    } else {
        std::fs::remove_file(&partial).with_context(context)?;
    }
    Ok(is_complete)
}

/// Uploads those of the `missing` files that are in `folder`.
pub(crate) async fn upload(
    fleet: &FleetClient,
    missing: &[Sha256Digest],
    folder: &Path,
) -> anyhow::Result<()> {
    for sha256 in missing {
        let path = folder.join(sha256.to_string());
        if path.is_file() {
            let segments = ["api", "v1", "blobs", &sha256.to_string()];
            fleet
                .put_file(&segments, &path)
                .await
                .with_context(|| format!("cannot upload {}", path.display()))?;
        }
    }
    Ok(())
}
