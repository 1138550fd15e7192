//! Files that survive a power cut: written beside their place, flushed, renamed, and the folder flushed.
//! And what is checked before files are used: whether the disk has space, whether another process uses the folder,
//! and whether a path stays inside one.

mod confined_path;
mod dir_lock;
mod space;
mod stored_record;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempPath;

pub use confined_path::is_below;
pub use dir_lock::{DirError, DirLock};
pub use space::{is_full, space_at};
pub use stored_record::StoredRecord;

/// Replaces the file at `path` by one with this content. After a power cut the file has the old or the
/// new content, and the new one once this returns.
///
/// # Errors
/// Those of the disk; the old file is untouched then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(&tempfile::Builder::new(), path, content)
}

/// Replaces the file at `path` as [`replace`] does, with the permissions that the umask gives to new files.
/// [`replace`] lets only this user read them.
///
/// # Errors
/// Those of [`replace`].
pub fn replace_with_umask(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(std::fs::Permissions::from_mode(0o666));
    replace_with(&builder, path, content)
}

fn replace_with(
    builder: &tempfile::Builder<'_, '_>,
    path: &Path,
    content: &[u8],
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_dir_all(dir)?;
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    persist(file.into_temp_path(), path)
}

/// Moves a file whose content is on the disk to `path`, in a folder that is created if it does not
/// exist. The move survives a power cut.
///
/// # Errors
/// Those of the disk.
pub fn persist(file: TempPath, path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_dir_all(dir)?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(dir)
}

/// Creates a folder and the folders above it that do not exist. They survive a power cut.
///
/// # Errors
/// Those of the disk.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("."));
    create_dir_all(parent)?;
    match std::fs::create_dir(dir) {
        // The entry of a new folder is in its parent.
        Ok(()) => sync_dir(parent),
        // Another thread was faster.
        Err(_) if dir.is_dir() => sync_dir(parent),
        Err(error) => Err(error),
    }
}

/// Flushes the entries of a folder to the disk.
///
/// # Errors
/// Those of the disk.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_replaced_as_a_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("very/new/file");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::read_dir(dir.path().join("very/new"))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn a_file_with_the_permissions_of_the_umask_is_like_any_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let metadata = std::fs::metadata(dir.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        std::fs::write(dir.path().join("plain"), "").unwrap();
        replace_with_umask(&dir.path().join("umask"), b"").unwrap();
        replace(&dir.path().join("private"), b"").unwrap();
        assert_eq!(mode("umask"), mode("plain"));
        assert_eq!(mode("private"), 0o600);
    }
}
