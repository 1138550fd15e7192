//! Lists the files of a folder.

use std::io;
use std::path::{Path, PathBuf};

/// Most files and folders in a folder: more than a manifest can list.
const MAX_FILES: usize = 50_000;
/// Deepest folder below the first one.
const MAX_DEPTH: usize = 32;

/// Why the files of a folder cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The disk refuses.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A pipe, a socket or a device.
    #[error("{0} is neither a file nor a folder (but a pipe, a socket or a device): remove it")]
    NotAFile(PathBuf),
    /// A name that a manifest cannot hold.
    #[error("the name of {0:?} is not UTF-8: rename it")]
    NotUtf8(PathBuf),
    /// A link to something else of the machine.
    #[error(
        "{path} is a link to {target}, which is outside of the folder: copy the file into the folder, \
         or remove the link"
    )]
    LeadsOut {
        /// The link.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// A folder that contains itself through a link, or is nested too deeply.
    #[error("{0} is nested too deeply, perhaps because a link leads back to a folder above it")]
    TooDeep(PathBuf),
    /// Too many files.
    #[error(
        "the folder has more than {MAX_FILES} files: leave out those that the model does not need"
    )]
    TooMany,
}

impl WalkError {
    /// The kind of the error of the disk, if it is one.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { error, .. } => Some(error.kind()),
            _ => None,
        }
    }
}

/// The files below `root`, each with its path relative to `root`, sorted. When `root` is a file, that
/// file with its own name. Hidden files and folders are left out. Links are followed as far as they stay
/// in the folder, or in the cache of Hugging Face's tools that the folder is part of.
///
/// # Errors
/// [`WalkError`].
pub fn walk(root: &Path) -> Result<Vec<(String, PathBuf)>, WalkError> {
    let metadata = std::fs::metadata(root).map_err(|error| io_error(root, error))?;
    if !metadata.is_dir() {
        if !metadata.is_file() {
            return Err(WalkError::NotAFile(root.to_owned()));
        }
        let name = root.file_name().unwrap_or_default().to_str();
        let name = name.ok_or_else(|| WalkError::NotUtf8(root.to_owned()))?;
        return Ok(vec![(name.to_owned(), root.to_owned())]);
    }
    let allowed = allowed_folders(root)?;
    let (mut files, mut seen) = (Vec::new(), 0);
    let mut folders = vec![(String::new(), root.to_owned(), 0)];
    while let Some((prefix, folder, depth)) = folders.pop() {
        if depth > MAX_DEPTH {
            return Err(WalkError::TooDeep(folder));
        }
        let entries = std::fs::read_dir(&folder).map_err(|error| io_error(&folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| io_error(&folder, error))?.path();
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let name = name
                .to_str()
                .ok_or_else(|| WalkError::NotUtf8(path.clone()))?;
            let name = format!("{prefix}{name}");
            check_link(&path, &allowed)?;
            let metadata = std::fs::metadata(&path).map_err(|error| io_error(&path, error))?;
            if metadata.is_dir() {
                folders.push((format!("{name}/"), path, depth + 1));
            } else if metadata.is_file() {
                files.push((name, path));
            } else {
                return Err(WalkError::NotAFile(path));
            }
            seen += 1;
            if seen > MAX_FILES {
                return Err(WalkError::TooMany);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The folders that links may lead into: the folder itself, and the blobs of the cache of Hugging Face's
/// tools, whose folders `snapshots/REVISION` consist of links to `../../blobs`.
fn allowed_folders(root: &Path) -> Result<Vec<PathBuf>, WalkError> {
    let root = std::fs::canonicalize(root).map_err(|error| io_error(root, error))?;
    let snapshots = root
        .ancestors()
        .find(|folder| folder.ends_with("snapshots"));
    let blobs = snapshots.and_then(|snapshots| Some(snapshots.parent()?.join("blobs")));
    Ok([root].into_iter().chain(blobs).collect())
}

/// Refuses a link that leads out of the allowed folders.
fn check_link(path: &Path, allowed: &[PathBuf]) -> Result<(), WalkError> {
    let metadata = std::fs::symlink_metadata(path).map_err(|error| io_error(path, error))?;
    if !metadata.is_symlink() {
        return Ok(());
    }
    let target = std::fs::canonicalize(path).map_err(|error| io_error(path, error))?;
    if allowed.iter().any(|folder| target.starts_with(folder)) {
        return Ok(());
    }
    Err(WalkError::LeadsOut {
        path: path.to_owned(),
        target,
    })
}

fn io_error(path: &Path, error: io::Error) -> WalkError {
    WalkError::Io {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    /// A folder `model` with one file, in a temporary folder of its own.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("sub/a"), "a").unwrap();
        (dir, folder)
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = walk(folder).unwrap();
        files.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn links_are_followed_within_the_folder_and_in_a_hugging_face_cache_only() {
        let (dir, folder) = folder();
        std::fs::write(folder.join(".hidden"), "h").unwrap();
        symlink("sub/a", folder.join("b")).unwrap();
        assert_eq!(names(&folder), ["b", "sub/a"]);
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        symlink("../secret", folder.join("c")).unwrap();
        let error = walk(&folder).unwrap_err();
        assert!(matches!(&error, WalkError::LeadsOut { path, .. } if path.ends_with("c")));
        assert!(error.to_string().contains("secret"), "{error}");
        let snapshot = dir.path().join("models--x/snapshots/1");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(dir.path().join("models--x/blobs")).unwrap();
        std::fs::write(dir.path().join("models--x/blobs/1"), "w").unwrap();
        symlink("../../blobs/1", snapshot.join("model.safetensors")).unwrap();
        assert_eq!(names(&snapshot), ["model.safetensors"]);
    }

    #[test]
    fn pipes_names_that_are_not_utf8_and_circles_are_refused_by_name() {
        let (_dir, folder) = folder();
        let socket = folder.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(walk(&folder), Err(WalkError::NotAFile(path)) if path == socket));
        std::fs::remove_file(&socket).unwrap();
        let name = std::ffi::OsStr::from_bytes(b"weights-\xff");
        std::fs::write(folder.join(name), "w").unwrap();
        let error = walk(&folder).unwrap_err().to_string();
        assert!(error.contains("weights-\\xFF"), "{error}");
        std::fs::remove_file(folder.join(name)).unwrap();
        symlink("..", folder.join("sub/up")).unwrap();
        assert!(matches!(walk(&folder), Err(WalkError::TooDeep(_))));
    }
}
