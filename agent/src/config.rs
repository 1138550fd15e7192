//! The configuration of an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flotilla_core::energy::PowerRange;
use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, NodeName, ZoneName};
use flotilla_engine::UpstreamSecret;
use flotilla_identity::enrolment::JoinToken;
use flotilla_telemetry::TelemetrySettings;

use crate::energy_accounting::EnergyAccounting;
use crate::runners::RunnerCommand;

/// The configuration of an agent, read once at start.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node as it joins the fleet.
    pub node: NodeConfig,
    /// Link addresses of controllers, `host:port`. One reachable controller is enough, because it names
    /// the others.
    pub join: Vec<String>,
    /// The join token that the node enrols with, unless it has. `None`: it has enrolled, or links have no TLS.
    pub token: Option<JoinToken>,
    /// Whether links to other machines may be without TLS.
    pub insecure: bool,
    /// Directory for the node's identity, its desired state and the files of models.
    pub data_dir: PathBuf,
    /// Id of the fleet that the node moves to, if it belongs to another one. `None`: it stays in its
    /// fleet, or joins the first one that it reaches.
    pub adopt_fleet: Option<String>,
    /// Energy accounting shared with the other agents of this process. `None`: the agent starts its
    /// own.
    pub energy_accounting: Option<EnergyAccounting>,
    /// Address of the Prometheus endpoint `/metrics`. `None`: no endpoint.
    pub metrics: Option<SocketAddr>,
    /// Export of metrics and traces.
    pub telemetry: TelemetrySettings,
    /// Limit for fetching model files, in bytes per second over all links. `None`: no limit.
    pub fetch_rate: Option<Bytes>,
    /// Disk space for model files. `None`: what is free, less a reserve.
    pub disk: Option<Bytes>,
    /// Number of agents that share the disk by default, when `disk` is `None`.
    pub disk_agents: u32,
    /// How long files are kept that no model of the node needs any more.
    pub file_retention: Duration,
    /// Folders of this machine that models' `source.path` may lead into.
    pub model_roots: Vec<PathBuf>,
    /// Secrets that models of the engine `upstream` may use.
    pub upstream_secrets: Vec<UpstreamSecret>,
    /// Factor by which the simulated engine is slower on this node, at least 1. It simulates unequal
    /// nodes.
    pub simulated_slowdown: f64,
    /// Maximum time to finish running requests when the agent stops or a model leaves the node.
    pub drain_timeout: Duration,
    /// How the processes of models are started.
    pub runner: RunnerCommand,
}

/// How long files that no model needs are kept by default: seven days.
pub const DEFAULT_FILE_RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The configured attributes of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The node's name, unique in the fleet.
    pub name: NodeName,
    /// Labels in addition to those from the inventory, which they override.
    pub labels: BTreeMap<String, String>,
    /// Taints: only models that tolerate them are placed on the node.
    pub taints: Vec<Taint>,
    /// The privacy zones of the node. Empty: no zone.
    pub zones: BTreeSet<ZoneName>,
    /// Memory for models. `None`: four fifths of the machine's memory.
    pub memory: Option<Bytes>,
    /// Power draw of the node. `None`: guessed from its number of cores.
    pub power: Option<PowerRange>,
}

impl NodeConfig {
    /// Creates the configuration of a node with a name and nothing else.
    #[must_use]
    pub fn new(name: NodeName) -> Self {
        Self {
            name,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            zones: BTreeSet::new(),
            memory: None,
            power: None,
        }
    }
}
