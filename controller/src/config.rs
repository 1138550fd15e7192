//! The controller's configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use flotilla_gateway::{ApiConfig, CorsOrigin};
use flotilla_telemetry::TelemetrySettings;

use crate::artifacts::SourceHosts;
use crate::tls::TlsSettings;

/// The default time that a suspect node has to return: longer than an agent needs for an attempt to dial
/// that fails (5 s), the longest pause after it (5 s), and joining.
const DEFAULT_NODE_GRACE: Duration = Duration::from_secs(15);

/// The folder that models' paths may lead into by default.
pub const DEFAULT_MODEL_ROOT: &str = "/var/lib/flotilla/models";

/// Configuration of a controller, read once at start.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Address that the API listens on.
    pub http: SocketAddr,
    /// Address that agents connect to.
    pub link: SocketAddr,
    /// `host:port` that agents and other controllers use for `link`. `None`: the address itself, or
    /// the machine's own address with its port when `link` listens on all addresses.
    pub advertise_link: Option<String>,
    /// The same for `http`.
    pub advertise_http: Option<String>,
    /// The store of the desired state.
    pub store: StoreAddress,
    /// Whether a new fleet is begun in an empty store although other files of a fleet show that it was lost.
    /// An embedded store is created then.
    pub init_store: bool,
    /// TLS of both ports.
    pub tls: TlsSettings,
    /// Directory for model files.
    pub data_dir: PathBuf,
    /// Folders that models' `controllerPath` may lead into.
    pub model_roots: Vec<PathBuf>,
    /// Hosts that the files of models may be fetched from.
    pub source_hosts: SourceHosts,
    /// PEM file with further authorities that the sources of models may have their certificates from.
    pub ca_file: Option<PathBuf>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Who may use the API, and what clients see besides the models.
    pub http_api: HttpApiConfig,
    /// Longest time that a request waits for its first token.
    pub first_token_timeout: Duration,
    /// Longest time from the arrival of a request to the end of its answer.
    pub answer_timeout: Duration,
    /// Silence on a link after which its node becomes suspect.
    pub link_timeout: Duration,
    /// Time that a suspect node has to return before it is lost and its models are placed elsewhere.
    pub node_grace: Duration,
    /// Reverse connections that each agent opens for requests. Each one is one task on both sides.
    pub connections: u32,
    /// Number of routing decisions kept in memory, about 1 kB each.
    pub decisions: usize,
    /// Whether recorded decisions contain the last message of the prompt. Requests that are
    /// restricted to privacy zones are never recorded with it.
    pub record_prompts: bool,
    /// Where traces and metrics are sent.
    pub telemetry: TelemetrySettings,
    /// Time that open streams have to finish when the controller stops.
    pub stop_grace: Duration,
}

impl ControllerConfig {
    /// Whether the API is closed to requests without a key: if so configured, and wherever other machines reach it,
    /// unless an operator has said that it may be open.
    pub(crate) fn requires_keys(&self) -> bool {
        let is_reachable = !self.http.ip().is_loopback();
        self.http_api.require_keys || (is_reachable && !self.tls.insecure)
    }
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            link: SocketAddr::from(([127, 0, 0, 1], 7070)),
            advertise_link: None,
            advertise_http: None,
            store: StoreAddress::Embedded("/var/lib/flotilla/controller".into()),
            init_store: false,
            tls: TlsSettings::default(),
            data_dir: "/var/lib/flotilla/controller".into(),
            model_roots: vec![DEFAULT_MODEL_ROOT.into()],
            source_hosts: SourceHosts::default(),
            ca_file: None,
            max_body: 4 << 20,
            http_api: HttpApiConfig::default(),
            first_token_timeout: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(600),
            link_timeout: flotilla_proto::transport::DEFAULT_KEEPALIVE_TIMEOUT,
            node_grace: DEFAULT_NODE_GRACE,
            connections: 1,
            decisions: 100_000,
            record_prompts: false,
            telemetry: TelemetrySettings::DISABLED,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Who may use the API, and what clients see besides the models.
#[derive(Debug, Clone)]
pub struct HttpApiConfig {
    /// Origins whose web pages may use the API, except the admin API.
    pub cors_origins: Vec<CorsOrigin>,
    /// Whether requests need a key. Without, everybody who reaches the API may do everything.
    pub require_keys: bool,
    /// Host names that clients may reach the API by, besides those that the controller knows itself.
    pub hosts: Vec<String>,
    /// Silence of a stream after which a comment is sent.
    pub stream_keep_alive: Duration,
    /// Whether `/v1/models` lists `auto` and the tasks too.
    pub list_tasks: bool,
}

impl Default for HttpApiConfig {
    fn default() -> Self {
        let ApiConfig {
            stream_keep_alive,
            list_tasks,
            ..
        } = ApiConfig::default();
        Self {
            cors_origins: Vec::new(),
            require_keys: false,
            hosts: Vec::new(),
            stream_keep_alive,
            list_tasks,
        }
    }
}

/// The store of the desired state: `embedded:DIR` or `etcd://HOST:PORT,HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A database file in this directory, for a fleet with one controller.
    Embedded(PathBuf),
    /// An etcd cluster, for a fleet with several controllers, of which one leads.
    Etcd(EtcdAddress),
}

/// Addresses and credentials of an etcd cluster.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdAddress {
    /// `HOST:PORT` of each member.
    pub endpoints: Vec<String>,
    /// User name and password. `None`: etcd without authentication.
    pub user: Option<(String, String)>,
    /// TLS files. `None`: connections without TLS.
    pub tls: Option<EtcdTls>,
}

/// PEM files for TLS to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificate of the authority that signed the members' certificates.
    pub ca: PathBuf,
    /// The controller's own certificate and key. `None` when the members do not require one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdAddress {
    /// URLs of the members.
    pub(crate) fn urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = |member: &String| format!("{scheme}://{member}");
        self.endpoints.iter().map(url).collect()
    }
}

// The configuration is logged at start, but the password must not be.
impl fmt::Debug for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdAddress")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .finish()
    }
}

/// Why a string is not a store address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    /// A part of an etcd address is not `HOST:PORT`.
    #[error("'{0}' names no etcd member: use etcd://HOST:PORT,HOST:PORT")]
    Etcd(String),
    /// The scheme is neither `embedded` nor `etcd`.
    #[error("'{0}' is not a store: use embedded, embedded:DIR or etcd://HOST:PORT,HOST:PORT")]
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
                let is_host_and_port = |member: &String| {
                    let port = member
                        .rsplit_once(':')
                        .map(|(host, port)| (host, port.parse::<u16>()));
                    matches!(port, Some((host, Ok(_))) if !host.is_empty() && !host.contains('/'))
                };
                if !endpoints.iter().all(is_host_and_port) {
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
    fn api_that_other_machines_reach_requires_keys() {
        let requires = |http: &str, insecure: bool, require_keys: bool| {
            let mut config = ControllerConfig {
                http: http.parse().unwrap(),
                ..ControllerConfig::default()
            };
            config.tls.insecure = insecure;
            config.http_api.require_keys = require_keys;
            config.requires_keys()
        };
        assert!(!requires("127.0.0.1:1", false, false));
        assert!(requires("127.0.0.1:1", false, true));
        assert!(requires("0.0.0.0:1", false, false));
        assert!(!requires("0.0.0.0:1", true, false));
        assert!(requires("0.0.0.0:1", true, true));
    }

    #[test]
    fn store_addresses_are_parsed_and_printed() {
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
