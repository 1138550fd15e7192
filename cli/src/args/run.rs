//! The arguments of what runs a fleet: `up`, `controller`, `agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flotilla_controller::{EtcdAddress, EtcdTls, StoreAddress};
use flotilla_core::energy::PowerRange;
use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, NodeName, Watts, ZoneName};

use super::values::{Listen, factor, label, listen, seconds, taint, watts};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla up
  flotilla up --nodes 5 --http 0.0.0.0:8080 --data-dir /var/lib/flotilla")]
pub(crate) struct UpArgs {
    /// Where the fleet keeps its state; a later start goes on with it.
    #[arg(
        long,
        env = "FLOTILLA_DATA_DIR",
        value_name = "DIR",
        default_value = "flotilla-data"
    )]
    pub(crate) data_dir: PathBuf,
    /// Where the API listens.
    #[arg(
        long,
        env = "FLOTILLA_HTTP",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) http: SocketAddr,
    /// How many agents to run.
    #[arg(long, env = "FLOTILLA_NODES", value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) nodes: u32,
    /// Folder with the models to place at the first start. Default: the demo models.
    #[arg(long, env = "FLOTILLA_MODELS", value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla controller
  flotilla controller --http 0.0.0.0:8080 --link 0.0.0.0:7070 --store embedded:/var/lib/flotilla")]
pub(crate) struct ControllerArgs {
    /// Where the API listens.
    #[arg(
        long,
        env = "FLOTILLA_HTTP",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) http: SocketAddr,
    /// Where agents dial in.
    #[arg(
        long,
        env = "FLOTILLA_LINK",
        value_name = "ADDR",
        default_value = "127.0.0.1:7070"
    )]
    pub(crate) link: SocketAddr,
    /// HOST:PORT of --link as agents and other controllers reach it. Default: that address, or
    /// the machine's name where it stands for all addresses.
    #[arg(long, env = "FLOTILLA_ADVERTISE_LINK", value_name = "HOST:PORT")]
    pub(crate) advertise_link: Option<String>,
    /// The same of --http.
    #[arg(long, env = "FLOTILLA_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    pub(crate) advertise_http: Option<String>,
    /// Where the wish is kept: `embedded:DIR` or `etcd://HOST:PORT,HOST:PORT`.
    #[arg(
        long,
        env = "FLOTILLA_STORE",
        value_name = "STORE",
        default_value = "embedded:flotilla-data/controller"
    )]
    store: StoreAddress,
    /// Where files of models are kept that agents fetch from here.
    #[arg(
        long,
        env = "FLOTILLA_DATA_DIR",
        value_name = "DIR",
        default_value = "flotilla-data/controller"
    )]
    pub(crate) data_dir: PathBuf,
    /// User of etcd.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password"
    )]
    etcd_user: Option<String>,
    /// Password of that user. Better given by the environment, where nobody else reads it.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_PASSWORD",
        value_name = "PASSWORD",
        requires = "etcd_user",
        hide_env_values = true
    )]
    etcd_password: Option<String>,
    /// PEM file with the authority of etcd's certificates; turns TLS on.
    #[arg(long, env = "FLOTILLA_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// PEM file with the certificate shown to etcd.
    #[arg(long, env = "FLOTILLA_ETCD_CERT", value_name = "FILE", requires_all = ["etcd_ca", "etcd_key"])]
    etcd_cert: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    etcd_key: Option<PathBuf>,
    /// Largest request body.
    #[arg(
        long,
        env = "FLOTILLA_MAX_BODY",
        value_name = "BYTES",
        default_value = "4MiB"
    )]
    pub(crate) max_body: Bytes,
    /// Seconds a request may wait for its first token.
    #[arg(long, env = "FLOTILLA_FIRST_TOKEN_TIMEOUT", value_name = "SECONDS",
        default_value = "300", value_parser = seconds)]
    pub(crate) first_token_timeout: Duration,
    /// Seconds a node's link may be silent before it counts as away and gets no requests.
    #[arg(long, env = "FLOTILLA_LINK_TIMEOUT", value_name = "SECONDS", default_value = "5",
        value_parser = seconds)]
    pub(crate) link_timeout: Duration,
    /// Seconds a node may be away before its models are placed elsewhere.
    #[arg(long, env = "FLOTILLA_NODE_GRACE", value_name = "SECONDS", default_value = "5",
        value_parser = seconds)]
    pub(crate) node_grace: Duration,
    /// Connections that each agent opens for requests.
    #[arg(long, env = "FLOTILLA_CONNECTIONS", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections: u32,
    /// Routing decisions that are kept in memory, each of about 1 kB.
    #[arg(long, env = "FLOTILLA_DECISIONS", value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) decisions: u32,
    /// Keep in decisions also what was asked: the newest turn, never that of requests which are
    /// held to privacy zones.
    #[arg(long, env = "FLOTILLA_RECORD_PROMPTS")]
    pub(crate) record_prompts: bool,
}

impl ControllerArgs {
    /// The store with how to reach it.
    ///
    /// # Errors
    /// When settings for etcd are given without etcd.
    pub(crate) fn store(&self) -> anyhow::Result<StoreAddress> {
        let user = self.etcd_user.clone().zip(self.etcd_password.clone());
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        let tls = self.etcd_ca.clone().map(|ca| EtcdTls { ca, identity });
        match self.store.clone() {
            StoreAddress::Etcd(address) => Ok(StoreAddress::Etcd(EtcdAddress {
                user,
                tls,
                ..address
            })),
            StoreAddress::Embedded(_) if user.is_some() || tls.is_some() => {
                anyhow::bail!("--etcd-user and --etcd-ca need --store etcd://HOST:PORT")
            }
            embedded => Ok(embedded),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla agent --join controller.example:7070 --name shop-17
  flotilla agent --join 10.0.0.1:7070,10.0.0.2:7070 --name shop-17 --label region=north --memory 8GiB")]
pub(crate) struct AgentArgs {
    /// Link addresses of controllers. One that answers is enough: it names the others.
    #[arg(
        long,
        env = "FLOTILLA_JOIN",
        value_name = "ADDR,...",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) join: Vec<String>,
    /// The node's name in the fleet.
    #[arg(long, env = "FLOTILLA_NODE_NAME", value_name = "NAME")]
    pub(crate) name: NodeName,
    /// Where the agent keeps its identity and what it should run. Default: flotilla-data/NAME.
    #[arg(long, env = "FLOTILLA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Labels of the node.
    #[arg(long = "label", env = "FLOTILLA_LABELS", value_name = "KEY=VALUE", value_delimiter = ',',
        value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Taints of the node: only models that tolerate them are placed on it.
    #[arg(long = "taint", env = "FLOTILLA_TAINTS", value_name = "KEY[=VALUE]", value_delimiter = ',',
        value_parser = taint)]
    pub(crate) taints: Vec<Taint>,
    /// The privacy zone that the node is in.
    #[arg(long, env = "FLOTILLA_ZONE", value_name = "NAME")]
    pub(crate) zone: Option<ZoneName>,
    /// Memory for models, such as 8GiB. Default: four fifths of the machine's.
    #[arg(long, env = "FLOTILLA_MEMORY", value_name = "BYTES")]
    pub(crate) memory: Option<Bytes>,
    /// Bytes per second that models' files may take of the line to the controllers, such as
    /// 2MiB. Default: no limit.
    #[arg(long, env = "FLOTILLA_FETCH_RATE", value_name = "BYTES")]
    pub(crate) fetch_rate: Option<Bytes>,
    /// Watts that the node draws with nothing to do. With --max-watts: joules are told from them
    /// where nothing meters. Default: guessed from its cores.
    #[arg(long, env = "FLOTILLA_IDLE_WATTS", value_name = "WATTS", requires = "max_watts",
        value_parser = watts)]
    pub(crate) idle_watts: Option<f32>,
    /// Watts that it draws with all it computes with at work.
    #[arg(long, env = "FLOTILLA_MAX_WATTS", value_name = "WATTS", requires = "idle_watts",
        value_parser = watts)]
    pub(crate) max_watts: Option<f32>,
    /// Where Prometheus can scrape this node, or `off`. Controllers have its metrics too.
    #[arg(long, env = "FLOTILLA_METRICS", value_name = "ADDR", default_value = "127.0.0.1:9464",
        value_parser = listen)]
    pub(crate) metrics: Listen,
    /// How many times slower the simulated engine is here, to simulate unequal nodes.
    #[arg(long, env = "FLOTILLA_NULL_SLOWDOWN", value_name = "FACTOR", default_value = "1",
        value_parser = factor)]
    pub(crate) simulated_slowdown: f64,
    /// Seconds that requests under way may go on when the agent stops or a model leaves.
    #[arg(long, env = "FLOTILLA_DRAIN", value_name = "SECONDS", default_value = "30",
        value_parser = seconds)]
    pub(crate) drain: Duration,
}

impl AgentArgs {
    /// What the node draws, where that was said.
    pub(crate) fn power(&self) -> Option<PowerRange> {
        let (idle, max) = self.idle_watts.zip(self.max_watts)?;
        Some(PowerRange {
            idle: Watts(idle),
            max: Watts(max),
            configured: true,
        })
    }
}
