//! Scales the number of replicas of each model with the load that the nodes report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::scaling::{ModelLoad, ReplicaScaler};
use flotilla_core::{ModelName, ReplicaReadiness};

use super::replica_count;
use crate::fleet::{FleetView, ModelView, NodePhase};

/// Interval of passes while the view does not change, for scaling by load.
pub(super) const SCALING_INTERVAL: Duration = Duration::from_secs(1);

/// The scalers of all models. They live as long as the leadership: a new leader starts from the
/// replicas that exist.
#[derive(Default)]
pub(super) struct ModelScalers {
    models: BTreeMap<ModelName, ModelScaler>,
}

/// The scaler of one model, with the counters of the last observation.
struct ModelScaler {
    scaler: ReplicaScaler,
    /// The number of requests that all nodes had started.
    started_total: u64,
    /// The total time that these requests had waited, in microseconds.
    wait_us: u64,
}

impl ModelScalers {
    /// Observes the load of every model.
    pub(super) fn observe(&mut self, view: &FleetView, now: Instant) {
        self.models.retain(|name, _| view.models.contains_key(name));
        for (name, model) in &view.models {
            let scaler = self
                .models
                .entry(name.clone())
                .or_insert_with(|| ModelScaler::new(view, model, now));
            let load = scaler.load(view, model);
            let spec = &model.endpoints.model.spec;
            let before = scaler.scaler.target();
            scaler
                .scaler
                .observe(spec.replicas, spec.keep_alive.0, &load, now);
            let target = scaler.scaler.target();
            if target != before {
                tracing::info!(
                    model = %name,
                    from = before,
                    to = target,
                    active = load.active,
                    queued = load.queued,
                    pending = load.pending,
                    "scaling"
                );
            }
        }
    }

    /// Returns the number of replicas that a model's load asks for. `None` before the first
    /// observation of the model.
    pub(super) fn target(&self, model: &ModelName) -> Option<u32> {
        let scaler = self.models.get(model);
        scaler.map(|scaler| scaler.scaler.target())
    }
}

impl ModelScaler {
    fn new(view: &FleetView, model: &ModelView, now: Instant) -> Self {
        // A new model starts with a replica even if it may scale to zero, because its first
        // request is likely to come soon. A model that was served before and has no replica was
        // scaled to zero.
        let first = if model.endpoints.stable.is_some() {
            0
        } else {
            1
        };
        let assigned = replica_count::current(view, model);
        Self {
            scaler: ReplicaScaler::new(assigned.max(first), now),
            started_total: 0,
            wait_us: 0,
        }
    }

    /// Sums the load of all replicas since the last observation.
    fn load(&mut self, view: &FleetView, model: &ModelView) -> ModelLoad {
        let mut load = ModelLoad {
            ready_replicas: u32::try_from(model.endpoints.replicas().len()).unwrap_or(u32::MAX),
            concurrency: model.endpoints.model.spec.concurrency,
            pending: model.waiting,
            ..ModelLoad::default()
        };
        let mut wait_us = 0;
        for name in model.assigned.keys() {
            let Some(node) = view.nodes.get(name) else {
                continue;
            };
            let model_name = model.endpoints.model.name();
            if node.replica_readiness(model_name) == ReplicaReadiness::Unknown {
                load.unknown_replicas += 1;
            }
            if node.phase == NodePhase::Lost {
                // Its last report says nothing about now.
                continue;
            }
            let report = node.report.load();
            let counters = report.model(model_name).and_then(|m| m.counters);
            let counters = counters.unwrap_or_default();
            load.active += counters.active;
            load.queued += counters.queued;
            load.started_total += counters.requests;
            wait_us += counters.wait_us;
        }
        // The sums shrink when a replica leaves or restarts; the wait is then unknown.
        let started = load
            .started_total
            .checked_sub(self.started_total)
            .filter(|started| *started > 0);
        let waited = wait_us.checked_sub(self.wait_us);
        if let (Some(started), Some(waited)) = (started, waited) {
            load.mean_wait = Duration::from_micros(waited / started);
        } else if load.queued > 0 {
            // No request was started since the last observation while some were queued: they have
            // waited at least for that long.
            load.mean_wait = SCALING_INTERVAL;
        }
        self.started_total = load.started_total;
        self.wait_us = wait_us;
        load
    }
}
