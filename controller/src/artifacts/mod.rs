//! Model files on the controllers: fetched or uploaded once, stored under their digests, and served
//! to agents and other controllers.
//!
//! A [`Manifest`](flotilla_core::artifact::Manifest) in the store lists the files of a model, so that
//! all controllers agree on them; the files themselves are on the controllers' disks. The leader
//! fetches (`fetch.rs`), the other controllers copy (`replicator.rs`), and an agent reads a file from
//! any controller that has it.

mod blobs;
mod fetch;
mod replicator;

use std::io;
use std::path::{Path, PathBuf};

pub use blobs::{BlobError, BlobStore};
pub(crate) use replicator::ArtifactReplicator;

/// The files below `root`, each with its path relative to `root`, sorted. When `root` is a file, that
/// file with its own name. Hidden files and folders are left out.
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
            // Follows links, which Hugging Face's cache consists of.
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
