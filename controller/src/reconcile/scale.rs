//! How many replicas each model should have now, from what the nodes report of their load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::scaling::{ModelLoad, ReplicaScaler};

use crate::fleet::{FleetView, ModelView};

/// The scalers of all models. They live as long as the leadership: a new leader begins with
/// the replicas there are.
#[derive(Default)]
pub(super) struct ModelScalers {
    models: BTreeMap<ModelName, ObservedLoad>,
}

struct ObservedLoad {
    scaler: ReplicaScaler,
    /// Sums over all nodes when last looked at: requests begun, microseconds they had waited.
    begun: u64,
    waited: u64,
}

impl ModelScalers {
    /// Looks at the load of every model.
    pub(super) fn observe(&mut self, view: &FleetView, now: Instant) {
        self.models.retain(|name, _| view.models.contains_key(name));
        for (name, model) in &view.models {
            let observed = self.models.entry(name.clone()).or_insert_with(|| {
                // A new model that may sleep begins awake: whoever wishes for it is about to
                // ask for it. One that was served before and has no replica sleeps.
                let first = if model.stable.is_some() { 0 } else { 1 };
                let placed = u32::try_from(model.assigned.len()).unwrap_or(u32::MAX);
                ObservedLoad {
                    scaler: ReplicaScaler::new(placed.max(first), now),
                    begun: 0,
                    waited: 0,
                }
            });
            let load = observed.load(view, model);
            let spec = &model.model.spec;
            let before = observed.scaler.target();
            observed
                .scaler
                .observe(spec.replicas, spec.keep_alive.0, &load, now);
            let target = observed.scaler.target();
            if target != before {
                tracing::info!(model = %name, from = before, to = target, ?load, "scaling");
            }
        }
    }

    /// How many replicas a model should have; `None` before it was looked at.
    pub(super) fn target(&self, model: &ModelName) -> Option<u32> {
        let observed = self.models.get(model);
        observed.map(|observed| observed.scaler.target())
    }
}

impl ObservedLoad {
    fn load(&mut self, view: &FleetView, model: &ModelView) -> ModelLoad {
        let mut load = ModelLoad {
            ready_replicas: u32::try_from(model.replicas.len()).unwrap_or(u32::MAX),
            concurrency: model.model.spec.concurrency,
            pending: model.waiting,
            ..ModelLoad::default()
        };
        let mut waited = 0;
        for name in model.assigned.keys() {
            let Some(node) = view.nodes.get(name) else {
                continue;
            };
            let report = node.report.load();
            let counters = report.model(model.model.name()).and_then(|m| m.counters);
            let counters = counters.unwrap_or_default();
            load.active += counters.active;
            load.queued += counters.queued;
            load.started_total += counters.requests;
            waited += counters.wait_us;
        }
        // A replica that came or went makes the sums jump; then nothing is known.
        let begun = load
            .started_total
            .checked_sub(self.begun)
            .filter(|begun| *begun > 0);
        let since = waited.checked_sub(self.waited);
        if let (Some(begun), Some(waited)) = (begun, since) {
            load.mean_wait = Duration::from_micros(waited / begun);
        } else if load.queued > 0 {
            // Nothing was begun at all while some waited: they wait for as long as that.
            load.mean_wait = super::SCALING_INTERVAL;
        }
        self.begun = load.started_total;
        self.waited = waited;
        load
    }
}
