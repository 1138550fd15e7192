//! The space of a disk, and its lack.

use std::io;
use std::path::Path;

use flotilla_core::disk::DiskSpace;

/// The space of the file system at `path`. `None` if it cannot be read. Blocks the thread.
#[must_use]
pub fn space_at(path: &Path) -> Option<DiskSpace> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(DiskSpace {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Whether an error says that the disk is full, or the user's quota used up.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_this_machine_is_known() {
        assert!(space_at(Path::new("/")).unwrap().total > 0);
        assert_eq!(space_at(Path::new("/no/such/place")), None);
    }
}
