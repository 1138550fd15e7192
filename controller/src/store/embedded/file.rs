//! The file of the embedded store: creating it once, opening it, and noticing that it is gone.
//!
//! A file that disappears must not be replaced by an empty one: an empty store is another fleet. A new
//! file is therefore created only where nothing shows that there was a fleet, or when an operator asks
//! for it. While the store is open, its path is compared with the file that was opened: a process goes on
//! writing to a file that was deleted without noticing.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flotilla_durable::{create_dir_all, is_full, sync_dir};
use parking_lot::Mutex;
use redb::{Database, DatabaseError, StorageError};
use tempfile::NamedTempFile;

use super::tables;
use crate::store::{FileLoss, StoreCreation, StoreError};
use crate::{artifacts, kept_state};

/// The name of the file in the data directory.
const FILE: &str = "store.redb";

/// The file of a store.
pub(super) struct StoreFile {
    path: PathBuf,
    /// The file that was opened first. Another one at its path is not this store.
    id: Mutex<Option<FileId>>,
}

/// Identifies a file of this machine, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl StoreFile {
    /// Returns the file in the directory `dir`, which is created with an empty store if neither it nor the
    /// fleet's other files are there.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if only other files of the fleet are there; those of the disk.
    pub(super) fn create_if_new(dir: &Path, creation: &StoreCreation) -> Result<Self, StoreError> {
        create_dir_all(dir).map_err(|error| directory_error(dir, &error))?;
        let path = dir.join(FILE);
        let exists = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len() > 0,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(directory_error(dir, &error)),
        };
        if !exists {
            if !creation.forced {
                refuse_if_lost(&path, dir, creation)?;
            }
            create(&path, dir)?;
        }
        Ok(Self {
            path,
            id: Mutex::new(None),
        })
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file.
    ///
    /// # Errors
    /// [`StoreError::FileLost`] if another file is there than the one that was opened before.
    pub(super) fn open(&self) -> Result<Database, StoreError> {
        self.check()?;
        let database = open_database(&self.path)?;
        let mut id = self.id.lock();
        if id.is_none() {
            *id = self.id_at_path().map(|(id, _)| id).ok();
        }
        Ok(database)
    }

    /// Checks that the file that was opened is still there.
    ///
    /// # Errors
    /// [`StoreError::FileLost`].
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let Some(opened) = *self.id.lock() else {
            return Ok(());
        };
        let loss = match self.id_at_path() {
            Ok((id, _)) if id != opened => FileLoss::Replaced,
            Ok((_, 0)) => FileLoss::Emptied,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => FileLoss::Removed,
            Err(error) => return Err(directory_error(self.dir(), &error)),
        };
        Err(StoreError::FileLost {
            path: self.path.clone(),
            loss,
        })
    }

    /// The file that is at the path now, and its size.
    fn id_at_path(&self) -> io::Result<(FileId, u64)> {
        let metadata = std::fs::metadata(&self.path)?;
        let id = FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok((id, metadata.len()))
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Fails if other files show that there was a store.
fn refuse_if_lost(path: &Path, dir: &Path, creation: &StoreCreation) -> Result<(), StoreError> {
    let dirs = creation.data_dirs.iter().map(AsRef::as_ref);
    for dir in std::iter::once(dir).chain(dirs) {
        let found = fleet_file(dir).map_err(|error| directory_error(dir, &error))?;
        if let Some(found) = found {
            return Err(StoreError::Missing {
                path: path.to_owned(),
                found,
            });
        }
    }
    Ok(())
}

/// Returns a file that a controller of a fleet has left in a directory, if there is one.
fn fleet_file(dir: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let is_left = if name == artifacts::BLOBS_DIR {
            std::fs::read_dir(&path).is_ok_and(|mut blobs| blobs.next().is_some())
        } else {
            kept_state::is_kept_state(name)
        };
        if is_left {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Creates an empty store. It is there as a whole or not at all.
fn create(path: &Path, dir: &Path) -> Result<(), StoreError> {
    let failed = |error: &io::Error| directory_error(dir, error);
    let new = NamedTempFile::new_in(dir).map_err(|error| failed(&error))?;
    drop(open_database_with(new.path(), |path| {
        Database::create(path)
    })?);
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
        std::fs::remove_file(path).map_err(|error| failed(&error))?;
    }
    match new.into_temp_path().persist_noclobber(path) {
        Ok(()) => {}
        // Another process was faster; opening it says that it is in use.
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(&error.error)),
    }
    // Without this, the file itself could be gone after a power cut.
    sync_dir(dir).map_err(|error| failed(&error))
}

/// Opens a file that exists.
fn open_database(path: &Path) -> Result<Database, StoreError> {
    open_database_with(path, |path| Database::open(path))
}

fn open_database_with(
    path: &Path,
    open: impl FnOnce(&Path) -> Result<Database, DatabaseError>,
) -> Result<Database, StoreError> {
    let damaged = |error: redb::Error| match tables::failed(error) {
        StoreError::DiskFull(_) => StoreError::DiskFull(path.to_owned()),
        other => StoreError::Damaged {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    };
    let database = open(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != ErrorKind::InvalidData && !is_full(&error) =>
        {
            directory_error(path.parent().unwrap_or(path), &error)
        }
        other => damaged(other.into()),
    })?;
    // With all tables there, reads never meet a missing one. Nothing is written if they are: there
    // may be no room.
    if !tables::exist(&database).map_err(damaged)? {
        tables::create(&database).map_err(damaged)?;
    }
    Ok(database)
}

fn directory_error(dir: &Path, error: &io::Error) -> StoreError {
    if is_full(error) {
        return StoreError::DiskFull(dir.to_owned());
    }
    StoreError::Directory {
        path: dir.to_owned(),
        reason: error.to_string(),
    }
}
