//! Says why a fleet cannot be reached, and what to do about it.

use std::error::Error;
use std::io;
use std::path::Path;

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
    /// The port speaks HTTP without TLS.
    PlainHttp,
    /// The certificate is not accepted.
    Certificate,
    /// There is no TLS connection for another reason.
    Tls,
    /// The port does not speak HTTP without TLS.
    NotHttp,
    /// Anything else.
    Other,
}

/// Returns the message for a request over the admin socket `socket` that failed with `error`.
pub(crate) fn socket_message(socket: &Path, error: &reqwest::Error) -> String {
    format!(
        "no answer on the admin socket {} ({}): is a controller running with this data directory, and as this user?",
        socket.display(),
        root_cause(error)
    )
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
        ConnectionProblem::PlainHttp => {
            format!("{host}:{port} has no TLS: use http://{host}:{port}")
        }
        ConnectionProblem::Certificate => format!(
            "the certificate of {shown} is not accepted: {}",
            certificate_problem(&cause, host)
        ),
        ConnectionProblem::Tls => format!(
            "no TLS connection to {shown} ({cause}): a controller has TLS only if it is started with a certificate; use http:// otherwise"
        ),
        ConnectionProblem::NotHttp => format!(
            "{host}:{port} does not answer in HTTP: give the address of a controller's --http (port 8080 by default), not of its --link, https:// where the controller has TLS, and https:// where a proxy adds TLS"
        ),
        ConnectionProblem::Other => format!("no answer of {shown}: {cause}"),
    }
}

/// Says what is wrong with a certificate, and what to do about it.
fn certificate_problem(cause: &str, host: &str) -> String {
    if cause.contains("UnknownIssuer") || cause.contains("CaUsedAsEndEntity") {
        "no authority that this machine trusts has signed it; give the file of that authority's certificate with --ca-file (a fleet's is authority.crt in a controller's --data-dir)".into()
    } else if cause.contains("NotValidForName") || cause.contains("not valid for name") {
        format!("it is not valid for the name {host}; use a name that it is valid for")
    } else if cause.contains("Expired")
        || cause.contains("NotValidYet")
        || cause.contains("expired")
    {
        "it has expired or is not valid yet; renew it, and check this machine's clock".into()
    } else {
        format!("{cause}; the controller (--tls-cert) or the proxy that adds TLS needs another one")
    }
}

/// Whether a web server says in this answer that it was spoken to without TLS: nginx, Go and Apache do.
pub(crate) fn wants_tls(status: u16, body: &str) -> bool {
    status == 400 && (body.contains("HTTPS") || body.contains("SSL-enabled"))
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
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
                    if base.scheme() == "http" =>
                {
                    return ConnectionProblem::NotHttp;
                }
                io::ErrorKind::TimedOut
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => return ConnectionProblem::Unreachable,
                _ => {}
            }
        }
        if text.contains("InvalidContentType") {
            return ConnectionProblem::PlainHttp;
        }
        if text.contains("invalid peer certificate") {
            return ConnectionProblem::Certificate;
        }
        if text.contains("invalid HTTP") || text.contains("message is incomplete") {
            return ConnectionProblem::NotHttp;
        }
        cause = error.source();
    }
    if sent.is_timeout() && sent.is_connect() {
        return ConnectionProblem::Unreachable;
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
        // The alert of a TLS server that gets a request in plain HTTP.
        let tls = server(b"\x15\x03\x03\x00\x02\x02\x16").await;
        let broken = server(b"").await;
        for (url, expected) in [
            (
                format!("http://u:secret@{closed}"),
                ConnectionProblem::Refused,
            ),
            (
                "http://u:secret@no-such-host.invalid:8080".to_owned(),
                ConnectionProblem::UnknownHost,
            ),
            (
                format!("https://u:secret@{plain}"),
                ConnectionProblem::PlainHttp,
            ),
            (format!("http://u:secret@{tls}"), ConnectionProblem::NotHttp),
            (format!("https://u:secret@{broken}"), ConnectionProblem::Tls),
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
    fn problems_of_certificates_are_named_with_what_to_do() {
        for (cause, problem) in [
            ("invalid peer certificate: UnknownIssuer", "--ca-file"),
            (
                "invalid peer certificate: certificate not valid for name \"h\"; certificate is only valid for DnsName(\"x\")",
                "not valid for the name h",
            ),
            (
                "invalid peer certificate: certificate expired: verification time 2 (UNIX)",
                "clock",
            ),
            ("invalid peer certificate: BadEncoding", "BadEncoding"),
        ] {
            let text = certificate_problem(cause, "h");
            assert!(text.contains(problem), "{text}");
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
