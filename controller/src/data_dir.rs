//! The lock of a controller's data directory.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::run::ControllerStartError;
use crate::store::StoreError;

/// The file in the data directory that a running controller has locked.
const LOCK_FILE: &str = "lock";

/// Creates the data directory if it does not exist, and locks it until the returned file is closed. Two
/// controllers in one directory would replace each other's desired state and delete each other's files.
/// Without room on the disk for the lock the directory is used without it, and `None` is returned.
///
/// # Errors
/// [`ControllerStartError::DataDirInUse`] if another process has locked it, or [`StoreError::Directory`].
pub(crate) fn lock(dir: &Path) -> Result<Option<File>, ControllerStartError> {
    let file = flotilla_durable::create_dir_all(dir).and_then(|()| open(&dir.join(LOCK_FILE)));
    let unusable = |error: io::Error| StoreError::Directory {
        path: dir.to_owned(),
        reason: error.to_string(),
    };
    match file {
        Ok(file) => match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                Err(ControllerStartError::DataDirInUse(dir.to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(unusable(error).into()),
        },
        Err(error) if flotilla_durable::is_full(&error) => {
            tracing::warn!(path = %dir.display(), %error, "the data directory is used without a lock");
            Ok(None)
        }
        Err(error) => Err(unusable(error).into()),
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
    fn a_data_directory_belongs_to_one_controller_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/controller");
        let held = lock(&path).unwrap();
        let error = lock(&path).unwrap_err();
        assert!(
            error.to_string().contains("is in use by another process"),
            "{error}"
        );
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_data_directory_that_cannot_be_created_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = lock(&path).unwrap_err().to_string();
        assert!(error.contains("cannot be used"), "{error}");
    }
}
