//! Starting and stopping an agent.

use std::sync::Arc;

use flotilla_telemetry::names::attr;
use flotilla_telemetry::{KeyValue, ServiceIdentity, Telemetry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::artifacts::ArtifactStore;
use crate::config::AgentConfig;
use crate::data_dir::{DataDir, DataDirError};
use crate::energy_accounting::EnergyAccounting;
use crate::link::{self, AgentLink, DesiredStateReceiver, LinkedControllers};
use crate::models::{ModelManager, ModelManagerConfig};
use crate::node_metrics::{self, NodeMetrics};
use crate::serve::InferenceService;
use crate::{inventory, scrape};
use flotilla_engine::{EngineSet, LoadError};

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentStartError {
    #[error(transparent)]
    Home(#[from] DataDirError),
    #[error("the engines cannot be set up: {0}")]
    Engines(#[from] LoadError),
    #[error(transparent)]
    Telemetry(#[from] flotilla_telemetry::TelemetryError),
    #[error("there is no controller to join: give --join HOST:PORT")]
    NoController,
}

/// A running agent.
pub struct Agent {
    drain: CancellationToken,
    stop_links: CancellationToken,
    stop_models: CancellationToken,
    links: JoinSet<()>,
    models: JoinSet<()>,
    patience: std::time::Duration,
    telemetry: Telemetry,
}

impl Agent {
    /// Opens the data directory and starts all parts. The link is dialled in the background:
    /// a controller may come later.
    ///
    /// # Errors
    /// [`AgentStartError`], each with what to do about it.
    pub fn start(config: AgentConfig) -> Result<Self, AgentStartError> {
        if config.join.is_empty() {
            return Err(AgentStartError::NoController);
        }
        let home = DataDir::open(&config.data_dir)?;
        let identity = home.identity().to_owned();
        if let Some(missed) = inventory::missed_instructions() {
            tracing::warn!("{missed}");
        }
        let inventory = inventory::take(config.memory, config.power);
        let telemetry = start_telemetry(&config)?;
        let energy_accounting = config.energy_accounting.clone();
        let energy_accounting = energy_accounting
            .unwrap_or_else(|| EnergyAccounting::start_on_this_machine(config.power, 1));
        let settings = ModelManagerConfig {
            memory: flotilla_core::Bytes(inventory.memory_bytes),
            drain_timeout: config.drain,
            return_memory: config.return_memory,
            metrics: NodeMetrics::new(energy_accounting.clone(), &telemetry.meter()),
        };
        let peers = Arc::new(LinkedControllers::default());
        let artifacts =
            ArtifactStore::new(config.data_dir.clone(), peers.clone(), config.fetch_rate);
        let manager = ModelManager::new(
            EngineSet::new(config.simulated_slowdown)?,
            artifacts,
            settings,
        );
        node_metrics::register(
            &telemetry.meter(),
            &config.name,
            &manager.table(),
            &energy_accounting,
        );
        let (orders, desired) = DesiredStateReceiver::new(home);
        let drain = CancellationToken::new();
        let stop_links = CancellationToken::new();
        let stop_models = CancellationToken::new();
        let mut labels = inventory::labels(&config.name, &inventory);
        labels.extend(config.labels);
        let service = InferenceService::new(manager.table(), &telemetry, config.name.clone());
        let link = AgentLink {
            name: config.name,
            identity,
            labels,
            taints: config.taints,
            zone: config.zone,
            inventory,
            service,
            energy_accounting,
            statuses: manager.statuses(),
            orders,
            drain: drain.clone(),
            stop: stop_links.clone(),
        };
        let mut links = JoinSet::new();
        links.spawn(link::run(link, peers, config.join));
        if let Some(address) = config.metrics {
            let served = scrape::serve(address, telemetry.prometheus(), stop_models.clone());
            tokio::spawn(served);
        }
        let mut models = JoinSet::new();
        models.spawn(manager.run(desired, stop_models.clone()));
        Ok(Self {
            drain,
            stop_links,
            stop_models,
            links,
            models,
            patience: config.drain,
            telemetry,
        })
    }

    /// Stops: no new requests, those under way may end within the configured patience, then
    /// the models are unloaded.
    pub async fn stop(mut self) {
        self.drain.cancel();
        let ended = async { while self.links.join_next().await.is_some() {} };
        if tokio::time::timeout(self.patience, ended).await.is_err() {
            tracing::warn!("requests that did not end in time were cut off");
        }
        self.stop_links.cancel();
        while self.links.join_next().await.is_some() {}
        self.stop_models.cancel();
        while self.models.join_next().await.is_some() {}
        self.telemetry.shutdown().await;
    }
}

fn start_telemetry(config: &AgentConfig) -> Result<Telemetry, flotilla_telemetry::TelemetryError> {
    let mut attributes = vec![KeyValue::new(attr::NODE, config.name.to_string())];
    let zone = config.zone.as_ref();
    attributes.extend(zone.map(|zone| KeyValue::new(attr::ZONE, zone.to_string())));
    let origin = ServiceIdentity {
        name: "flotilla-agent",
        instance: config.name.to_string(),
        attributes,
    };
    Telemetry::start(&origin, &config.telemetry)
}
