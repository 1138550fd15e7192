//! The lock of a data directory, which one process uses at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::{create_dir_all, is_full};

/// The file in the directory that is locked.
const LOCK_FILE: &str = "lock";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// The directory or a file in it cannot be created, read or written.
    #[error(
        "the data directory {path} cannot be used: {error}; give this user the right to write there, or use another --data-dir"
    )]
    Unusable {
        /// The data directory.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// Another process has locked the directory.
    #[error(
        "the data directory {0} is in use by another process: stop it, or use another --data-dir"
    )]
    InUse(PathBuf),
}

/// The lock of a data directory, held until it is dropped. Two processes in one directory would replace
/// each other's state and delete each other's files.
#[derive(Debug)]
pub struct DirLock {
    /// `None` where the disk had no room for the lock.
    _file: Option<File>,
}

impl DirLock {
    /// Creates the directory if it does not exist, and locks it. Without room on the disk for the lock the
    /// directory is used without it: a process must be able to start on a full disk.
    ///
    /// # Errors
    /// [`DirError`].
    pub fn acquire(dir: &Path) -> Result<Self, DirError> {
        let unusable = |error| DirError::Unusable {
            path: dir.to_owned(),
            error,
        };
        let file = match create_dir_all(dir).and_then(|()| open(&dir.join(LOCK_FILE))) {
            Ok(file) => file,
            Err(error) if is_full(&error) => {
                tracing::warn!(path = %dir.display(), %error, "the data directory is used without a lock");
                return Ok(Self { _file: None });
            }
            Err(error) => return Err(unusable(error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(DirError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_belongs_to_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/controller");
        let held = DirLock::acquire(&path).unwrap();
        let error = DirLock::acquire(&path).unwrap_err();
        assert!(matches!(&error, DirError::InUse(used) if *used == path));
        assert!(
            error.to_string().contains("is in use by another process"),
            "{error}"
        );
        drop(held);
        assert!(DirLock::acquire(&path).unwrap()._file.is_some());
    }

    #[test]
    fn a_data_directory_that_cannot_be_created_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = DirLock::acquire(&path).unwrap_err().to_string();
        assert!(error.contains("file cannot be used"), "{error}");
    }
}
