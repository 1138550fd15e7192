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
mod tests;
