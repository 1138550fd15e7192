//! Deletes files that no model has needed for a while, or earlier where their space is needed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_core::artifact::Manifest;
use flotilla_core::retention::{UnneededEntry, UnneededTimes};
use flotilla_durable::StoredRecord;
use parking_lot::Mutex;

/// The file with the times for which files have not been needed.
const TIMES_FILE: &str = "unneeded.json";

/// The space that files of models take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    /// All files.
    pub(crate) used: u64,
    /// The files that no model of the desired state needs.
    pub(crate) unneeded: u64,
}

/// Deletes files in one directory.
pub(super) struct FileCollector {
    dir: PathBuf,
    retention: Duration,
    times: Mutex<StoredRecord<UnneededTimes>>,
}

/// What a directory holds.
#[derive(Default)]
struct Contents {
    usage: DiskUsage,
    unneeded: Vec<UnneededEntry>,
}

impl FileCollector {
    /// Creates a collector for the files below `dir` that continues with the stored times.
    pub(super) fn new(dir: &Path, retention: Duration) -> Self {
        // A file that cannot be read makes all files new ones, which are kept for longer.
        let times = StoredRecord::load(dir.join(TIMES_FILE), UnneededTimes::STORE_INTERVAL);
        Self {
            dir: dir.to_owned(),
            retention,
            times: Mutex::new(times),
        }
    }

    /// Deletes what has not been needed for the retention, and more of the unneeded files, the oldest
    /// first, until `needed_bytes` are freed, if that is possible, and `excess_bytes` in any case. Returns the
    /// space that the remaining files take, and the digests of the models whose folders were deleted. Blocks.
    pub(super) fn collect(
        &self,
        needed: &[Manifest],
        needed_bytes: u64,
        excess_bytes: u64,
    ) -> io::Result<(DiskUsage, Vec<String>)> {
        // Locked before it is listed what is there, so that two collections do not delete the same files.
        let mut times = self.times.lock();
        let Contents {
            mut usage,
            unneeded,
        } = self.list(needed)?;
        times.update(|times, elapsed| times.advance(&unneeded, elapsed));
        let expired = times
            .get()
            .expired(&unneeded, self.retention, needed_bytes, excess_bytes);
        let mut folders = Vec::new();
        for entry in expired {
            let path = self.dir.join(&entry.name);
            tracing::info!(path = %path.display(), size = entry.bytes, "deleting a file that no model needs");
            if let Some(digest) = entry.name.strip_prefix("models/") {
                gone_or_error(fs::remove_dir_all(path))?;
                folders.push(digest.to_owned());
            } else {
                gone_or_error(fs::remove_file(path))?;
                usage.used -= entry.bytes;
                usage.unneeded -= entry.bytes;
            }
        }
        times.store()?;
        Ok((usage, folders))
    }

    /// The space that the files take. Blocks.
    pub(super) fn usage(&self, needed: &[Manifest]) -> io::Result<DiskUsage> {
        Ok(self.list(needed)?.usage)
    }

    /// Lists what is there.
    fn list(&self, needed: &[Manifest]) -> io::Result<Contents> {
        let folders: HashSet<String> = needed.iter().map(|m| m.digest().to_string()).collect();
        let files = needed.iter().flat_map(|manifest| &manifest.files);
        let files: HashSet<String> = files.map(|file| file.sha256.to_string()).collect();
        let mut contents = Contents::default();
        for (dir, needed_names) in [
            ("models", &folders),
            ("blobs", &files),
            ("incoming", &files),
        ] {
            let entries = match fs::read_dir(self.dir.join(dir)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // A partial file has just become complete.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let bytes = if metadata.is_dir() { 0 } else { metadata.len() };
                contents.usage.used += bytes;
                let name = entry.file_name();
                let is_needed = name.to_str().is_some_and(|name| {
                    // The new folder of a model while it is put together.
                    needed_names.contains(name.strip_suffix(".new").unwrap_or(name))
                });
                if !is_needed && let Some(name) = name.to_str() {
                    contents.usage.unneeded += bytes;
                    contents.unneeded.push(UnneededEntry {
                        name: format!("{dir}/{name}"),
                        bytes,
                    });
                }
            }
        }
        Ok(contents)
    }
}

/// The result of a deletion, for which it is fine if another task was faster.
fn gone_or_error(deleted: io::Result<()>) -> io::Result<()> {
    match deleted {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        deleted => deleted,
    }
}
