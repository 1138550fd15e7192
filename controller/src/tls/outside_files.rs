//! The certificate and the key of an outside PKI, in files that others replace.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_identity::authority::tls;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::settings::OutsideCertificate;

/// A certificate or a key of an outside PKI cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {problem}; give PEM files with --tls-cert and --tls-key", .path.display())]
pub struct OutsideFileError {
    path: PathBuf,
    problem: OutsideFileProblem,
}

#[derive(Debug, thiserror::Error)]
enum OutsideFileProblem {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it has no certificate")]
    NoCertificate,
    #[error("it is no PEM file with what it should have ({0})")]
    Pem(#[from] pem::Error),
    #[error(
        "the key does not belong to the certificate, or is of a kind that TLS does not use ({0})"
    )]
    Pair(#[from] rustls::Error),
}

/// What shows that a file was replaced or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// The versions of both files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileVersions([Option<FileVersion>; 2]);

impl FileVersions {
    /// Looks the files up. Blocks.
    pub(super) fn of(files: &OutsideCertificate) -> Self {
        Self([&files.certificate, &files.key].map(|path| {
            // Through links, which is how Kubernetes replaces files.
            let metadata = std::fs::metadata(path).ok()?;
            Some(FileVersion {
                inode: metadata.ino(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                size: metadata.size(),
            })
        }))
    }
}

/// Reads the files. Blocks.
///
/// # Errors
/// [`OutsideFileError`] for the first that cannot be used.
pub(super) fn load(files: &OutsideCertificate) -> Result<Arc<CertifiedKey>, OutsideFileError> {
    let chain = read_chain(&files.certificate).map_err(|problem| OutsideFileError {
        path: files.certificate.clone(),
        problem,
    })?;
    let of_key = |problem| OutsideFileError {
        path: files.key.clone(),
        problem,
    };
    let key = read_key(&files.key).map_err(of_key)?;
    let certified = tls::certified_key(chain, key);
    Ok(Arc::new(certified.map_err(|error| of_key(error.into()))?))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, OutsideFileProblem> {
    let content = std::fs::read(path)?;
    let chain = CertificateDer::pem_slice_iter(&content).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err(OutsideFileProblem::NoCertificate);
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, OutsideFileProblem> {
    Ok(PrivateKeyDer::from_pem_slice(&std::fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_identity::authority::NodeKey;

    #[test]
    fn files_that_do_not_belong_together_are_named_and_a_new_version_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let files = OutsideCertificate {
            certificate: dir.path().join("tls.crt"),
            key: dir.path().join("tls.key"),
        };
        let missing = load(&files).unwrap_err().to_string();
        assert!(
            missing.contains("tls.crt") && missing.contains("--tls-cert"),
            "{missing}"
        );
        let before = FileVersions::of(&files);
        let authority =
            flotilla_identity::authority::Authority::create("f", 1_800_000_000).unwrap();
        std::fs::write(&files.certificate, authority.certificate_pem()).unwrap();
        let key = NodeKey::generate().unwrap();
        std::fs::write(&files.key, key.to_pem()).unwrap();
        assert_ne!(FileVersions::of(&files), before);
        let other_key = load(&files).unwrap_err().to_string();
        assert!(other_key.contains("tls.key"), "{other_key}");
        std::fs::write(&files.key, "no key").unwrap();
        assert!(load(&files).is_err());
    }
}
