//! Starts and stops an agent.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::node::join_zones;
use flotilla_engine::LoadError;
use flotilla_telemetry::names::attr;
use flotilla_telemetry::{KeyValue, ServiceIdentity, Telemetry, TelemetryError, TelemetrySettings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::artifacts::{ArtifactSettings, ArtifactStore, BlobReader};
use crate::config::AgentConfig;
use crate::data_dir::{DataDir, DataDirError};
use crate::energy_accounting::EnergyAccounting;
use crate::engines::Engines;
use crate::inference_service::InferenceService;
use crate::link::{
    self, AgentLink, Connector, DesiredStateReceiver, LinkSecurity, LinkedControllers,
    SecurityError, is_loopback,
};
use crate::models::{CUT_TIME, ModelManager, ModelManagerConfig, ServingTable};
use crate::node_description::NodeDescription;
use crate::request_metrics::RequestMetrics;
use crate::runners::RunnerEngine;
use crate::{inventory, metrics_server, node_metrics};

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentStartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// An engine cannot be set up.
    #[error("cannot set up the engines: {0}")]
    Engines(#[from] LoadError),
    /// The telemetry export cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// No controller address is configured.
    #[error("there is no controller to join: give --join HOST:PORT")]
    NoController,
    /// The files of the node's enrolment cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// Links to another machine would be without TLS.
    #[error(
        "the link to {0} would be open to everybody on the network without TLS: run `flotilla token create` at the fleet, whose controllers are started with --secret-file (`flotilla secret create FILE`), and start the agent with --token-file FILE; for a network that nobody else reaches, start it with --insecure"
    )]
    Unprotected(String),
    /// The environment names a proxy through which links cannot go.
    #[error(
        "links cannot go through the proxy {0}: only proxies with http:// are supported; set HTTPS_PROXY=http://HOST:PORT, or name the controllers in NO_PROXY"
    )]
    UnsupportedProxy(String),
}

/// A running agent.
pub struct Agent {
    drain: CancellationToken,
    stop_links: CancellationToken,
    stop_models: CancellationToken,
    links: JoinSet<()>,
    models: JoinSet<()>,
    /// The models that accept requests.
    table: ServingTable,
    drain_timeout: Duration,
    telemetry: Telemetry,
}

impl Agent {
    /// Opens the data directory and starts all parts of the agent. Links are opened in the background,
    /// so the controllers need not run yet.
    ///
    /// # Errors
    /// [`AgentStartError`], whose message says what to do.
    pub fn start(config: AgentConfig) -> Result<Self, AgentStartError> {
        if config.join.is_empty() {
            return Err(AgentStartError::NoController);
        }
        let connector = Connector::from_env();
        if let Some(proxy) = connector.unsupported_proxy(&config.join) {
            return Err(AgentStartError::UnsupportedProxy(proxy));
        }
        let data_dir = DataDir::open(&config.data_dir)?;
        let zones = config.node.zones.clone();
        let name = config.node.name.clone();
        let security = LinkSecurity::load(&config.data_dir, name, zones, config.token)?;
        let remote = config.join.iter().find(|address| !is_loopback(address));
        if let Some(remote) = remote.filter(|_| !security.is_on()) {
            if !config.insecure {
                return Err(AgentStartError::Unprotected(remote.clone()));
            }
            tracing::warn!(
                "INSECURE: the link to {remote} has no TLS: prompts and answers can be read and changed on the way, and whoever answers there decides what runs here"
            );
        }
        if let Some(warning) = inventory::unused_instructions() {
            tracing::warn!("{warning}");
        }
        warn_of_small_limits(config.node.memory, config.disk);
        let power = config.node.power;
        let controllers = Arc::new(LinkedControllers::default());
        let blobs = BlobReader::new(&config.data_dir);
        let kernel_cache = config.data_dir.join("cuda-cache");
        let settings = ArtifactSettings {
            dir: config.data_dir,
            fetch_rate: config.fetch_rate,
            disk: config.disk,
            disk_agents: config.disk_agents,
            retention: config.file_retention,
            model_roots: config.model_roots,
        };
        let artifacts = ArtifactStore::new(settings, controllers.clone());
        let identity = data_dir.identity().to_owned();
        let node = NodeDescription::new(config.node, identity, artifacts.budget());
        let telemetry = start_telemetry(&node, &config.telemetry)?;
        let energy_accounting = config
            .energy_accounting
            .unwrap_or_else(|| EnergyAccounting::start_on_this_machine(power, 1));
        let manager_config = ModelManagerConfig {
            memory: node.memory(),
            gpus: node.gpus(),
            drain_timeout: config.drain_timeout,
            metrics: RequestMetrics::new(energy_accounting.clone(), &telemetry.meter()),
        };
        let runner = config.runner.with_kernel_cache(kernel_cache);
        let runners = RunnerEngine::new(runner, inventory::cores() as usize);
        let engines = Engines::new(runners, config.simulated_slowdown, config.upstream_secrets)?;
        let manager = ModelManager::new(engines, artifacts.clone(), manager_config);
        let table = manager.table();
        node_metrics::register(&telemetry.meter(), node.name(), &table, &energy_accounting);
        node_metrics::register_disk(&telemetry.meter(), &artifacts);
        let statuses = manager.statuses();
        node_metrics::register_device_memory(&telemetry.meter(), node.gpu_memory(), &statuses);
        let (desired_state, desired_models) =
            DesiredStateReceiver::new(data_dir, config.adopt_fleet)?;
        let drain = CancellationToken::new();
        let stop_links = CancellationToken::new();
        let stop_models = CancellationToken::new();
        let link = AgentLink {
            service: InferenceService::new(table.clone(), &telemetry, node.name().clone(), blobs),
            node,
            energy_accounting,
            statuses,
            artifacts: artifacts.clone(),
            desired_state,
            connector,
            security: Arc::new(security),
            drain: drain.clone(),
            stop: stop_links.clone(),
        };
        let mut links = JoinSet::new();
        // `flotilla up` starts each agent in a span that names its node.
        links.spawn(link::run(link, controllers, config.join).in_current_span());
        if let Some(address) = config.metrics {
            let server =
                metrics_server::serve(address, telemetry.prometheus(), stop_models.clone());
            tokio::spawn(server.in_current_span());
        }
        let mut models = JoinSet::new();
        models.spawn(
            manager
                .run(desired_models, stop_models.clone())
                .in_current_span(),
        );
        models.spawn(artifacts.maintain(stop_models.clone()).in_current_span());
        Ok(Self {
            drain,
            stop_links,
            stop_models,
            links,
            models,
            table,
            drain_timeout: config.drain_timeout,
            telemetry,
        })
    }

    /// Waits until a task of the agent has failed, after which the agent neither follows its controllers nor
    /// looks after its models: it has to be started anew.
    pub async fn failed(&mut self) {
        // They end only when the agent is stopped.
        tokio::select! {
            _ = self.links.join_next() => {}
            _ = self.models.join_next() => {}
        }
    }

    /// Stops the agent: it accepts no new requests, lets running ones finish within the drain timeout,
    /// then unloads the models.
    pub async fn stop(mut self) {
        self.drain.cancel();
        let drained = async { while self.links.join_next().await.is_some() {} };
        if tokio::time::timeout(self.drain_timeout, drained)
            .await
            .is_err()
        {
            tracing::warn!("cancelled the requests that did not finish within the drain timeout");
            for (_, served) in self.table.all().iter() {
                served.cut();
            }
            let drained = async { while self.links.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(CUT_TIME, drained).await;
        }
        self.stop_links.cancel();
        while self.links.join_next().await.is_some() {}
        self.stop_models.cancel();
        while self.models.join_next().await.is_some() {}
        self.telemetry.shutdown().await;
    }
}

/// The least memory and disk space that a model of use has.
const SMALLEST_MODEL: Bytes = Bytes(16 << 20);

/// Warns of limits that hardly any model fits in, such as those of a forgotten unit.
fn warn_of_small_limits(memory: Option<Bytes>, disk: Option<Bytes>) {
    for (flag, limit) in [("--memory", memory), ("--disk", disk)] {
        if let Some(limit) = limit.filter(|limit| *limit < SMALLEST_MODEL) {
            tracing::warn!(
                "hardly any model fits in {limit}: check {flag}, which takes units such as GiB"
            );
        }
    }
}

/// Starts the telemetry export, which identifies this agent by its node's name and zones.
fn start_telemetry(
    node: &NodeDescription,
    settings: &TelemetrySettings,
) -> Result<Telemetry, TelemetryError> {
    let mut attributes = vec![KeyValue::new(attr::NODE, node.name().to_string())];
    if !node.zones().is_empty() {
        attributes.push(KeyValue::new(attr::ZONE, join_zones(node.zones())));
    }
    let identity = ServiceIdentity {
        name: "flotilla-agent",
        instance: node.name().to_string(),
        attributes,
    };
    Telemetry::start(&identity, settings)
}
