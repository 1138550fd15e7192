//! The file with the fleet's secret.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flotilla_identity::authority::{FleetSecret, FleetSecretError};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The file with the fleet's secret cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the fleet's secret in {}: {problem}", .path.display())]
pub struct SecretFileError {
    path: PathBuf,
    problem: SecretFileProblem,
}

#[derive(Debug, thiserror::Error)]
enum SecretFileProblem {
    #[error("{0}; `flotilla secret create FILE` makes one, once for the whole fleet")]
    Io(#[from] io::Error),
    #[error("others than its owner may read or change it (mode {0:o}): run `chmod 600` on it")]
    Mode(u32),
    #[error("it has more than {max} bytes", max = MAX_BYTES)]
    TooLarge,
    #[error("{0}; make one with `flotilla secret create FILE`")]
    Secret(#[from] FleetSecretError),
}

/// Reads the fleet's secret. Blocks.
///
/// # Errors
/// [`SecretFileError`] if the file cannot be read, is readable by others, or is too short.
pub(crate) fn read_secret(path: &Path) -> Result<FleetSecret, SecretFileError> {
    read(path).map_err(|problem| SecretFileError {
        path: path.to_owned(),
        problem,
    })
}

fn read(path: &Path) -> Result<FleetSecret, SecretFileProblem> {
    let metadata = std::fs::metadata(path)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileProblem::Mode(mode));
    }
    if metadata.len() > MAX_BYTES {
        return Err(SecretFileProblem::TooLarge);
    }
    Ok(FleetSecret::new(&std::fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_nobody_else_can_read_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let write = |content: &[u8], mode| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path).map_err(|error| error.to_string())
        };
        let missing = read_secret(&path).unwrap_err().to_string();
        assert!(missing.contains("secret create"), "{missing}");
        assert!(write(&[7; 32], 0o600).is_ok());
        assert!(write(&[7; 31], 0o600).is_err());
        let open = write(&[7; 32], 0o640).unwrap_err();
        assert!(open.contains("chmod 600") && open.contains("640"), "{open}");
    }
}
