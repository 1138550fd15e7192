//! Checks the files of certificates and keys when a controller starts: later a wrong one would look like a
//! server that does not answer.

use std::path::PathBuf;

use crate::config::EtcdTls;

/// What each block of PEM begins with.
const BLOCK: &[u8] = b"-----BEGIN ";

/// A file for TLS with etcd that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use {} for TLS with etcd: {problem}; give PEM files with --etcd-ca, --etcd-cert and --etcd-key",
    .path.display()
)]
pub struct PemFileError {
    path: PathBuf,
    problem: String,
}

/// Whether the content of a file has a block of PEM.
pub(crate) fn has_block(content: &[u8]) -> bool {
    content.windows(BLOCK.len()).any(|window| window == BLOCK)
}

/// Checks the files for TLS with etcd.
///
/// # Errors
/// [`PemFileError`] for the first that cannot be read or has no certificate or key.
pub(crate) async fn check_etcd_files(tls: &EtcdTls) -> Result<(), PemFileError> {
    let identity = tls.identity.iter();
    let identity = identity.flat_map(|(certificate, key)| [certificate, key]);
    for path in [&tls.ca].into_iter().chain(identity) {
        let problem = match tokio::fs::read(path).await {
            Ok(content) if has_block(&content) => continue,
            Ok(_) => "it has no certificate or key".to_owned(),
            Err(error) => error.to_string(),
        };
        let path = path.clone();
        return Err(PemFileError { path, problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn file_without_certificate_is_found_before_etcd_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let good = write("good.pem", "text\n-----BEGIN CERTIFICATE-----\n");
        let other = write("other.pem", "no certificate");
        let check = async |ca: &PathBuf, key: &PathBuf| {
            let identity = Some((good.clone(), key.clone()));
            let tls = EtcdTls {
                ca: ca.clone(),
                identity,
            };
            check_etcd_files(&tls)
                .await
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(&good, &good).await, Ok(()));
        let missing = dir.path().join("missing.pem");
        for (ca, key, named) in [
            (&other, &good, "other.pem"),
            (&good, &other, "other.pem"),
            (&good, &missing, "missing.pem"),
        ] {
            let error = check(ca, key).await.unwrap_err();
            assert!(
                error.contains(named) && error.contains("--etcd-ca"),
                "{error}"
            );
        }
    }
}
