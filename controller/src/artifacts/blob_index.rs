//! What is known of the stored files without asking the disk.

use std::collections::{HashMap, HashSet};
use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::spec::Sha256Digest;
use parking_lot::RwLock;

/// The stored files, by their digests.
#[derive(Debug, Default)]
pub(super) struct BlobIndex {
    files: RwLock<HashMap<Sha256Digest, IndexEntry>>,
    /// Counts the changes.
    generation: AtomicU64,
}

/// A stored file.
#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    /// Size in bytes.
    size: u64,
    /// When its content was last compared with its digest. `None`: not since this process runs.
    verified: Option<Instant>,
}

impl BlobIndex {
    /// Returns a number that differs after every change.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the size of a file in bytes. `None` when it is not stored.
    pub(super) fn size(&self, sha256: Sha256Digest) -> Option<u64> {
        self.files.read().get(&sha256).map(|entry| entry.size)
    }

    /// Returns the sizes of the files, in bytes.
    pub(super) fn sizes(&self) -> HashSet<u64> {
        self.files.read().values().map(|entry| entry.size).collect()
    }

    /// Returns whether a file's content was compared with its digest within `age`, when it had this
    /// size.
    pub(super) fn is_verified(&self, sha256: Sha256Digest, size: u64, age: Duration) -> bool {
        self.files.read().get(&sha256).is_some_and(|entry| {
            let recently = |verified: Instant| verified.elapsed() < age;
            entry.size == size && entry.verified.is_some_and(recently)
        })
    }

    /// Returns a file that was not verified within `age`, if there is one.
    pub(super) fn next_unverified(&self, age: Duration) -> Option<Sha256Digest> {
        let files = self.files.read();
        let mut unverified = files.iter().filter(|(_, entry)| {
            entry
                .verified
                .is_none_or(|verified| verified.elapsed() >= age)
        });
        unverified.next().map(|(sha256, _)| *sha256)
    }

    /// Adds a file whose content has its digest.
    pub(super) fn insert_verified(&self, sha256: Sha256Digest, size: u64) {
        let verified = Some(Instant::now());
        self.files
            .write()
            .insert(sha256, IndexEntry { size, verified });
        self.changed();
    }

    /// Removes a file.
    pub(super) fn remove(&self, sha256: Sha256Digest) {
        if self.files.write().remove(&sha256).is_some() {
            self.changed();
        }
    }

    /// Brings the index up to date with the files that are really there. `size_now` is asked about
    /// those that the scan found otherwise than the index has them: they may have been stored while it
    /// ran. Returns whether the index has changed.
    pub(super) fn apply_scan(
        &self,
        mut scan: HashMap<Sha256Digest, u64>,
        size_now: impl Fn(Sha256Digest) -> Option<u64>,
    ) -> bool {
        let mut files = self.files.write();
        let mut changed = false;
        files.retain(|sha256, entry| {
            if scan.remove(sha256) == Some(entry.size) {
                return true;
            }
            let size = size_now(*sha256);
            if size == Some(entry.size) {
                return true;
            }
            changed = true;
            entry.size = size.unwrap_or_default();
            entry.verified = None;
            size.is_some()
        });
        changed |= !scan.is_empty();
        let new = scan.into_iter().map(|(sha256, size)| {
            let verified = None;
            (sha256, IndexEntry { size, verified })
        });
        files.extend(new);
        drop(files);
        if changed {
            self.changed();
        }
        changed
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// Lists what is in the folders of a store: its files, and what is left of others. Blocks the thread.
///
/// # Errors
/// Those of the disk.
pub(super) fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    let folders = match std::fs::read_dir(dir) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?;
        if folder.file_type()?.is_dir() {
            for entry in std::fs::read_dir(folder.path())? {
                entries.push(entry?);
            }
        }
    }
    Ok(entries)
}

/// Lists the stored files with their sizes. Blocks the thread.
///
/// # Errors
/// Those of the disk.
pub(super) fn scan(dir: &Path) -> io::Result<HashMap<Sha256Digest, u64>> {
    let files = entries(dir)?.into_iter().filter_map(|entry| {
        let sha256 = entry.file_name().to_str()?.parse().ok()?;
        // A file that was removed in the meantime is none.
        Some((sha256, entry.metadata().ok()?.len()))
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_removes_files_that_are_gone_and_keeps_those_stored_meanwhile() {
        let digest = |byte| Sha256Digest([byte; 32]);
        let index = BlobIndex::default();
        let both = [(digest(1), 5), (digest(2), 6)];
        assert!(index.apply_scan(both.into(), |_| None));
        let generation = index.generation();
        assert!(!index.apply_scan(both.into(), |_| None));
        assert_eq!(index.generation(), generation);
        index.insert_verified(digest(3), 7);
        // The first was removed and the second truncated; the third was stored during the scan.
        let now = |sha256: Sha256Digest| [None, None, Some(4), Some(7)][usize::from(sha256.0[0])];
        assert!(index.apply_scan([(digest(2), 4)].into(), now));
        let sizes = [1, 2, 3].map(|byte| index.size(digest(byte)));
        assert_eq!(sizes, [None, Some(4), Some(7)]);
        let hour = Duration::from_secs(3_600);
        assert!(index.is_verified(digest(3), 7, hour));
        assert!(!index.is_verified(digest(2), 4, hour));
        assert_eq!(index.next_unverified(hour), Some(digest(2)));
    }
}
