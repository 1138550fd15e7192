//! The beginning of a connection to a port with TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flotilla_identity::authority::PeerCertificate;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{TlsConfigs, TlsHandle};

/// Longest time from the start of a connection to the end of its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The type of the TLS record with which a handshake begins.
const HANDSHAKE_RECORD: u8 = 0x16;

/// What a port of the HTTP API answers to a request without TLS.
const HTTPS_ANSWER: &str =
    "This port speaks HTTPS, and the request came without TLS: use https:// in the URL.\n";
/// What a port for links answers to an agent without TLS. The agent recognizes it.
const LINK_ANSWER: &str = "This link port requires TLS (HTTPS is not spoken here either): start the agent with --token-file and a token of `flotilla token create`.\n";

/// TLS of one of the two ports.
#[derive(Clone)]
pub(crate) struct ServerTls {
    configs: TlsHandle,
    port: Port,
}

#[derive(Clone, Copy)]
enum Port {
    Http,
    Link,
}

/// A connection after its handshake.
pub(crate) struct TlsConnection<S> {
    pub(crate) stream: TlsStream<S>,
    /// The certificate of the client, if it presented one. The authority has signed it.
    pub(crate) peer: Option<PeerCertificate>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the client speaks no TLS")]
    Plain,
    #[error("there was no handshake in time")]
    Timeout,
    #[error("the certificates are not known yet")]
    NotReady,
    #[error("the handshake failed: {0}")]
    Failed(#[from] io::Error),
}

impl ServerTls {
    /// TLS of the HTTP API.
    pub(crate) fn http(configs: TlsHandle) -> Self {
        Self {
            configs,
            port: Port::Http,
        }
    }

    /// TLS of links.
    pub(crate) fn link(configs: TlsHandle) -> Self {
        Self {
            configs,
            port: Port::Link,
        }
    }

    /// The newest configurations, for those who issue certificates.
    pub(crate) fn configs(&self) -> &TlsHandle {
        &self.configs
    }

    /// Shakes hands. `wrap` prepares the stream below TLS. A client that speaks no TLS is answered in HTTP what it
    /// has to do.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: TcpStream,
        wrap: impl FnOnce(TcpStream) -> S,
    ) -> Result<TlsConnection<S>, HandshakeError> {
        let shaken = self.shake_hands(stream, wrap);
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken).await;
        shaken.unwrap_or(Err(HandshakeError::Timeout))
    }

    async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: TcpStream,
        wrap: impl FnOnce(TcpStream) -> S,
    ) -> Result<TlsConnection<S>, HandshakeError> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(HandshakeError::Plain);
        }
        let mut stream = wrap(stream);
        if first[0] != HANDSHAKE_RECORD {
            self.answer_plain(&mut stream).await?;
            return Err(HandshakeError::Plain);
        }
        let config = self.config().await.ok_or(HandshakeError::NotReady)?;
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let (_, connection) = stream.get_ref();
        let chain = connection.peer_certificates().unwrap_or_default();
        // Whatever else the authority may have signed is as good as no certificate.
        let peer = chain.first();
        let peer = peer.and_then(|certificate| PeerCertificate::parse(certificate).ok());
        Ok(TlsConnection { stream, peer })
    }

    /// The configuration of the port, once it is known.
    async fn config(&self) -> Option<Arc<ServerConfig>> {
        let mut configs = self.configs.clone();
        let known = configs.wait_for(Option::is_some).await.ok()?.clone()?;
        let TlsConfigs { http, link, .. } = &*known;
        match self.port {
            Port::Http => Some(http.clone()),
            Port::Link => link.clone(),
        }
    }

    async fn answer_plain(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let text = match self.port {
            Port::Http => HTTPS_ANSWER,
            Port::Link => LINK_ANSWER,
        };
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }
}
