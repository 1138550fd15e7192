//! The fleet's certificate authority and the certificates that it issues.
//!
//! The authority ([`Authority`]) signs the certificates of controllers and nodes. Its private key is stored encrypted
//! with a key that is derived from the fleet's secret ([`FleetSecret`], [`AuthorityRecord`]), so that several
//! controllers share it. [`PeerCertificate`] is what a certificate says about its holder, and [`tls`] has the
//! configurations of TLS that trust this authority alone.

mod certificates;
mod peer;
mod record;
mod secret;
pub mod tls;

pub use certificates::{Authority, AuthorityError, IssuedCertificate, NodeKey};
pub use peer::{CertificateError, PeerCertificate, PeerIdentity};
pub use record::{AuthorityRecord, OpenAuthorityError};
pub use secret::{FleetSecret, FleetSecretError};

use flotilla_core::spec::Sha256Digest;

/// Returns the SHA-256 digest of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Sha256Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut array = [0; 32];
    array.copy_from_slice(digest.as_ref());
    Sha256Digest(array)
}
