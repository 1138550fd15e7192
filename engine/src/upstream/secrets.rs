//! The API keys of servers. The owner of a node names each with the hosts that may get it, so that a model's spec
//! cannot send a key, or anything else that the agent can read, to another server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::LoadError;

/// Longest secret, in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// A secret in a file of the node, and a host that it may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSecret {
    /// The name by which a model's `options.apiKeySecret` names it. Several hosts may get the same secret.
    pub name: String,
    /// The file, whose content without surrounding white space is the secret.
    pub file: PathBuf,
    /// `HOST` for any port of it, or `HOST:PORT`.
    pub host: String,
}

/// The text is not `NAME=FILE@HOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be NAME=FILE@HOST, for example openai=/etc/flotilla/openai.key@api.openai.com; HOST may have a :PORT"
)]
pub struct SecretSyntaxError;

impl FromStr for UpstreamSecret {
    type Err = SecretSyntaxError;

    fn from_str(text: &str) -> Result<Self, SecretSyntaxError> {
        let (name, rest) = text.split_once('=').ok_or(SecretSyntaxError)?;
        let (file, host) = rest.rsplit_once('@').ok_or(SecretSyntaxError)?;
        let is_host = !host.is_empty() && !host.contains(['/', ' ']);
        if name.is_empty() || file.is_empty() || !is_host {
            return Err(SecretSyntaxError);
        }
        Ok(Self {
            name: name.to_owned(),
            file: file.into(),
            host: host.to_ascii_lowercase(),
        })
    }
}

/// Returns the secret `name` for the server at `url`.
///
/// # Errors
/// [`LoadError::Spec`] if the node has no such secret, if the server may not get it, or if its file cannot be used.
pub(super) fn secret_for(
    secrets: &[UpstreamSecret],
    name: &str,
    url: &str,
) -> Result<String, LoadError> {
    let server = Url::parse(url).map_err(|e| LoadError::Spec(format!("spec.options.url: {e}")))?;
    let host = server.host_str().unwrap_or_default().to_ascii_lowercase();
    let port = server.port_or_known_default().unwrap_or_default();
    let host_and_port = format!("{host}:{port}");
    let named: Vec<_> = secrets
        .iter()
        .filter(|secret| secret.name == name)
        .collect();
    if named.is_empty() {
        return Err(LoadError::Spec(format!(
            "the node has no secret '{name}', which spec.options.apiKeySecret names: start its agent with --upstream-secret {name}=FILE@{host}"
        )));
    }
    let for_server =
        |secret: &&&UpstreamSecret| secret.host == host || secret.host == host_and_port;
    let Some(secret) = named.iter().find(for_server) else {
        let hosts: Vec<_> = named.iter().map(|secret| secret.host.as_str()).collect();
        return Err(LoadError::Spec(format!(
            "the agent may send the secret '{name}' only to {}, and spec.options.url is at {host_and_port}: correct it, or start the agent with --upstream-secret {name}=FILE@{host}, too",
            hosts.join(", ")
        )));
    };
    read(&secret.file).map_err(|problem| {
        let file = secret.file.display();
        LoadError::Spec(format!(
            "the secret '{name}' cannot be used, because {file} {problem}"
        ))
    })
}

/// Reads a secret. The error says what is wrong with the file, and nothing of its content.
fn read(file: &Path) -> Result<String, String> {
    let cannot_read = |error: std::io::Error| format!("cannot be read: {error}");
    let mut content = String::new();
    let file = std::fs::File::open(file).map_err(cannot_read)?;
    let mut limited = file.take(MAX_SECRET_BYTES);
    limited.read_to_string(&mut content).map_err(cannot_read)?;
    let secret = content.trim();
    if secret.is_empty() {
        return Err("is empty".into());
    }
    if limited.limit() == 0 || HeaderValue::from_str(secret).is_err() {
        return Err("has something else than a key in one line of ASCII".into());
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_sent_only_to_the_hosts_that_its_owner_has_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key@home");
        std::fs::write(&file, "sk-123\n").unwrap();
        let secret = |name: &str, host: &str| -> UpstreamSecret {
            format!("{name}={}@{host}", file.display()).parse().unwrap()
        };
        let secrets = [
            secret("k", "API.example"),
            secret("k", "127.0.0.1:8081"),
            secret("other", "other.example"),
        ];
        let send = |name: &str, url: &str| secret_for(&secrets, name, url);
        for url in [
            "https://api.example/v1",
            "https://API.example:8443/v1",
            "http://127.0.0.1:8081/v1",
        ] {
            assert_eq!(send("k", url), Ok("sk-123".into()), "{url}");
        }
        for (name, url) in [
            ("k", "http://127.0.0.1:8082/v1"),
            ("k", "https://api.example.evil.example/v1"),
            ("k", "https://api.example@evil.example/v1"),
            ("k", "https://other.example/v1"),
            ("PATH", "https://api.example/v1"),
        ] {
            let error = send(name, url).unwrap_err().to_string();
            assert!(error.contains("--upstream-secret"), "{error}");
            assert!(!error.contains("sk-123"), "{error}");
        }
    }

    #[test]
    fn file_that_is_no_key_is_refused_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let secret = UpstreamSecret {
            name: "k".into(),
            file: file.clone(),
            host: "h".into(),
        };
        let send = || secret_for(std::slice::from_ref(&secret), "k", "http://h/v1");
        assert!(send().unwrap_err().to_string().contains("cannot be read"));
        for content in ["", " \n", "two\nlines", "x\u{e9}\u{1}", &"x".repeat(70_000)] {
            std::fs::write(&file, content).unwrap();
            let error = send().unwrap_err().to_string();
            assert!(!error.contains("two") && error.contains("k"), "{error}");
        }
    }

    #[test]
    fn syntax_is_checked() {
        for text in ["", "k", "k=f", "=f@h", "k=@h", "k=f@", "k=f@http://h"] {
            assert_eq!(
                text.parse::<UpstreamSecret>(),
                Err(SecretSyntaxError),
                "{text}"
            );
        }
    }
}
