//! The file in which a controller keeps the desired state that it has read last.

use std::ffi::OsStr;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use flotilla_core::kept_state::{KeptState, KeptStateError, KeptStateHeader};

/// The name of the file in the data directory.
const FILE: &str = "desired-state.jsonl";
/// The largest file that is read, in bytes: several times what a fleet of 10,000 nodes has.
const MAX_BYTES: u64 = 1 << 30;

/// The longest header that is read, in bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// The most of a fleet's id that is part of the name of a file, in bytes.
const MAX_NAMED_ID: usize = 64;
/// The most files that are put aside and not removed.
const MAX_ASIDE: usize = 8;

/// Why the kept state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptStateFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it has {0} bytes, which is more than a desired state can have")]
    TooLarge(u64),
    #[error(transparent)]
    Content(#[from] KeptStateError),
}

/// The file with the desired state that was read last.
#[derive(Debug, Clone)]
pub(crate) struct KeptStateFile {
    path: PathBuf,
}

impl KeptStateFile {
    /// The file in `data_dir`.
    pub(crate) fn in_dir(data_dir: &std::path::Path) -> Self {
        Self {
            path: data_dir.join(FILE),
        }
    }

    /// Reads the file. Returns `None` if there is none. Blocks.
    ///
    /// # Errors
    /// [`KeptStateFileError`].
    pub(crate) fn load(&self) -> Result<Option<KeptState>, KeptStateFileError> {
        let size = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if size > MAX_BYTES {
            return Err(KeptStateFileError::TooLarge(size));
        }
        Ok(Some(KeptState::decode(&std::fs::read(&self.path)?)?))
    }

    /// Replaces the file. One that has what the store has not is put aside first: that of another fleet, and
    /// a later one of the same fleet. The store may have lost what it had, and then the file is the only copy.
    /// `is_followed`: the store was followed without a gap from the state in the file to this one, so that
    /// it has lost nothing of that even if its epoch was raised. Blocks.
    ///
    /// # Errors
    /// Those of the disk; the earlier file stays then.
    pub(crate) fn save(&self, state: &KeptState, is_followed: bool) -> io::Result<()> {
        let is_lost = |kept: &KeptStateHeader| is_lost_by(kept, state, is_followed);
        if let Some(kept) = self.header()?.filter(is_lost) {
            let aside = self.path.with_file_name(file_of(&kept));
            // The file itself stays until it is replaced. Not every file system has links.
            match std::fs::hard_link(&self.path, &aside) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    std::fs::copy(&self.path, &aside)?;
                }
                _ => {}
            }
            let loss = if kept.fleet_id == state.fleet_id {
                "the store was put back to an earlier state"
            } else {
                "the store has another fleet than before"
            };
            tracing::error!(
                kept_fleet = kept.fleet_id,
                store_fleet = state.fleet_id,
                path = %aside.display(),
                "{loss}: the desired state that was kept on the disk is put aside. If data was lost, put a later copy of the store back, or run `flotilla restore` with a backup or with this file"
            );
            self.remove_oldest_aside();
        }
        flotilla_durable::replace(&self.path, &state.encode())
    }

    /// Returns the id of the fleet that the file is about. `None` if there is no file, or none that says so.
    /// Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn fleet_id(&self) -> io::Result<Option<String>> {
        Ok(self.header()?.map(|header| header.fleet_id))
    }

    fn header(&self) -> io::Result<Option<KeptStateHeader>> {
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut header = Vec::new();
        io::BufReader::new(file.take(MAX_HEADER_BYTES)).read_until(b'\n', &mut header)?;
        Ok(KeptStateHeader::read(&header))
    }

    /// Removes the oldest of the files that were put aside, as far as there are too many.
    fn remove_oldest_aside(&self) {
        let Some(Ok(entries)) = self.path.parent().map(std::fs::read_dir) else {
            return;
        };
        let aside = entries.flatten().filter(|entry| {
            is_kept_state(&entry.file_name()) && entry.file_name() != OsStr::new(FILE)
        });
        let mut aside: Vec<_> = aside
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        aside.sort();
        let excess = aside.len().saturating_sub(MAX_ASIDE);
        for (_, path) in &aside[..excess] {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "cannot remove an old desired state");
            }
        }
    }
}

/// Whether a file has what a store with `state` has lost: the fleet is another one, or the store's revisions
/// have gone back or begun anew since. Those of a store that was followed have not.
fn is_lost_by(kept: &KeptStateHeader, state: &KeptState, is_followed: bool) -> bool {
    let is_other_fleet = kept.fleet_id != state.fleet_id;
    let has_gone_back = kept.epoch != state.epoch || kept.revision > state.revision;
    !kept.fleet_id.is_empty() && (is_other_fleet || (has_gone_back && !is_followed))
}

/// Returns whether a file of this name has the kept state of a fleet.
pub(crate) fn is_kept_state(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"desired-state.") && name.ends_with(b".jsonl")
}

/// The name of the file with a state that is put aside. The id comes from a store.
fn file_of(kept: &KeptStateHeader) -> String {
    let safe = kept.fleet_id.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    });
    let id: String = safe.take(MAX_NAMED_ID).collect();
    let (epoch, revision) = (kept.epoch, kept.revision.0);
    format!("desired-state.{id}.{epoch}-{revision}.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::StoreRevision;

    #[test]
    fn state_is_kept_and_a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptStateFile::in_dir(&dir.path().join("new"));
        assert_eq!(file.load().unwrap(), None);
        let state = KeptState {
            fleet_id: "f".into(),
            epoch: 0,
            revision: StoreRevision(7),
            saved_at: 1,
            entries: Vec::new(),
        };
        file.save(&state, false).unwrap();
        assert_eq!(file.load().unwrap(), Some(state));
        std::fs::write(&file.path, "nonsense").unwrap();
        assert!(matches!(file.load(), Err(KeptStateFileError::Content(_))));
    }

    #[test]
    fn state_of_another_fleet_is_put_aside_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptStateFile::in_dir(dir.path());
        let state = |fleet_id: &str, revision| KeptState {
            fleet_id: fleet_id.into(),
            epoch: 0,
            revision: StoreRevision(revision),
            saved_at: 1,
            entries: Vec::new(),
        };
        let aside = |name: &str| KeptStateFile {
            path: dir.path().join(name),
        };
        file.save(&state("ours", 7), false).unwrap();
        file.save(&state("ours", 8), false).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(names.len() == 1 && is_kept_state(&names[0]), "{names:?}");
        // A store that has lost everything, then got a new fleet.
        file.save(&state("", 1), false).unwrap();
        file.save(&state("../new", 2), false).unwrap();
        let ours = aside("desired-state.ours.0-8.jsonl").load().unwrap();
        assert_eq!(ours, Some(state("ours", 8)));
        // The other way round.
        file.save(&state("ours", 9), false).unwrap();
        assert_eq!(file.load().unwrap(), Some(state("ours", 9)));
        let new = aside("desired-state.___new.0-2.jsonl").load().unwrap();
        assert_eq!(new, Some(state("../new", 2)));
    }

    #[test]
    fn later_state_of_the_same_fleet_is_put_aside_when_the_store_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeptStateFile::in_dir(dir.path());
        let save = |epoch, revision| {
            let state = KeptState {
                fleet_id: "f".into(),
                epoch,
                revision: StoreRevision(revision),
                saved_at: 1,
                entries: Vec::new(),
            };
            file.save(&state, false).unwrap();
        };
        let is_aside = |name: &str| dir.path().join(name).exists();
        save(0, 90);
        save(0, 50);
        assert!(is_aside("desired-state.f.0-90.jsonl"));
        // The store was put back while this controller was off, and has had many changes since.
        save(1, 400);
        assert!(is_aside("desired-state.f.0-50.jsonl"));
        save(1, 401);
        assert!(!is_aside("desired-state.f.1-400.jsonl"));
        for epoch in 2..20 {
            save(epoch, 1);
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 1 + MAX_ASIDE);
        assert!(is_aside("desired-state.f.18-1.jsonl"));
    }
}
