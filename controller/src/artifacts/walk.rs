//! Lists the files of a folder.

use std::io;
use std::path::{Path, PathBuf};

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
