//! The files of models: taken in from where they come from, kept under their digests, handed
//! to agents and other controllers.
//!
//! What a model is made of is a [`Manifest`](flotilla_core::artifact::Manifest) in the store,
//! so that all controllers agree; the files themselves are on disks. The leader fetches, the
//! other controllers copy from it, and agents take a file from whichever controller has it.

mod blobs;
mod fetch;
mod keeper;

use std::io;
use std::path::{Path, PathBuf};

pub use blobs::{BlobError, BlobStore};
pub(crate) use keeper::ArtifactReplicator;

/// The files below a path, with their names relative to it; a file alone by its own name.
/// Hidden ones are left out.
///
/// # Errors
/// Those of the disk.
pub fn walk(root: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if std::fs::metadata(root)?.is_file() {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        return Ok(vec![(name.into_owned(), root.to_owned())]);
    }
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), root.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{name}");
            // Links are followed: Hugging Face's cache is made of them.
            if std::fs::metadata(entry.path())?.is_dir() {
                folders.push((format!("{name}/"), entry.path()));
            } else {
                files.push((name, entry.path()));
            }
        }
    }
    files.sort();
    Ok(files)
}
