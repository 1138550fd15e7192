//! An agent's settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flotilla_core::energy::PowerRange;
use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, NodeName, ZoneName};
use flotilla_telemetry::TelemetrySettings;

use crate::energy_accounting::EnergyAccounting;

/// An agent's settings, read once at start.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node's name in the fleet.
    pub name: NodeName,
    /// Link addresses of controllers, `host:port`. One that answers is enough: it names the
    /// others.
    pub join: Vec<String>,
    /// Where the agent keeps its identity and what it should run.
    pub data_dir: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Keep models away that do not tolerate them.
    pub taints: Vec<Taint>,
    /// The privacy zone the node is in.
    pub zone: Option<ZoneName>,
    /// Memory for models. Default: four fifths of the machine's.
    pub memory: Option<Bytes>,
    /// What the node draws, if somebody knows. Default: guessed from its cores.
    pub power: Option<PowerRange>,
    /// The power meters, where several agents of one process share a machine. Default: its own.
    pub energy_accounting: Option<EnergyAccounting>,
    /// Where metrics can be scraped, if they are to be.
    pub metrics: Option<SocketAddr>,
    pub telemetry: TelemetrySettings,
    /// Bytes per second that models' files may take of the links. Default: no limit.
    pub fetch_rate: Option<Bytes>,
    /// How many times slower the simulated engine is here, to simulate unequal nodes.
    pub simulated_slowdown: f64,
    /// How long requests under way may go on once the agent is asked to stop, or a model to
    /// leave.
    pub drain: Duration,
    /// Has the process's allocator give free memory back to the system; called after a model
    /// was unloaded.
    pub return_memory: fn(),
}
