//! Says why a fleet cannot be reached, and what to do about it.

use std::error::Error;
use std::io;

use reqwest::Url;

/// Why a request got no answer of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionProblem {
    /// The host name is not known.
    UnknownHost,
    /// Nothing listens on the port.
    Refused,
    /// The host does not answer.
    Unreachable,
    /// The certificate is not valid, or the port does not speak TLS.
    Tls,
    /// The port does not speak HTTP as it was spoken to.
    NotHttp,
    /// Anything else.
    Other,
}

/// Returns the message for a request to the fleet at `base` that failed with `error`.
pub(crate) fn message(base: &Url, error: &reqwest::Error) -> String {
    let shown = without_credentials(base.as_str());
    let host = base.host_str().unwrap_or_default();
    let port = base.port_or_known_default().unwrap_or_default();
    let cause = root_cause(error);
    match classify(base, error) {
        ConnectionProblem::UnknownHost => format!(
            "the host '{host}' of {shown} is not known ({cause}): check its spelling and the name service of this machine"
        ),
        ConnectionProblem::Refused => format!(
            "nothing listens on port {port} of {host}: is the controller running? Start a fleet with `flotilla up`, or set the fleet's URL with --url or FLOTILLA_URL"
        ),
        ConnectionProblem::Unreachable => format!(
            "{host} does not answer on port {port} ({cause}): is the address right, and does a firewall let it through?"
        ),
        ConnectionProblem::Tls => format!(
            "no TLS connection to {shown}: {cause}. Controllers speak plain HTTP unless a proxy in front of them adds TLS: then its certificate must be valid for {host}"
        ),
        ConnectionProblem::NotHttp => format!(
            "{host}:{port} does not speak HTTP ({cause}): give the address of a controller's --http, not of its --link, and https:// where a proxy adds TLS"
        ),
        ConnectionProblem::Other => format!("no answer of {shown}: {cause}"),
    }
}

/// Returns a URL without the user name and the password in it.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// Finds the problem in the chain of an error's causes.
fn classify(base: &Url, sent: &reqwest::Error) -> ConnectionProblem {
    let mut cause: Option<&(dyn Error + 'static)> = Some(sent);
    while let Some(error) = cause {
        let text = error.to_string();
        // The name service has no error type of its own.
        if text.contains("dns error") || text.contains("failed to lookup address") {
            return ConnectionProblem::UnknownHost;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => return ConnectionProblem::Refused,
                io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => return ConnectionProblem::Unreachable,
                _ => {}
            }
        }
        if text.contains("invalid HTTP") || text.contains("message is incomplete") {
            return ConnectionProblem::NotHttp;
        }
        cause = error.source();
    }
    // The TCP connection is there, and what follows before HTTP is TLS.
    if sent.is_connect() && base.scheme() == "https" {
        return ConnectionProblem::Tls;
    }
    ConnectionProblem::Other
}

/// Returns the text of the innermost cause.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn problem(url: &str) -> (ConnectionProblem, String) {
        let error = reqwest::get(url).await.unwrap_err();
        let base = Url::parse(url).unwrap();
        (classify(&base, &error), message(&base, &error))
    }

    /// Returns the address of a server that answers everything with these bytes.
    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1_024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn causes_are_distinguished_and_no_password_is_printed() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = free.local_addr().unwrap().to_string();
        drop(free);
        let other = server(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        let plain = server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        for (url, expected) in [
            (
                format!("http://u:secret@{closed}"),
                ConnectionProblem::Refused,
            ),
            (
                "http://u:secret@no-such-host.invalid:8080".to_owned(),
                ConnectionProblem::UnknownHost,
            ),
            (format!("https://u:secret@{plain}"), ConnectionProblem::Tls),
            (
                format!("http://u:secret@{other}"),
                ConnectionProblem::NotHttp,
            ),
        ] {
            let (found, text) = problem(&url).await;
            assert_eq!(found, expected, "{url}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn credentials_are_removed_from_any_text_that_looks_like_a_url() {
        for (url, shown) in [
            ("http://a:b@c:1/x", "http://c:1/x"),
            ("http://a:b@d@c/x@y", "http://c/x@y"),
            ("http://c/x@y", "http://c/x@y"),
            ("c:1", "c:1"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
