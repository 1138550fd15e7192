//! The settings of TLS, and whether a controller may run with them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The default life of the certificates of nodes and controllers: seven days.
const DEFAULT_LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The settings of TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// File with the fleet's secret. `None`: links have no TLS.
    pub secret_file: Option<PathBuf>,
    /// The certificate of an outside PKI for the HTTP API. `None`: that of the fleet's authority, if there is a secret.
    pub outside: Option<OutsideCertificate>,
    /// How long the certificates of nodes and controllers are valid.
    pub certificate_life: Duration,
    /// Whether ports that other machines reach may be without TLS.
    pub insecure: bool,
}

/// PEM files of an outside PKI. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideCertificate {
    /// The certificate, followed by those of intermediate authorities.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A port that other machines reach would be without TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{flag} {address} would be open to everybody on the network without TLS: run `flotilla secret create FILE` once, give every controller of the fleet a copy of the file, and start it with `flotilla controller --secret-file FILE`; for a network that nobody else reaches, start it with --insecure"
)]
pub struct UnprotectedError {
    flag: &'static str,
    address: SocketAddr,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            secret_file: None,
            outside: None,
            certificate_life: DEFAULT_LIFE,
            insecure: false,
        }
    }
}

impl TlsSettings {
    /// Whether the HTTP API has TLS.
    pub(crate) fn protects_http(&self) -> bool {
        self.secret_file.is_some() || self.outside.is_some()
    }

    /// Whether links have TLS.
    pub(crate) fn protects_links(&self) -> bool {
        self.secret_file.is_some()
    }

    /// Checks whether a controller with these addresses may start. Returns whether other machines reach one of its
    /// ports without TLS.
    ///
    /// # Errors
    /// [`UnprotectedError`] where they would, and `insecure` is not set.
    pub(crate) fn check(
        &self,
        http: SocketAddr,
        link: SocketAddr,
    ) -> Result<bool, UnprotectedError> {
        let ports = [
            ("--http", http, self.protects_http()),
            ("--link", link, self.protects_links()),
        ];
        let mut open = ports
            .into_iter()
            .filter(|(_, address, protected)| !protected && !address.ip().is_loopback());
        match open.next() {
            Some((flag, address, _)) if !self.insecure => Err(UnprotectedError { flag, address }),
            found => Ok(found.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_be_without_tls_unless_it_is_said_so() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 1));
        let all = SocketAddr::from(([0, 0, 0, 0], 1));
        let plain = TlsSettings::default();
        assert_eq!(plain.check(loopback, loopback), Ok(false));
        let refused = plain.check(all, loopback).unwrap_err().to_string();
        for part in [
            "--http 0.0.0.0:1",
            "secret create",
            "--secret-file",
            "--insecure",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
        let insecure = TlsSettings {
            insecure: true,
            ..TlsSettings::default()
        };
        assert_eq!(insecure.check(all, all), Ok(true));
        assert_eq!(insecure.check(loopback, loopback), Ok(false));
        let with_secret = TlsSettings {
            secret_file: Some("s".into()),
            ..TlsSettings::default()
        };
        assert_eq!(with_secret.check(all, all), Ok(false));
        let outside = TlsSettings {
            outside: Some(OutsideCertificate {
                certificate: "c".into(),
                key: "k".into(),
            }),
            ..TlsSettings::default()
        };
        assert_eq!(outside.check(all, loopback), Ok(false));
        assert_eq!(outside.check(all, all).unwrap_err().flag, "--link");
    }
}
