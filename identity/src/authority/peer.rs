//! What a certificate says about its holder.

use flotilla_core::NodeName;
use flotilla_core::spec::Sha256Digest;
use x509_parser::extensions::GeneralName;

use super::sha256;

/// The scheme of the URIs that name controllers and nodes.
const SCHEME: &str = "flotilla://";

/// Who holds a certificate of the authority: `flotilla://FLEET/node/NAME` or `flotilla://FLEET/controller/ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerIdentity {
    /// A node.
    Node {
        /// The fleet's id when the authority was made.
        fleet: String,
        /// The name of the node.
        name: NodeName,
    },
    /// A controller.
    Controller {
        /// The fleet's id when the authority was made.
        fleet: String,
        /// The id of the controller.
        id: String,
    },
}

/// The content of a certificate, as far as anything is decided by it. That the authority has signed it is checked by
/// TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who holds it.
    pub identity: PeerIdentity,
    /// The SHA-256 digest of the public key (the DER of SubjectPublicKeyInfo).
    pub key: Sha256Digest,
    /// From when it is valid, in seconds since 1970.
    pub not_before: u64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: u64,
}

/// The error returned when a certificate names no controller and no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is not one that a fleet's authority issues to nodes and controllers")]
pub struct CertificateError;

impl PeerIdentity {
    /// The URI in the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Node { fleet, name } => format!("{SCHEME}{fleet}/node/{name}"),
            Self::Controller { fleet, id } => format!("{SCHEME}{fleet}/controller/{id}"),
        }
    }

    /// Parses a URI.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.splitn(3, '/');
        let (fleet, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        let fleet = fleet.to_owned();
        match kind {
            "node" => Some(Self::Node {
                fleet,
                name: NodeName::new(name).ok()?,
            }),
            "controller" if !name.is_empty() && !name.contains('/') => Some(Self::Controller {
                fleet,
                id: name.to_owned(),
            }),
            _ => None,
        }
    }
}

impl PeerCertificate {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// [`CertificateError`] if it names no controller and no node.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|_| CertificateError)?;
        let names = certificate.subject_alternative_name();
        let names = names
            .map_err(|_| CertificateError)?
            .ok_or(CertificateError)?;
        let mut identities = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => PeerIdentity::from_uri(uri),
                _ => None,
            });
        let identity = identities.next().ok_or(CertificateError)?;
        let validity = certificate.validity();
        let seconds =
            |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or_default();
        Ok(Self {
            identity,
            key: sha256(certificate.public_key().raw),
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
        })
    }

    /// When the certificate should be renewed, in seconds since 1970: at two thirds of its life.
    #[must_use]
    pub fn renew_at(&self) -> u64 {
        let life = self.not_after.saturating_sub(self.not_before);
        self.not_before + life / 3 * 2
    }

    /// Whether the certificate has expired at `now`, in seconds since 1970.
    #[must_use]
    pub fn has_expired(&self, now: u64) -> bool {
        now > self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_parsed_as_they_are_written_and_nothing_else_is() {
        let name = NodeName::new("n1").unwrap();
        for identity in [
            PeerIdentity::Node {
                fleet: "f".into(),
                name,
            },
            PeerIdentity::Controller {
                fleet: "f".into(),
                id: "c1".into(),
            },
        ] {
            assert_eq!(PeerIdentity::from_uri(&identity.uri()), Some(identity));
        }
        for uri in [
            "",
            "https://f/node/n1",
            "flotilla://f/node",
            "flotilla://f/node/A B",
            "flotilla://f/controller/",
            "flotilla://f/controller/a/b",
            "flotilla://f/user/u",
        ] {
            assert_eq!(PeerIdentity::from_uri(uri), None, "{uri}");
        }
        assert_eq!(PeerCertificate::parse(b"nonsense"), Err(CertificateError));
    }
}
