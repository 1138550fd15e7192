//! Arguments of the commands that run a fleet: `up`, `controller` and `agent`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;

use flotilla_controller::{
    CorsOrigin, EtcdAddress, EtcdTls, HttpApiConfig, StoreAddress, StoreAddressError,
};
use flotilla_core::energy::PowerRange;
use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, HumanDuration, NodeName, Watts, ZoneName};
use flotilla_identity::enrolment::JoinToken;

use crate::default_data_dir::default_data_dir;

use super::access::TlsArgs;
use super::time_limits::TimeLimitArgs;
use super::trust::{ModelRootArgs, SourceHostArgs, UpstreamSecretArgs};
use super::values::{
    ListenAddress, bytes_between, duration_between, host_port, ip_port, number_between,
    parse_fleet_id, parse_interval, parse_label, parse_listen_address, parse_taint,
    seconds_between,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla up
  flotilla up --apply models/chat
  flotilla up --nodes 5 --http 0.0.0.0:8080 --link 0.0.0.0:7070 --secret-file /etc/flotilla/secret")]
pub(crate) struct UpArgs {
    /// Directory for the fleet's state. A later start with the same directory continues from it.
    /// Default: /var/lib/flotilla/up for root, ~/.local/state/flotilla/up for others.
    #[arg(long, env = "FLOTILLA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Begins a new fleet in an empty store although the directory has files of a fleet whose store is gone.
    /// Nodes belong to the earlier fleet until it is restored or they are moved.
    #[arg(long, env = "FLOTILLA_INIT_STORE")]
    pub(crate) init_store: bool,
    /// Address of the HTTP API.
    #[arg(long, env = "FLOTILLA_HTTP", value_name = "IP:PORT", default_value = "127.0.0.1:8080",
        value_parser = ip_port(8080))]
    pub(crate) http: SocketAddr,
    /// Address that agents on other machines connect to, such as 0.0.0.0:7070. Default: only the agents of
    /// this command can connect.
    #[arg(long, env = "FLOTILLA_LINK", value_name = "IP:PORT", value_parser = ip_port(7070))]
    pub(crate) link: Option<SocketAddr>,
    /// Address of `--link` from the view of agents on other machines. Default: `--link`, with the
    /// machine's own address if `--link` is an unspecified address such as 0.0.0.0.
    #[arg(
        long,
        env = "FLOTILLA_ADVERTISE_LINK",
        value_name = "HOST:PORT",
        requires = "link",
        value_parser = host_port("that agents reach", 7070)
    )]
    pub(crate) advertise_link: Option<String>,
    /// Number of agents to run, 1 to 100. Each one is a node of the fleet.
    #[arg(long, env = "FLOTILLA_NODES", value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) nodes: u32,
    /// File or folder with the models to apply at the first start. Default: the demo models.
    #[arg(long, env = "FLOTILLA_MODELS", value_name = "FILE|DIR")]
    pub(crate) models: Option<PathBuf>,
    /// File or folder with further resources to apply at every start, after the models. They replace resources
    /// of the same names. May be repeated.
    #[arg(
        long,
        env = "FLOTILLA_APPLY",
        value_name = "FILE|DIR",
        value_delimiter = ','
    )]
    pub(crate) apply: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) upstream_secrets: UpstreamSecretArgs,
    #[command(flatten)]
    pub(crate) source_hosts: SourceHostArgs,
    #[command(flatten)]
    pub(crate) http_api: HttpApiArgs,
    #[command(flatten)]
    pub(crate) time_limits: TimeLimitArgs,
}

/// The store that a controller is started with.
#[derive(Debug, Clone)]
pub(crate) enum StoreChoice {
    /// The embedded store in the data directory.
    InDataDir,
    /// The store at this address.
    Address(StoreAddress),
}

impl FromStr for StoreChoice {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        match text {
            "embedded" => Ok(Self::InDataDir),
            address => address.parse().map(Self::Address),
        }
    }
}

/// Who may use the HTTP API, and what clients see besides the models.
#[derive(Debug, clap::Args)]
pub(crate) struct HttpApiArgs {
    /// Origin whose web pages may use the API, such as https://chat.example, or `*` for all. May be
    /// repeated. The admin API is for no other origin. Default: none.
    #[arg(
        long = "cors-origin",
        env = "FLOTILLA_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    cors_origins: Vec<CorsOrigin>,
    /// Refuses requests to the HTTP API without a key of `flotilla key create`, on loopback, too. Where other
    /// machines reach the API, they are refused in any case, unless there is `--insecure`. The first key is created
    /// over the admin socket: `flotilla key create NAME --role admin --url unix:DATA_DIR/admin.sock`.
    #[arg(long, env = "FLOTILLA_REQUIRE_KEYS")]
    require_keys: bool,
    /// Host name that clients reach the HTTP API by, such as fleet.example. May be repeated. Requests that name
    /// another host are refused, except for IP addresses, localhost, the machine's name and the host of
    /// `--advertise-http`.
    #[arg(
        long = "http-host",
        env = "FLOTILLA_HTTP_HOSTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    http_hosts: Vec<String>,
    /// Silence of a streamed answer after which a comment is sent, so that proxies do not cut the
    /// connection, in seconds: 0.1 to 3600.
    #[arg(long, env = "FLOTILLA_STREAM_KEEP_ALIVE", value_name = "SECONDS", default_value = "10",
        value_parser = parse_interval)]
    stream_keep_alive: Duration,
    /// Lists only models at `/v1/models`, without `auto` and `task:NAME`.
    #[arg(long, env = "FLOTILLA_LIST_ONLY_MODELS")]
    list_only_models: bool,
}

impl HttpApiArgs {
    /// Returns the part of the controller's configuration.
    pub(crate) fn config(&self) -> HttpApiConfig {
        HttpApiConfig {
            cors_origins: self.cors_origins.clone(),
            require_keys: self.require_keys,
            hosts: self.http_hosts.clone(),
            stream_keep_alive: self.stream_keep_alive,
            list_tasks: !self.list_only_models,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla controller
  flotilla controller --http 0.0.0.0:8080 --link 0.0.0.0:7070 --secret-file /etc/flotilla/secret")]
pub(crate) struct ControllerArgs {
    /// Address of the HTTP API.
    #[arg(long, env = "FLOTILLA_HTTP", value_name = "IP:PORT", default_value = "127.0.0.1:8080",
        value_parser = ip_port(8080))]
    pub(crate) http: SocketAddr,
    /// Address that agents connect to.
    #[arg(long, env = "FLOTILLA_LINK", value_name = "IP:PORT", default_value = "127.0.0.1:7070",
        value_parser = ip_port(7070))]
    pub(crate) link: SocketAddr,
    /// Address of `--link` from the view of agents and other controllers. Default: `--link`, with the
    /// machine's own address if `--link` is an unspecified address such as 0.0.0.0.
    #[arg(long, env = "FLOTILLA_ADVERTISE_LINK", value_name = "HOST:PORT",
        value_parser = host_port("that agents and controllers reach", 7070))]
    pub(crate) advertise_link: Option<String>,
    /// Address of `--http` from the view of other controllers. Default: `--http`, with the machine's
    /// own address if `--http` is an unspecified address.
    #[arg(long, env = "FLOTILLA_ADVERTISE_HTTP", value_name = "HOST:PORT",
        value_parser = host_port("that other controllers reach", 8080))]
    pub(crate) advertise_http: Option<String>,
    /// Store of the desired state: `embedded` for one controller, which keeps it in `--data-dir`, or
    /// `embedded:DIR` in another directory, or `etcd://HOST:PORT,HOST:PORT` for several controllers
    /// that share an etcd cluster.
    #[arg(
        long,
        env = "FLOTILLA_STORE",
        value_name = "STORE",
        default_value = "embedded"
    )]
    store: StoreChoice,
    /// Directory for the embedded store and for the files of models that agents fetch from this
    /// controller. Default: the directory of `--store embedded:DIR`, else /var/lib/flotilla/controller
    /// for root and ~/.local/state/flotilla/controller for others.
    #[arg(long, env = "FLOTILLA_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Begins a new fleet in an empty store although the data directory has files of a fleet whose store is
    /// gone. Nodes belong to the earlier fleet until it is restored or they are moved.
    #[arg(long, env = "FLOTILLA_INIT_STORE")]
    pub(crate) init_store: bool,
    #[command(flatten)]
    pub(crate) model_roots: ModelRootArgs,
    #[command(flatten)]
    pub(crate) source_hosts: SourceHostArgs,
    /// PEM file with further certificate authorities, for the servers that models are fetched from.
    #[arg(long, env = "FLOTILLA_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// User name for etcd.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password"
    )]
    etcd_user: Option<String>,
    /// Password for etcd. Prefer the environment variable: other users of the machine can read the
    /// command line.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_PASSWORD",
        value_name = "PASSWORD",
        requires = "etcd_user",
        hide_env_values = true
    )]
    etcd_password: Option<String>,
    /// PEM file with the certificate authority of the etcd members. Turns TLS on.
    #[arg(long, env = "FLOTILLA_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// PEM file with the controller's client certificate for etcd.
    #[arg(long, env = "FLOTILLA_ETCD_CERT", value_name = "FILE", requires_all = ["etcd_ca", "etcd_key"])]
    etcd_cert: Option<PathBuf>,
    /// PEM file with the private key of the client certificate.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    etcd_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Maximum size of a request body, in bytes or with a unit such as 4MiB: 1KiB to 1GiB.
    #[arg(long, env = "FLOTILLA_MAX_BODY", value_name = "SIZE", default_value = "4MiB",
        value_parser = bytes_between("1KiB", "1GiB"))]
    pub(crate) max_body: Bytes,
    #[command(flatten)]
    pub(crate) http_api: HttpApiArgs,
    #[command(flatten)]
    pub(crate) time_limits: TimeLimitArgs,
    /// Maximum time to finish running requests when the controller stops, in seconds: 0 to 86400.
    #[arg(long, env = "FLOTILLA_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "30",
        value_parser = seconds_between(0.0, 86_400.0))]
    pub(crate) drain_timeout: Duration,
    /// Number of connections that each agent opens for requests, 1 to 64.
    #[arg(long, env = "FLOTILLA_CONNECTIONS_PER_AGENT", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections_per_agent: u32,
    /// Maximum number of routing decisions kept in memory, 1 to 10000000. Each takes about 1 kB.
    #[arg(long, env = "FLOTILLA_MAX_DECISIONS", value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) max_decisions: u32,
    /// Stores the last message of each request in its routing decision: its first 16 kB, and 64 MB of
    /// all together, the newest. Requests that must stay in a privacy zone are never stored.
    #[arg(long, env = "FLOTILLA_RECORD_PROMPTS")]
    pub(crate) record_prompts: bool,
}

impl ControllerArgs {
    /// Returns the data directory.
    ///
    /// # Errors
    /// Returns an error if there is no default for this user.
    pub(crate) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        match (&self.data_dir, &self.store) {
            (Some(dir), _) => Ok(std::path::absolute(dir)?),
            (None, StoreChoice::Address(StoreAddress::Embedded(dir))) => {
                Ok(std::path::absolute(dir)?)
            }
            (None, _) => default_data_dir(Path::new("controller")),
        }
    }

    /// Returns the address of the store, with the credentials and TLS files for etcd. `data_dir` is the
    /// data directory.
    ///
    /// # Errors
    /// Returns an error if there are etcd settings without an etcd store.
    pub(crate) fn store(&self, data_dir: &Path) -> anyhow::Result<StoreAddress> {
        let user = self.etcd_user.clone().zip(self.etcd_password.clone());
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        let tls = self.etcd_ca.clone().map(|ca| EtcdTls { ca, identity });
        let address = match self.store.clone() {
            StoreChoice::Address(address) => address,
            StoreChoice::InDataDir => StoreAddress::Embedded(data_dir.to_owned()),
        };
        match address {
            StoreAddress::Etcd(address) => Ok(StoreAddress::Etcd(EtcdAddress {
                user,
                tls,
                ..address
            })),
            StoreAddress::Embedded(_) if user.is_some() || tls.is_some() => {
                anyhow::bail!("--etcd-user and --etcd-ca require --store etcd://HOST:PORT")
            }
            StoreAddress::Embedded(dir) => Ok(StoreAddress::Embedded(std::path::absolute(dir)?)),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla agent --join controller.example:7070 --name shop-17 --token-file token
  flotilla agent --join 10.0.0.1:7070,10.0.0.2:7070 --name shop-17 --label region=north --memory 8GiB")]
pub(crate) struct AgentArgs {
    /// Link addresses of controllers, which is their --link, port 7070 by default. The agent learns of other
    /// controllers from the first that answers.
    #[arg(long, env = "FLOTILLA_JOIN", value_name = "HOST:PORT,...", value_delimiter = ',',
        required = true, value_parser = host_port("of a controller's --link", 7070))]
    pub(crate) join: Vec<String>,
    /// Name of the node in the fleet.
    #[arg(long, env = "FLOTILLA_NODE_NAME", value_name = "NAME")]
    pub(crate) name: NodeName,
    /// Join token of `flotilla token create`, with which the node enrols once. Prefer `--token-file` or the environment
    /// variable: other users of the machine can read the command line.
    #[arg(long, env = "FLOTILLA_TOKEN", value_name = "TOKEN", hide_env_values = true, conflicts_with = "token_file",
        value_parser = JoinToken::from_str)]
    token: Option<JoinToken>,
    /// File with the join token. It may stay after the node has enrolled: a token is used once.
    #[arg(long, env = "FLOTILLA_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Lets links to other machines be without TLS. Prompts and answers can be read and changed on the way then.
    #[arg(long, env = "FLOTILLA_INSECURE")]
    pub(crate) insecure: bool,
    /// Directory for the agent's identity, its assignments and the files of models. Default:
    /// /var/lib/flotilla/agents/NAME for root, ~/.local/state/flotilla/agents/NAME for others.
    #[arg(long, env = "FLOTILLA_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Id of the fleet that the node moves to, 32 hexadecimal digits. A node obeys only the fleet that it
    /// joined first; the controllers of another one are refused, with the id to give here. The node moves
    /// once it is linked to a controller of that fleet: its models are replaced by those that this fleet
    /// wants there, and their files are kept for `--file-retention`. The earlier fleet lists the node as Lost
    /// until `flotilla delete node NAME` there. Default: the node stays.
    #[arg(long, env = "FLOTILLA_ADOPT_FLEET", value_name = "ID", value_parser = parse_fleet_id)]
    pub(crate) adopt_fleet: Option<String>,
    /// Label of the node. May be repeated.
    #[arg(long = "label", env = "FLOTILLA_LABELS", value_name = "KEY=VALUE", value_delimiter = ',',
        value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Taint of the node: only models that tolerate it are placed on the node. May be repeated.
    #[arg(long = "taint", env = "FLOTILLA_TAINTS", value_name = "KEY[=VALUE]", value_delimiter = ',',
        value_parser = parse_taint)]
    pub(crate) taints: Vec<Taint>,
    /// Privacy zone of the node. May be repeated: requests of each of its zones may enter the node. Default: no
    /// zone.
    #[arg(
        long = "zone",
        env = "FLOTILLA_ZONES",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(crate) zones: Vec<ZoneName>,
    #[command(flatten)]
    pub(crate) model_roots: ModelRootArgs,
    #[command(flatten)]
    pub(crate) upstream_secrets: UpstreamSecretArgs,
    /// Memory for models, in bytes or with a unit such as 8GiB: 1MiB to 64TiB. Default: 80 % of the
    /// machine's memory.
    #[arg(long, env = "FLOTILLA_MEMORY", value_name = "SIZE",
        value_parser = bytes_between("1MiB", "64TiB"))]
    pub(crate) memory: Option<Bytes>,
    /// Maximum bandwidth for fetching the files of models, in bytes per second or with a unit such as
    /// 2MiB: 1KiB to 1TiB. Default: no limit.
    #[arg(long, env = "FLOTILLA_FETCH_RATE", value_name = "SIZE",
        value_parser = bytes_between("1KiB", "1TiB"))]
    pub(crate) fetch_rate: Option<Bytes>,
    /// Disk space for the files of models, in bytes or with a unit such as 20GiB: 1KiB to
    /// 1024TiB. Default: what is free, less 5 % of the file system (at least 256 MiB, at most 1 GiB).
    #[arg(long, env = "FLOTILLA_DISK", value_name = "SIZE",
        value_parser = bytes_between("1KiB", "1024TiB"))]
    pub(crate) disk: Option<Bytes>,
    /// How long files of models are kept after the last model that needed them has left the node, such as
    /// 7d or 12h: 0s to 3650d. They go earlier, the oldest first, where their space is needed.
    #[arg(long, env = "FLOTILLA_FILE_RETENTION", value_name = "DURATION", default_value = "7d",
        value_parser = duration_between("0s", "3650d"))]
    pub(crate) file_retention: HumanDuration,
    /// Power of the idle node, in watts: 0 to 1000000, and at most `--max-watts`. Energy is estimated from this and `--max-watts` where no
    /// power meter is available. Default: estimated from the number of cores.
    #[arg(long, env = "FLOTILLA_IDLE_WATTS", value_name = "WATTS", requires = "max_watts",
        value_parser = number_between(0.0_f32, 1e6))]
    pub(crate) idle_watts: Option<f32>,
    /// Power of the fully loaded node, in watts: 0 to 1000000. Default: estimated from the number of cores.
    #[arg(long, env = "FLOTILLA_MAX_WATTS", value_name = "WATTS", requires = "idle_watts",
        value_parser = number_between(0.0_f32, 1e6))]
    pub(crate) max_watts: Option<f32>,
    /// Address of the Prometheus endpoint of this node, or `off`. Each agent on a machine needs its own.
    /// Controllers also export the node's metrics.
    #[arg(long, env = "FLOTILLA_METRICS", value_name = "IP:PORT", default_value = "127.0.0.1:9464",
        value_parser = parse_listen_address)]
    pub(crate) metrics: ListenAddress,
    /// Factor by which the simulated engine is slower on this node, 1 to 1000000. Simulates unequal
    /// nodes.
    #[arg(long, env = "FLOTILLA_SIMULATED_SLOWDOWN", value_name = "FACTOR", default_value = "1",
        value_parser = number_between(1.0, 1e6))]
    pub(crate) simulated_slowdown: f64,
    /// Maximum time to finish active requests when the agent stops or a model is removed, in seconds: 0 to
    /// 86400.
    #[arg(long, env = "FLOTILLA_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "30",
        value_parser = seconds_between(0.0, 86_400.0))]
    pub(crate) drain_timeout: Duration,
}

impl AgentArgs {
    /// Returns the data directory.
    ///
    /// # Errors
    /// Returns an error if there is no default for this user.
    pub(crate) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.data_dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => default_data_dir(&Path::new("agents").join(self.name.as_str())),
        }
    }

    /// Returns the join token. A file that does not exist any more is no error: the node may have enrolled with it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or has no token.
    pub(crate) fn token(&self) -> anyhow::Result<Option<JoinToken>> {
        let Some(file) = &self.token_file else {
            return Ok(self.token.clone());
        };
        let content = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), "there is no --token-file: the node uses the certificate that it has");
                return Ok(None);
            }
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let token = content.parse::<JoinToken>();
        token.map(Some).with_context(|| file.display().to_string())
    }

    /// Returns the node's configured power, if both of its bounds were given.
    pub(crate) fn power_range(&self) -> Option<PowerRange> {
        let (idle, max) = self.idle_watts.zip(self.max_watts)?;
        Some(PowerRange {
            idle: Watts(idle),
            max: Watts(max),
            configured: true,
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunnerArgs {
    /// Name of the model, for people who list processes.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// Memory that the process may take, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory_limit: Option<Bytes>,
}
