//! A controller's settings.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A controller's settings, read once at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients reach the API.
    pub http: SocketAddr,
    /// Where agents reach the controller.
    pub link: SocketAddr,
    pub store: StoreAddress,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// How long a request may wait for its first token.
    pub first_token_timeout: Duration,
    /// How long a node may be away before its models are placed elsewhere.
    pub node_grace: Duration,
    /// Connections each agent turns round. One is one task on each side.
    pub connections: u32,
    /// How long streams under way may go on once the controller is asked to stop.
    pub stop_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            link: SocketAddr::from(([127, 0, 0, 1], 7070)),
            store: StoreAddress::Embedded("flotilla-data/controller".into()),
            max_body: 4 << 20,
            first_token_timeout: Duration::from_secs(300),
            node_grace: Duration::from_secs(5),
            connections: 1,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Which store holds the wish: `embedded:DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A file in this directory; one controller.
    Embedded(PathBuf),
}

/// Why a text is no store address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    #[error("the etcd store is not part of this version: use embedded:DIR")]
    Etcd,
    #[error("'{0}' is not a store: use embedded:DIR")]
    Unknown(String),
}

impl FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        match text.split_once(':') {
            Some(("embedded", dir)) if !dir.is_empty() => Ok(Self::Embedded(dir.into())),
            Some(("etcd", _)) => Err(StoreAddressError::Etcd),
            _ => Err(StoreAddressError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(dir) => write!(f, "embedded:{}", dir.display()),
        }
    }
}
