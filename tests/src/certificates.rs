//! A certificate authority of a test, and a TLS listener with a certificate of it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

/// A certificate authority that nobody knows.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate for servers and clients on loopback.
pub(crate) struct LoopbackCertificate {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// Creates an authority with a new key.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, new_key());
        Self(issuer.expect("the authority can sign itself"))
    }

    /// The authority's own certificate in PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `127.0.0.1` and `localhost`.
    pub(crate) fn issue(&self) -> LoopbackCertificate {
        let key = new_key();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).expect("valid names");
        let certificate = params.signed_by(&key, &self.0);
        LoopbackCertificate {
            certificate: certificate.expect("the authority signs"),
            key,
        }
    }
}

impl LoopbackCertificate {
    /// The certificate in PEM.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key in PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key can be generated")
}

/// Accepts TLS connections. A handshake that fails ends its connection alone.
pub(crate) struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsListener {
    /// Listens on a free port with a certificate.
    pub(crate) async fn bind(certificate: &LoopbackCertificate) -> Self {
        let chain = vec![certificate.certificate.der().clone()];
        let key = PrivateKeyDer::try_from(certificate.key.serialize_der()).expect("a private key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the key is that of the certificate");
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            acceptor: Arc::new(config).into(),
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
