//! The file in which a controller keeps the desired state that it has read last.

use std::io;
use std::path::PathBuf;

use flotilla_core::kept_state::{KeptState, KeptStateError};

use crate::durable_file;

/// The name of the file in the data directory.
const FILE: &str = "desired-state.jsonl";
/// The largest file that is read, in bytes: several times what a fleet of 10,000 nodes has.
const MAX_BYTES: u64 = 1 << 30;

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

    /// Replaces the file. Blocks.
    ///
    /// # Errors
    /// Those of the disk; the earlier file stays then.
    pub(crate) fn save(&self, state: &KeptState) -> io::Result<()> {
        durable_file::replace(&self.path, &state.encode())
    }
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
        file.save(&state).unwrap();
        assert_eq!(file.load().unwrap(), Some(state));
        std::fs::write(&file.path, "nonsense").unwrap();
        assert!(matches!(file.load(), Err(KeptStateFileError::Content(_))));
    }
}
