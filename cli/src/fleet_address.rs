//! Where a command finds its fleet, and the key that it presents: from the flags, the environment and the context.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::args::Endpoint;
use crate::contexts::{self, Contexts};

/// The URL without any other.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// The largest file with a key that is read, in bytes.
const MAX_KEY_FILE: u64 = 4_096;

/// Where a fleet is, and the key for it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct FleetAddress {
    pub(crate) url: String,
    pub(crate) key: Option<String>,
    /// A PEM file with further certificate authorities.
    pub(crate) ca_file: Option<PathBuf>,
}

impl FleetAddress {
    /// Finds the fleet of a command.
    ///
    /// # Errors
    /// Returns an error if a file or the context cannot be used.
    pub(crate) fn of(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let needs_context = endpoint.url.is_none() || endpoint.context.is_some();
        let contexts = match needs_context {
            // Without a home directory there are no contexts.
            true => {
                contexts::file().map_or_else(|_| Ok(Contexts::default()), |f| contexts::load(&f))?
            }
            false => Contexts::default(),
        };
        Self::with_contexts(endpoint, &contexts)
    }

    /// Flags and the environment come first, which clap has merged, then the context. A URL of its own gets no key of
    /// a context, unless that is named: it may be another fleet's.
    fn with_contexts(endpoint: &Endpoint, contexts: &Contexts) -> anyhow::Result<Self> {
        let context = match (&endpoint.context, &endpoint.url) {
            (None, Some(_)) => None,
            (name, _) => contexts.select(name.as_deref())?,
        };
        let key = match (&endpoint.key_file, &endpoint.key) {
            (Some(file), _) => Some(read_key(file)?),
            (None, Some(key)) => Some(key.trim().to_owned()).filter(|key| !key.is_empty()),
            (None, None) => context.map(|context| context.key()).transpose()?.flatten(),
        };
        let of_context = context.map(|context| context.url.clone());
        let url = endpoint.url.clone().or(of_context);
        let ca_file = endpoint.ca_file.clone();
        Ok(Self {
            url: url.unwrap_or_else(|| DEFAULT_URL.to_owned()),
            key,
            ca_file: ca_file.or_else(|| context?.ca_file.clone()),
        })
    }
}

/// Reads a key from a file.
///
/// # Errors
/// Returns an error with the file if it cannot be read or has no key.
pub(crate) fn read_key(file: &Path) -> anyhow::Result<String> {
    let context = || format!("cannot read the key in {}", file.display());
    let size = std::fs::metadata(file).with_context(context)?.len();
    if size > MAX_KEY_FILE {
        bail!("{}: it is too large", context());
    }
    let text = std::fs::read_to_string(file).with_context(context)?;
    let key = text.trim();
    if key.is_empty() {
        bail!("{}: it is empty", context());
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contexts::FleetContext;

    fn address(endpoint: Endpoint) -> FleetAddress {
        let mut contexts = Contexts::default();
        for name in ["other", "current"] {
            contexts.set_current(FleetContext {
                name: name.into(),
                url: format!("https://{name}"),
                ca_file: Some("ca.pem".into()),
                key: Some(format!("key of {name}")),
                key_command: Vec::new(),
            });
        }
        FleetAddress::with_contexts(&endpoint, &contexts).unwrap()
    }

    #[test]
    fn flags_come_before_the_context() {
        let current = address(Endpoint::default());
        assert_eq!(current.url, "https://current");
        assert_eq!(current.key.as_deref(), Some("key of current"));
        assert!(current.ca_file.is_some());
        let named = address(Endpoint {
            context: Some("other".into()),
            key: Some("own".into()),
            ..Endpoint::default()
        });
        assert_eq!(
            (named.url.as_str(), named.key.as_deref()),
            ("https://other", Some("own"))
        );
    }

    #[test]
    fn a_key_of_a_context_is_not_sent_to_another_url() {
        let other = address(Endpoint {
            url: Some("http://else".into()),
            ..Endpoint::default()
        });
        assert_eq!((other.url.as_str(), other.key), ("http://else", None));
        let none = FleetAddress::with_contexts(&Endpoint::default(), &Contexts::default());
        assert_eq!(none.unwrap().url, DEFAULT_URL);
    }

    #[test]
    fn a_key_is_read_from_a_file_without_its_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "flt_a_b\n").unwrap();
        assert_eq!(read_key(&file).unwrap(), "flt_a_b");
        std::fs::write(&file, "\n").unwrap();
        assert!(read_key(&file).is_err());
    }
}
