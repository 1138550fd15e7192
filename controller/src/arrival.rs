//! A request from its arrival to its end: what is counted of it, however many replicas it is sent to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flotilla_core::energy::{EnergyUsage, Grid};
use flotilla_core::{NodeName, ZoneName};
use flotilla_telemetry::server_metrics::{InFlightGuard, RequestLabels, RequestStats, ServerMetrics};
use flotilla_telemetry::trace::RequestSpan;
use parking_lot::Mutex;

use crate::traffic::TrafficLog;

/// Where requests are counted. Cheap to clone.
#[derive(Clone)]
pub struct RequestObserver {
    pub(crate) front: Arc<ServerMetrics>,
    pub(crate) traffic: TrafficLog,
}

impl RequestObserver {
    /// Counts with instruments made of `meter`.
    #[must_use]
    pub fn new(meter: &flotilla_telemetry::metrics::Meter) -> Self {
        let front = Arc::new(ServerMetrics::new(meter));
        Self {
            traffic: TrafficLog::new(front.clone()),
            front,
        }
    }

    /// A request arrives to have `operation` done, of whoever's hash is `key`. Its energy is drawn
    /// from `grid`.
    pub(crate) fn arrives(
        &self,
        operation: &'static str,
        key: u64,
        grid: Arc<Grid>,
    ) -> Arc<RequestContext> {
        Arc::new(RequestContext {
            at: Instant::now(),
            operation,
            key,
            grid,
            stage: RequestSpan::current(),
            spent: Mutex::default(),
            front: self.front.clone(),
            recorded: AtomicBool::new(false),
            _in_flight: self.front.start_request(),
        })
    }
}

/// A request that is being answered.
pub(crate) struct RequestContext {
    pub(crate) at: Instant,
    pub(crate) operation: &'static str,
    key: u64,
    grid: Arc<Grid>,
    /// What it is traced as.
    pub(crate) stage: RequestSpan,
    /// What it took so far, on all replicas.
    spent: Mutex<EnergyUsage>,
    front: Arc<ServerMetrics>,
    /// Whether what became of it is written down elsewhere.
    recorded: AtomicBool,
    _in_flight: InFlightGuard,
}

impl RequestContext {
    /// It took energy on a node. Returns the same at the rates of that node's grid.
    pub(crate) fn spends(
        &self,
        node: &NodeName,
        zone: Option<&ZoneName>,
        spent: EnergyUsage,
    ) -> EnergyUsage {
        let spent = spent.at(self.grid.rates(zone));
        let joules = f64::from(spent.joules.0);
        self.front.record_energy(node.as_str(), self.key, joules);
        let mut sum = self.spent.lock();
        *sum = sum.and(spent);
        spent
    }

    /// There is a recorder, which counts how it ends.
    pub(crate) fn counted_elsewhere(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// What it took so far.
    pub(crate) fn spent(&self) -> EnergyUsage {
        *self.spent.lock()
    }
}

/// Its client went away before anything was decided of it: nobody else counts it.
impl Drop for RequestContext {
    fn drop(&mut self) {
        if self.recorded.load(Ordering::Relaxed) {
            return;
        }
        let spent = self.spent();
        self.stage.record_error("cancelled");
        let labels = RequestLabels {
            operation: self.operation,
            requested_model: None,
            model: None,
            task: None,
            energy_source: spent.sources.as_str(),
            currency: spent.price.as_ref().map(|price| price.currency.as_str()),
        };
        let took = RequestStats {
            duration: self.at.elapsed(),
            error_type: Some("cancelled"),
            joules: f64::from(spent.joules.0),
            co2_grams: spent.grams,
            cost: spent.price.map(|price| price.amount),
            ..RequestStats::default()
        };
        self.front.record_request(labels, &took);
    }
}
