//! The authority and the certificates that it issues.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use flotilla_core::NodeName;
use flotilla_core::spec::Sha256Digest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use time::OffsetDateTime;

use super::peer::PeerIdentity;
use super::{sha256, tls};

/// The life of an authority: ten years.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// How long before its issue a certificate is valid at most, for machines whose clocks are behind.
const MAX_BACKDATE: Duration = Duration::from_secs(3_600);
/// The largest certificate signing request, in bytes.
const MAX_REQUEST_BYTES: usize = 4 << 10;

/// The certificate authority of a fleet: ECDSA on the curve P-256.
pub struct Authority {
    fleet: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its private key.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// The private key of a node, which never leaves it.
pub struct NodeKey(KeyPair);

/// The error returned when a certificate cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate signing request is not valid.
    #[error("the certificate signing request is not valid: {0}")]
    Request(String),
    /// A certificate cannot be made.
    #[error("a certificate cannot be issued: {0}")]
    Issue(#[from] rcgen::Error),
}

impl Authority {
    /// Creates the authority of a fleet with a new key. `now` is the time in seconds since 1970.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`] if there is no randomness for a key.
    pub fn create(fleet: &str, now: u64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(now, AUTHORITY_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = format!("flotilla fleet {fleet}");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key)?.der().clone();
        Self::from_parts(fleet.to_owned(), certificate, key)
    }

    /// The authority with this certificate and key.
    pub(super) fn from_parts(
        fleet: String,
        certificate: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            fleet,
            certificate,
            issuer,
        })
    }

    /// The id of the fleet that the authority was made for.
    #[must_use]
    pub fn fleet(&self) -> &str {
        &self.fleet
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's own certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        tls::pem(&self.certificate)
    }

    /// The SHA-256 digest of the authority's certificate, by which join tokens name it.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256Digest {
        sha256(&self.certificate)
    }

    /// The private key (PKCS #8).
    pub(super) fn key_der(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// Issues the certificate of a node for the key in a certificate signing request (DER). The name and everything
    /// else in the request do not count. Returns it with the digest of the node's public key.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] if the request is not one for a key on P-256 or not signed by it.
    pub fn issue_to_node(
        &self,
        name: &NodeName,
        request: &[u8],
        life: Duration,
        now: u64,
    ) -> Result<(CertificateDer<'static>, Sha256Digest), AuthorityError> {
        let invalid = |problem: &str| AuthorityError::Request(problem.to_owned());
        if request.len() > MAX_REQUEST_BYTES {
            return Err(invalid("it is too long"));
        }
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request)
            .map_err(|error| invalid(&error.to_string()))?;
        if *request.public_key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(invalid("its key is not one of ECDSA on the curve P-256"));
        }
        let identity = PeerIdentity::Node {
            fleet: self.fleet.clone(),
            name: name.clone(),
        };
        let mut params = params(now, life)?;
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
            .distinguished_name
            .push(DnType::CommonName, name.as_str());
        let key = sha256(&request.public_key.subject_public_key_info());
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok((certificate.der().clone(), key))
    }

    /// Issues the certificate of the controller `id` with a new key: for the name that agents check, and for the
    /// names and IP addresses `hosts` that clients reach it by. Those that are no names are left out.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`].
    pub fn issue_to_controller(
        &self,
        id: &str,
        hosts: &[String],
        life: Duration,
        now: u64,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let identity = PeerIdentity::Controller {
            fleet: self.fleet.clone(),
            id: id.to_owned(),
        };
        let mut params = params(now, life)?;
        let names = hosts
            .iter()
            .filter_map(|host| match host.parse::<IpAddr>() {
                Ok(ip) => Some(SanType::IpAddress(ip)),
                Err(_) => Some(SanType::DnsName(host.as_str().try_into().ok()?)),
            });
        params.subject_alt_names = names.collect();
        params
            .subject_alt_names
            .push(SanType::DnsName(tls::CONTROLLER_NAME.try_into()?));
        params
            .subject_alt_names
            .push(SanType::URI(identity.uri().try_into()?));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("flotilla controller {id}"));
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(IssuedCertificate { certificate, key })
    }
}

// The key must not get into a log.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fleet", &self.fleet)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl NodeKey {
    /// Generates a key.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`] if there is no randomness for a key.
    pub fn generate() -> Result<Self, AuthorityError> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?))
    }

    /// Reads a key from PEM.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`] if it is no key of the kind that [`NodeKey::generate`] makes.
    pub fn from_pem(pem: &str) -> Result<Self, AuthorityError> {
        let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
        Ok(Self(KeyPair::from_pkcs8_pem_and_sign_algo(pem, algorithm)?))
    }

    /// The key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The key as TLS uses it.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// A certificate signing request for this key, in DER. It proves that its sender has the key.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`].
    pub fn certificate_request(&self) -> Result<Vec<u8>, AuthorityError> {
        let request = CertificateParams::default().serialize_request(&self.0)?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

/// The parameters of a certificate that is valid from a little before `now` for `life`.
fn params(now: u64, life: Duration) -> Result<CertificateParams, AuthorityError> {
    let seconds = i64::try_from(now).unwrap_or(i64::MAX);
    let now = OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| AuthorityError::Request("the clock is wrong".into()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - MAX_BACKDATE.min(life / 2);
    params.not_after = now + life;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::PeerCertificate;

    const NOW: u64 = 1_800_000_000;
    const LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);

    #[test]
    fn the_certificate_of_a_node_names_it_and_its_key_whatever_the_request_says() {
        let authority = Authority::create("f1", NOW).unwrap();
        let name = NodeName::new("n1").unwrap();
        let key = NodeKey::from_pem(&NodeKey::generate().unwrap().to_pem()).unwrap();
        let request = key.certificate_request().unwrap();
        let (certificate, key_digest) =
            authority.issue_to_node(&name, &request, LIFE, NOW).unwrap();
        let peer = PeerCertificate::parse(&certificate).unwrap();
        let identity = PeerIdentity::Node {
            fleet: "f1".into(),
            name: name.clone(),
        };
        assert_eq!(peer.identity, identity);
        assert_eq!(peer.key, key_digest);
        assert_eq!(peer.not_after, NOW + LIFE.as_secs());
        assert_eq!(peer.not_before, NOW - 3_600);
        // The same key again has the same digest.
        let again = authority
            .issue_to_node(&name, &request, LIFE, NOW + 9)
            .unwrap();
        assert_eq!(again.1, key_digest);
        let mut forged = request.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        for bad in [&forged[..], b"", b"nonsense", &[0; MAX_REQUEST_BYTES + 1]] {
            let refused = authority.issue_to_node(&name, bad, LIFE, NOW);
            assert!(matches!(refused, Err(AuthorityError::Request(_))));
        }
    }

    #[test]
    fn the_certificate_of_a_controller_is_for_its_names_and_addresses() {
        let authority = Authority::create("f1", NOW).unwrap();
        let hosts = ["10.0.0.1", "::1", "c.example", "not a name ☂"].map(str::to_owned);
        let issued = authority
            .issue_to_controller("c1", &hosts, LIFE, NOW)
            .unwrap();
        let peer = PeerCertificate::parse(&issued.certificate).unwrap();
        let identity = PeerIdentity::Controller {
            fleet: "f1".into(),
            id: "c1".into(),
        };
        assert_eq!(peer.identity, identity);
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        // Three hosts, the name that agents check, and the URI.
        assert_eq!(names.value.general_names.len(), 5);
        assert!(!certificate.is_ca());
    }
}
