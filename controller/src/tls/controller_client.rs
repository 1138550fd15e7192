//! The client for the APIs of other controllers.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use flotilla_identity::authority::{Authority, IssuedCertificate, tls};
use reqwest::{Certificate, Client, ClientBuilder, Method, RequestBuilder};

use super::TlsError;

/// Longest time until another controller accepts a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that another controller may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends requests to the APIs of other controllers: with TLS and this controller's certificate, if the fleet has an
/// authority. It bypasses proxies: controllers reach each other. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ControllerClient {
    scheme: &'static str,
    client: Arc<ArcSwap<Client>>,
}

impl ControllerClient {
    /// A client that speaks HTTPS if the controllers' APIs do, and trusts the public authorities and those in `ca`, in
    /// PEM, until it is given a certificate.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(is_https: bool, ca: Option<&[u8]>) -> reqwest::Result<Self> {
        let mut builder = builder();
        for certificate in ca
            .map(Certificate::from_pem_bundle)
            .transpose()?
            .unwrap_or_default()
        {
            builder = builder.add_root_certificate(certificate);
        }
        Ok(Self {
            scheme: if is_https { "https" } else { "http" },
            client: Arc::new(ArcSwap::from_pointee(builder.build()?)),
        })
    }

    /// A client without TLS that sends through `client`.
    #[cfg(test)]
    pub(crate) fn with_client(client: Client) -> Self {
        Self {
            scheme: "http",
            client: Arc::new(ArcSwap::from_pointee(client)),
        }
    }

    /// Trusts the controllers of `authority` alone from now on, and presents `certificate` to them.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub(super) fn set_certificate(
        &self,
        authority: &Authority,
        certificate: IssuedCertificate,
    ) -> Result<(), TlsError> {
        let protocols: [&[u8]; 2] = [tls::CONTROLLER_PROTOCOL, b"http/1.1"];
        let config = tls::client(authority.certificate(), Some(certificate), &protocols)?;
        let client = builder().tls_backend_preconfigured(config).build()?;
        self.client.store(Arc::new(client));
        Ok(())
    }

    /// Begins a request to the controller whose API is at `address`.
    pub(crate) fn request(&self, method: Method, address: &str, path: &str) -> RequestBuilder {
        let url = format!("{}://{address}{path}", self.scheme);
        self.client.load().request(method, url)
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
}
