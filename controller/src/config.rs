//! A controller's settings.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use flotilla_telemetry::TelemetrySettings;

/// A controller's settings, read once at start.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where clients reach the API.
    pub http: SocketAddr,
    /// Where agents reach the controller.
    pub link: SocketAddr,
    /// `host:port` of `link` as agents and other controllers are told it. Default: the address
    /// itself, or the machine's name where that stands for all addresses.
    pub advertise_link: Option<String>,
    /// The same of `http`.
    pub advertise_http: Option<String>,
    pub store: StoreAddress,
    /// Where files of models are kept.
    pub data_dir: PathBuf,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// How long a request may wait for its first token.
    pub first_token_timeout: Duration,
    /// How long a link to a node may be silent before the node counts as away.
    pub link_timeout: Duration,
    /// How long a node may be away before its models are placed elsewhere.
    pub node_grace: Duration,
    /// Connections each agent turns round. One is one task on each side.
    pub connections: u32,
    /// Routing decisions that are kept, each of about 1 kB.
    pub decisions: usize,
    /// Whether decisions on record hold the newest turn of what was asked. Never that of requests
    /// which are held to privacy zones.
    pub record_prompts: bool,
    pub telemetry: TelemetrySettings,
    /// How long streams under way may go on once the controller is asked to stop.
    pub stop_grace: Duration,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            link: SocketAddr::from(([127, 0, 0, 1], 7070)),
            advertise_link: None,
            advertise_http: None,
            store: StoreAddress::Embedded("flotilla-data/controller".into()),
            data_dir: "flotilla-data/controller".into(),
            max_body: 4 << 20,
            first_token_timeout: Duration::from_secs(300),
            link_timeout: flotilla_proto::transport::DEFAULT_KEEPALIVE_TIMEOUT,
            node_grace: Duration::from_secs(5),
            connections: 1,
            decisions: 100_000,
            record_prompts: false,
            telemetry: TelemetrySettings::DISABLED,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// `host:port` under which others reach what listens at `address`.
pub(crate) fn advertised(given: Option<&str>, address: SocketAddr) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    if address.ip().is_unspecified()
        && let Ok(name) = sysinfo::System::host_name()
    {
        return format!("{name}:{}", address.port());
    }
    address.to_string()
}

/// Which store holds the wish: `embedded:DIR` or `etcd://HOST:PORT,HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A file in this directory; one controller.
    Embedded(PathBuf),
    /// An etcd cluster; several controllers, of which one leads.
    Etcd(EtcdAddress),
}

/// How an etcd cluster is reached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdAddress {
    /// `HOST:PORT` of each member.
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, String)>,
    pub tls: Option<EtcdTls>,
}

/// PEM files for TLS to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub ca: PathBuf,
    /// The controller's own certificate and key, where the members ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdAddress {
    /// The members as URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = |member: &String| format!("{scheme}://{member}");
        self.endpoints.iter().map(url).collect()
    }
}

// Settings are logged at start; the password is not.
impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdAddress")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .finish()
    }
}

/// Why a text is no store address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    #[error("'{0}' names no etcd member: use etcd://HOST:PORT,HOST:PORT")]
    Etcd(String),
    #[error("'{0}' is not a store: use embedded:DIR or etcd://HOST:PORT,HOST:PORT")]
    Unknown(String),
}

impl FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        match text.split_once(':') {
            Some(("embedded", dir)) if !dir.is_empty() => Ok(Self::Embedded(dir.into())),
            Some(("etcd", members)) => {
                let members = members.strip_prefix("//").unwrap_or_default();
                let endpoints: Vec<_> = members.split(',').map(str::to_owned).collect();
                let named = |member: &String| {
                    let port = member
                        .rsplit_once(':')
                        .map(|(host, port)| (host, port.parse::<u16>()));
                    matches!(port, Some((host, Ok(_))) if !host.is_empty() && !host.contains('/'))
                };
                if !endpoints.iter().all(named) {
                    return Err(StoreAddressError::Etcd(text.to_owned()));
                }
                Ok(Self::Etcd(EtcdAddress {
                    endpoints,
                    ..EtcdAddress::default()
                }))
            }
            _ => Err(StoreAddressError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(dir) => write!(f, "embedded:{}", dir.display()),
            Self::Etcd(address) => write!(f, "etcd://{}", address.endpoints.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_advertised_by_name() {
        let all = SocketAddr::from(([0, 0, 0, 0], 7070));
        let one = SocketAddr::from(([10, 0, 0, 1], 7070));
        assert_eq!(advertised(Some("c:1"), all), "c:1");
        assert_eq!(advertised(None, one), "10.0.0.1:7070");
        assert!(!advertised(None, all).starts_with("0.0.0.0"));
    }

    #[test]
    fn store_addresses_are_read_and_written() {
        for text in [
            "embedded:a/b",
            "etcd://a:2379",
            "etcd://10.0.0.1:2379,[::1]:2379",
        ] {
            assert_eq!(text.parse::<StoreAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "embedded:",
            "etcd:",
            "etcd://",
            "etcd://a",
            "etcd://a:1,",
            "etcd://a:x",
            "redis:x",
        ] {
            assert!(text.parse::<StoreAddress>().is_err(), "{text}");
        }
    }
}
