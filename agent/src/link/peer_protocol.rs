//! Finds out what answers at an address where no controller's link port does.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connector::Connector;

/// Time for the whole question.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of the answer that are read.
const MAX_ANSWER_BYTES: u64 = 8 << 10;
/// The type of a TLS record that reports an error.
const TLS_ALERT: u8 = 0x15;

/// What answers at an address, if it is no link port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PeerProtocol {
    #[error(
        "this is the HTTP port of a controller: --join takes its link port, 7070 unless the controller's --link says otherwise"
    )]
    FlotillaHttp,
    #[error(
        "a web server answers there, and no controller: --join takes the address of a controller's --link, port 7070 by default"
    )]
    WebServer,
    #[error(
        "links to this controller have TLS: start the agent with --token-file FILE and a token of `flotilla token create`"
    )]
    LinkWithTls,
    #[error(
        "this is the HTTPS port of a controller: --join takes its link port, 7070 unless the controller's --link says otherwise"
    )]
    FlotillaHttps,
    #[error(
        "a server with TLS answers there, and links have no TLS without --token-file: --join takes the address of a controller's --link, port 7070 by default, without a TLS proxy between"
    )]
    Tls,
}

/// Asks the server at `address` in HTTP/1.1. `None`: it does not answer, or in a protocol that is not
/// known.
pub(super) async fn probe(connector: &Connector, address: &str) -> Option<PeerProtocol> {
    let ask = async {
        let (mut stream, _) = connector.connect(address).await.ok()?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // A server may break the connection after its answer.
        let _ = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await;
        classify(&answer)
    };
    timeout(PROBE_TIMEOUT, ask).await.ok().flatten()
}

/// Tells the protocol of a server from its answer to `GET /readyz` in HTTP/1.1.
fn classify(answer: &[u8]) -> Option<PeerProtocol> {
    if answer.first() == Some(&TLS_ALERT) {
        return Some(PeerProtocol::Tls);
    }
    let text = String::from_utf8_lossy(answer);
    let status = text.strip_prefix("HTTP/1.")?;
    // The ports of a controller with TLS.
    if text.contains("This link port requires TLS") {
        return Some(PeerProtocol::LinkWithTls);
    }
    if text.contains("This port speaks HTTPS, and the request came without TLS") {
        return Some(PeerProtocol::FlotillaHttps);
    }
    // Servers with TLS that recognize plain HTTP: nginx, Go and Apache.
    let is_plain_refused = status.get(1..5) == Some(" 400")
        && (text.contains("HTTPS") || text.contains("SSL-enabled"));
    Some(if is_plain_refused {
        PeerProtocol::Tls
    } else if text.contains("\"ready\":") && text.contains("\"notes\":") {
        PeerProtocol::FlotillaHttp
    } else {
        PeerProtocol::WebServer
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_no_link_port_are_distinguished() {
        let controller = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\r\n{\"ready\":false,\"notes\":[]}";
        let nginx = "HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<title>400 The plain HTTP request was sent to HTTPS port</title>";
        let go =
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        for (answer, expected) in [
            (controller.as_bytes(), Some(PeerProtocol::FlotillaHttp)),
            (nginx.as_bytes(), Some(PeerProtocol::Tls)),
            (go.as_bytes(), Some(PeerProtocol::Tls)),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\nThis link port requires TLS (HTTPS is not",
                Some(PeerProtocol::LinkWithTls),
            ),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\nThis port speaks HTTPS, and the request came without TLS",
                Some(PeerProtocol::FlotillaHttps),
            ),
            (b"\x15\x03\x01\x00\x02\x02\x46", Some(PeerProtocol::Tls)),
            (
                b"HTTP/1.1 404 Not Found\r\n\r\n",
                Some(PeerProtocol::WebServer),
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n", None),
            (b"", None),
            // The settings with which a link port begins.
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", None),
        ] {
            let text = String::from_utf8_lossy(answer);
            assert_eq!(classify(answer), expected, "{text}");
        }
    }
}
