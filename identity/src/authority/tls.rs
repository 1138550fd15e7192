//! Configurations of TLS that trust one authority.
//!
//! Controllers present a certificate for [`CONTROLLER_NAME`], which agents and other controllers check whatever address
//! they dial, so that NAT and load balancers change nothing.

use std::sync::Arc;

use flotilla_core::spec::Sha256Digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::{IssuedCertificate, sha256};

/// The name that every controller's certificate of the authority is valid for. It is never looked up.
pub const CONTROLLER_NAME: &str = "controller.flotilla.invalid";

/// The application protocol (ALPN) of a link on which the agent is the client.
pub const LINK_PROTOCOL: &[u8] = b"flotilla-link/1";
/// The application protocol of a reverse connection, on which the controller is the client.
pub const REVERSE_PROTOCOL: &[u8] = b"flotilla-reverse/1";
/// The application protocol that a controller offers first when it calls another one. It is never chosen; it shows
/// that the certificate of the authority is expected and not that of an outside PKI.
pub const CONTROLLER_PROTOCOL: &[u8] = b"flotilla-controller/1";
/// The application protocols of the HTTP API.
const HTTP_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate that a server presents, and the authority that its clients' certificates are of.
#[derive(Debug, Clone)]
pub struct ServerCertificates {
    /// The certificate of the fleet's authority, and the authority's own. `None`: the fleet has no authority.
    pub fleet: Option<FleetCertificate>,
    /// A chain of an outside PKI, with its key, which HTTP clients get instead.
    pub outside: Option<Arc<CertifiedKey>>,
}

/// A certificate of the fleet's authority, with the authority's own certificate.
#[derive(Debug, Clone)]
pub struct FleetCertificate {
    certified: Arc<CertifiedKey>,
    authority: CertificateDer<'static>,
}

impl FleetCertificate {
    /// Prepares a certificate for use.
    ///
    /// # Errors
    /// Those of the key.
    pub fn new(
        issued: IssuedCertificate,
        authority: CertificateDer<'static>,
    ) -> Result<Self, Error> {
        let chain = vec![issued.certificate, authority.clone()];
        let certified = certified_key(chain, issued.key)?;
        Ok(Self {
            certified: Arc::new(certified),
            authority,
        })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }
}

/// Returns the SHA-256 digest of a certificate (DER), by which join tokens name an authority.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> Sha256Digest {
    sha256(certificate)
}

/// Returns a certificate in PEM.
#[must_use]
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Checks a chain and a key against each other, and prepares them for use.
///
/// # Errors
/// When the key cannot be used or is not that of the first certificate.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    CertifiedKey::from_der(chain, key, &provider())
}

/// The configuration of the HTTP API's port. A client may present a certificate of the fleet's authority.
///
/// # Errors
/// When a certificate cannot be used.
pub fn http_server(certificates: ServerCertificates) -> Result<ServerConfig, Error> {
    let authority = certificates
        .fleet
        .as_ref()
        .map(|fleet| fleet.authority.clone());
    server(
        authority,
        Arc::new(HttpCertificates(certificates)),
        &HTTP_PROTOCOLS,
    )
}

/// The configuration of the port for links. An agent presents its certificate, unless it enrols.
///
/// # Errors
/// When a certificate cannot be used.
pub fn link_server(fleet: &FleetCertificate) -> Result<ServerConfig, Error> {
    let certificates = HttpCertificates(ServerCertificates {
        fleet: Some(fleet.clone()),
        outside: None,
    });
    let protocols = [LINK_PROTOCOL, REVERSE_PROTOCOL];
    server(
        Some(fleet.authority.clone()),
        Arc::new(certificates),
        &protocols,
    )
}

fn server(
    authority: Option<CertificateDer<'static>>,
    certificates: Arc<dyn ResolvesServerCert>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(roots(&authority)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// The configuration of a client that trusts the controllers of `authority` alone, and presents `certificate`.
/// `protocols` are those that it offers.
///
/// # Errors
/// When a certificate cannot be used.
pub fn client(
    authority: &CertificateDer<'_>,
    certificate: Option<IssuedCertificate>,
    protocols: &[&[u8]],
) -> Result<ClientConfig, Error> {
    let verifier = ControllerVerifier {
        trusted: Trusted::Authority(webpki(authority)?),
    };
    client_with(verifier, certificate, protocols)
}

/// The configuration of a client that trusts the controllers of the authority with this fingerprint, which they
/// present with their own certificate.
///
/// # Errors
/// Those of the provider of cryptography.
pub fn first_contact_client(fingerprint: Sha256Digest) -> Result<ClientConfig, Error> {
    let verifier = ControllerVerifier {
        trusted: Trusted::Fingerprint(fingerprint),
    };
    client_with(verifier, None, &[LINK_PROTOCOL])
}

fn client_with(
    verifier: ControllerVerifier,
    certificate: Option<IssuedCertificate>,
    protocols: &[&[u8]],
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match certificate {
        Some(issued) => builder.with_client_auth_cert(vec![issued.certificate], issued.key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// The name of controllers, as TLS wants it.
#[must_use]
pub fn controller_name() -> ServerName<'static> {
    // The constant is a valid name of DNS.
    ServerName::try_from(CONTROLLER_NAME).expect("a valid name")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(authority: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(roots)
}

fn webpki(authority: &CertificateDer<'_>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let roots = Arc::new(roots(authority)?);
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// Chooses the certificate of a server: that of an outside PKI, except for other controllers.
#[derive(Debug)]
struct HttpCertificates(ServerCertificates);

impl ResolvesServerCert for HttpCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut protocols = hello.alpn().into_iter().flatten();
        let is_controller = protocols.any(|protocol| protocol == CONTROLLER_PROTOCOL);
        let fleet = self.0.fleet.as_ref().map(|fleet| &fleet.certified);
        let outside = self.0.outside.as_ref();
        let chosen = if is_controller {
            fleet.or(outside)
        } else {
            outside.or(fleet)
        };
        chosen.cloned()
    }
}

/// Verifies that a server is a controller of a fleet, whatever address it was dialled by.
#[derive(Debug)]
struct ControllerVerifier {
    trusted: Trusted,
}

/// Which authority is trusted.
#[derive(Debug)]
enum Trusted {
    Authority(Arc<WebPkiServerVerifier>),
    Fingerprint(Sha256Digest),
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = match &self.trusted {
            Trusted::Authority(verifier) => verifier.clone(),
            Trusted::Fingerprint(fingerprint) => {
                let mut presented = intermediates.iter();
                let authority = presented.find(|certificate| sha256(certificate) == *fingerprint);
                let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
                webpki(authority.ok_or(unknown)?)?
            }
        };
        let name = controller_name();
        verifier.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::authority::{Authority, NodeKey, PeerCertificate, PeerIdentity};
    use flotilla_core::NodeName;

    const LIFE: Duration = Duration::from_secs(3_600);

    fn now() -> u64 {
        UnixTime::now().as_secs()
    }

    fn fleet(authority: &Authority, issued_at: u64) -> FleetCertificate {
        let issued = authority.issue_to_controller("c", &[], LIFE, issued_at);
        FleetCertificate::new(issued.unwrap(), authority.certificate().clone()).unwrap()
    }

    /// The certificate and the key of the node `n1`.
    fn node(authority: &Authority, issued_at: u64) -> IssuedCertificate {
        let key = NodeKey::generate().unwrap();
        let request = key.certificate_request().unwrap();
        let name = NodeName::new("n1").unwrap();
        let (certificate, _) = authority
            .issue_to_node(&name, &request, LIFE, issued_at)
            .unwrap();
        IssuedCertificate {
            certificate,
            key: key.to_der(),
        }
    }

    /// Shakes hands in memory. Returns the certificate that the server got, and the error of either side.
    fn handshake(
        client: ClientConfig,
        server: ServerConfig,
    ) -> Result<Option<PeerCertificate>, Error> {
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        for _ in 0..10 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        let certificates = server.peer_certificates();
        let parsed = certificates.map(|chain| PeerCertificate::parse(&chain[0]).unwrap());
        Ok(parsed)
    }

    #[test]
    fn a_node_trusts_the_controllers_of_its_authority_alone_by_any_address() {
        let ours = Authority::create("f", now()).unwrap();
        let theirs = Authority::create("f", now()).unwrap();
        let link = |authority| link_server(&fleet(authority, now())).unwrap();
        let protocols = [LINK_PROTOCOL];
        let client_of = |authority: &Authority| {
            let node = node(authority, now());
            client(authority.certificate(), Some(node), &protocols).unwrap()
        };
        let peer = handshake(client_of(&ours), link(&ours)).unwrap().unwrap();
        assert!(matches!(peer.identity, PeerIdentity::Node { .. }));
        assert!(handshake(client_of(&theirs), link(&ours)).is_err());
        // A certificate of another authority, with trust in the right one.
        let stranger = client(ours.certificate(), Some(node(&theirs, now())), &protocols);
        assert!(handshake(stranger.unwrap(), link(&ours)).is_err());
        // A node is no controller: its certificate is valid for no server.
        let impostor = FleetCertificate::new(node(&ours, now()), ours.certificate().clone());
        let impostor = link_server(&impostor.unwrap()).unwrap();
        assert!(handshake(client_of(&ours), impostor).is_err());
    }

    #[test]
    fn at_first_contact_the_fingerprint_decides() {
        let ours = Authority::create("f", now()).unwrap();
        let theirs = Authority::create("f", now()).unwrap();
        let first = |authority: &Authority| first_contact_client(authority.fingerprint()).unwrap();
        let link = || link_server(&fleet(&ours, now())).unwrap();
        assert_eq!(handshake(first(&ours), link()), Ok(None));
        assert_eq!(
            handshake(first(&theirs), link()),
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
        );
    }

    #[test]
    fn certificates_that_have_expired_are_refused_on_both_sides() {
        let authority = Authority::create("f", now() - 10_000).unwrap();
        let past = now() - 5_000;
        let client_of = |node| client(authority.certificate(), Some(node), &[LINK_PROTOCOL]);
        let good = node(&authority, now());
        let server = link_server(&fleet(&authority, past)).unwrap();
        assert!(handshake(client_of(good).unwrap(), server).is_err());
        let server = link_server(&fleet(&authority, now())).unwrap();
        assert!(handshake(client_of(node(&authority, past)).unwrap(), server).is_err());
    }

    #[test]
    fn clients_get_the_outside_certificate_and_controllers_that_of_the_authority() {
        let authority = Authority::create("f", now()).unwrap();
        let outside = Authority::create("outside", now()).unwrap();
        let issued = outside.issue_to_controller("x", &["10.0.0.1".into()], LIFE, now());
        let issued = issued.unwrap();
        let chain = vec![issued.certificate.clone()];
        let certificates = || ServerCertificates {
            fleet: Some(fleet(&authority, now())),
            outside: Some(Arc::new(
                certified_key(chain.clone(), issued.key.clone_key()).unwrap(),
            )),
        };
        let server = || http_server(certificates()).unwrap();
        let node = client(authority.certificate(), None, &[b"http/1.1"]).unwrap();
        assert!(
            handshake(node, server()).is_err(),
            "it is of the outside PKI"
        );
        let browser = client(outside.certificate(), None, &[b"http/1.1"]).unwrap();
        assert_eq!(handshake(browser, server()), Ok(None));
        let own = authority
            .issue_to_controller("c2", &[], LIFE, now())
            .unwrap();
        let protocols: [&[u8]; 2] = [CONTROLLER_PROTOCOL, b"http/1.1"];
        let controller = client(authority.certificate(), Some(own), &protocols).unwrap();
        let peer = handshake(controller, server()).unwrap().unwrap();
        assert!(matches!(peer.identity, PeerIdentity::Controller { .. }));
        // A link does not speak HTTP.
        let browser = client(authority.certificate(), None, &[b"h2"]).unwrap();
        let link = link_server(&fleet(&authority, now())).unwrap();
        assert!(handshake(browser, link).is_err());
    }
}
