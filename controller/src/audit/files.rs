//! The files of the audit log, which are bounded in bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flotilla_identity::audit::{self, AuditRecord};

/// The file of changes in the data directory.
const CHANGES: &str = "audit.jsonl";
/// The file of refusals. They have a file of their own, so that a flood of them pushes no change out.
const REFUSALS: &str = "audit-refusals.jsonl";
/// The size from which on a file is put aside and another one begun, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The most bytes that are read of a file, which may have grown by a last batch of records.
const MAX_READ: u64 = 2 * MAX_BYTES;

/// The files of the audit log: one of changes and one of refusals, each with one that was put aside before.
#[derive(Debug, Clone)]
pub(crate) struct AuditFiles {
    changes: PathBuf,
    refusals: PathBuf,
    max_bytes: u64,
}

impl AuditFiles {
    /// The files in `data_dir`.
    pub(crate) fn in_dir(data_dir: &Path) -> Self {
        Self {
            changes: data_dir.join(CHANGES),
            refusals: data_dir.join(REFUSALS),
            max_bytes: MAX_BYTES,
        }
    }

    /// Appends records. Blocks.
    ///
    /// # Errors
    /// Those of the disk; some of the records may have been written.
    pub(super) fn append(&self, records: &[AuditRecord]) -> io::Result<()> {
        for (path, refusals) in [(&self.changes, false), (&self.refusals, true)] {
            let of_file = records.iter().filter(|r| r.is_refusal() == refusals);
            let lines: Vec<u8> = of_file.flat_map(AuditRecord::line).collect();
            if !lines.is_empty() {
                self.append_to(path, &lines)?;
            }
        }
        Ok(())
    }

    fn append_to(&self, path: &Path, lines: &[u8]) -> io::Result<()> {
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        if size >= self.max_bytes {
            std::fs::rename(path, put_aside(path))?;
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path);
        file?.write_all(lines)
    }

    /// Reads the newest `limit` records from `since` on, in milliseconds since 1970. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn read(&self, since: u64, limit: usize) -> io::Result<Vec<AuditRecord>> {
        let mut parts = Vec::new();
        for path in [&self.changes, &self.refusals] {
            for path in [put_aside(path), path.clone()] {
                parts.push(audit::read(&content(&path)?, since));
            }
        }
        Ok(audit::merge(parts, limit))
    }
}

/// The name under which a file is put aside.
fn put_aside(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

/// Reads a file; a missing one is empty.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(MAX_READ).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn record(at: u64, status: u16) -> AuditRecord {
        AuditRecord {
            at,
            controller: "c".into(),
            principal: "open".into(),
            address: String::new(),
            action: "PUT /api/v1/models/m".into(),
            object: String::new(),
            status,
            before: None,
            after: None,
            lost_before: 0,
        }
    }

    #[test]
    fn files_are_bounded_and_refusals_push_no_change_out() {
        let dir = tempfile::tempdir().unwrap();
        let files = AuditFiles {
            max_bytes: 1_000,
            ..AuditFiles::in_dir(dir.path())
        };
        files.append(&[record(1, 200)]).unwrap();
        for at in 2..200 {
            files.append(&[record(at, 403)]).unwrap();
        }
        let names = std::fs::read_dir(dir.path()).unwrap();
        let sizes = names.map(|entry| entry.unwrap().metadata().unwrap().len());
        let sizes: Vec<_> = sizes.collect();
        assert!(
            sizes.len() == 3 && sizes.iter().sum::<u64>() < 3_000,
            "{sizes:?}"
        );
        let read = files.read(0, usize::MAX).unwrap();
        assert_eq!((read[0].at, read.last().unwrap().at), (1, 199));
        assert_eq!(files.read(0, 2).unwrap().len(), 2);
        assert!(files.read(500, 9).unwrap().is_empty());
        let mode = std::fs::metadata(&files.changes)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
