//! The folder of a model: hard links to its blobs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flotilla_core::artifact::Manifest;

use super::ArtifactStore;

/// Creates the folder of a model, unless it is there and links to the blobs as they are now. The folder
/// gets its name last, so that it exists only when complete. Blocks.
pub(super) fn create(store: &ArtifactStore, manifest: &Manifest) -> io::Result<()> {
    let folder = store.model_dir(manifest);
    if is_current(store, manifest, &folder) {
        return Ok(());
    }
    let new = folder.with_extension("new");
    for old in [&new, &folder] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    for file in &manifest.files {
        let path = new.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::hard_link(store.blob_path(file.sha256), path)?;
    }
    fs::rename(new, &folder)?;
    flotilla_durable::sync_dir(folder.parent().unwrap_or(Path::new("/")))
}

/// Returns whether every file of the folder is the blob itself and not an earlier one.
fn is_current(store: &ArtifactStore, manifest: &Manifest, folder: &Path) -> bool {
    manifest.files.iter().all(|file| {
        let link = fs::metadata(folder.join(&file.path));
        let blob = fs::metadata(store.blob_path(file.sha256));
        link.and_then(|link| {
            Ok((link.dev(), link.ino()) == blob.map(|blob| (blob.dev(), blob.ino()))?)
        })
        .unwrap_or(false)
    })
}
