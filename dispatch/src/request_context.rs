//! One request from its arrival to its end, with the energy it takes on all replicas.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use flotilla_core::energy::{EnergyUsage, Grid};
use flotilla_core::routing::SpentResources;
use flotilla_core::{NodeName, ZoneName};
use flotilla_telemetry::server_metrics::{
    InFlightGuard, RequestLabels, RequestStats, ServerMetrics,
};
use flotilla_telemetry::trace::RequestSpan;
use parking_lot::Mutex;

use crate::kept_prompt::KeptPrompt;

/// A request that is being answered.
pub(crate) struct RequestContext {
    pub(crate) arrived: Instant,
    /// The GenAI operation name, such as `chat`.
    pub(crate) operation: &'static str,
    /// The fairness key of the client.
    key: u64,
    grid: Arc<Grid>,
    /// The span of the whole request.
    pub(crate) span: RequestSpan,
    /// The energy so far, on all replicas.
    energy: Mutex<EnergyUsage>,
    /// When the first attempt began.
    first_attempt: OnceLock<Instant>,
    /// Attempts that failed, with all models of the plan.
    failed_attempts: AtomicU32,
    /// Those of them that a node has answered with an error.
    refused_attempts: AtomicU32,
    metrics: Arc<ServerMetrics>,
    /// The prompt, if the task of the request learns. Set once, when the request is planned.
    kept_prompt: OnceLock<Arc<KeptPrompt>>,
    /// Whether a recorder counts the end of the request.
    has_recorder: AtomicBool,
    _in_flight: InFlightGuard,
}

impl RequestContext {
    /// Starts a request now, as a part of the current span.
    pub(crate) fn new(
        operation: &'static str,
        key: u64,
        grid: Arc<Grid>,
        metrics: Arc<ServerMetrics>,
    ) -> Self {
        Self {
            arrived: Instant::now(),
            operation,
            key,
            grid,
            span: RequestSpan::current(),
            energy: Mutex::default(),
            first_attempt: OnceLock::new(),
            failed_attempts: AtomicU32::new(0),
            refused_attempts: AtomicU32::new(0),
            kept_prompt: OnceLock::new(),
            has_recorder: AtomicBool::new(false),
            _in_flight: metrics.start_request(),
            metrics,
        }
    }

    /// Adds energy that the request used on a node. Returns it with its price and emissions at the node's
    /// zones.
    pub(crate) fn add_energy(
        &self,
        node: &NodeName,
        zones: &BTreeSet<ZoneName>,
        energy: EnergyUsage,
    ) -> EnergyUsage {
        let energy = energy.with_rates(self.grid.rates(zones));
        let joules = f64::from(energy.joules.0);
        self.metrics.record_energy(node.as_str(), self.key, joules);
        let mut sum = self.energy.lock();
        *sum = sum.combine(energy);
        energy
    }

    /// Records that an attempt begins.
    pub(crate) fn record_attempt(&self) {
        self.first_attempt.get_or_init(Instant::now);
    }

    /// What the attempts have taken so far.
    pub(crate) fn spent(&self) -> SpentResources {
        let seconds = self.first_attempt.get().map(Instant::elapsed);
        SpentResources {
            seconds: seconds.unwrap_or_default().as_secs_f32(),
            joules: self.energy().joules,
        }
    }

    /// Counts an attempt that failed.
    pub(crate) fn count_failed_attempt(&self) {
        self.failed_attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed attempt as one that a node has answered with an error, and returns the number of those.
    pub(crate) fn count_refused_attempt(&self) -> u32 {
        self.refused_attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The attempts that failed so far.
    pub(crate) fn failed_attempts(&self) -> u32 {
        self.failed_attempts.load(Ordering::Relaxed)
    }

    /// Keeps the prompt of the request for its record.
    pub(crate) fn set_kept_prompt(&self, prompt: KeptPrompt) {
        // A request is planned once.
        let _ = self.kept_prompt.set(Arc::new(prompt));
    }

    /// The prompt, if the task of the request learns.
    pub(crate) fn kept_prompt(&self) -> Option<&Arc<KeptPrompt>> {
        self.kept_prompt.get()
    }

    /// Leaves the end of the request to a recorder, so that it is not counted twice.
    pub(crate) fn hand_to_recorder(&self) {
        self.has_recorder.store(true, Ordering::Relaxed);
    }

    /// The energy so far, on all replicas.
    pub(crate) fn energy(&self) -> EnergyUsage {
        *self.energy.lock()
    }
}

/// Counts a request whose client went away before a recorder took over.
impl Drop for RequestContext {
    fn drop(&mut self) {
        if self.has_recorder.load(Ordering::Relaxed) {
            return;
        }
        let energy = self.energy();
        self.span.record_error("cancelled");
        let labels = RequestLabels {
            operation: self.operation,
            requested_model: None,
            model: None,
            task: None,
            energy_source: energy.sources.as_str(),
            currency: energy.cost.as_ref().map(|price| price.currency.as_str()),
        };
        let stats = RequestStats {
            duration: self.arrived.elapsed(),
            error_type: Some("cancelled"),
            joules: f64::from(energy.joules.0),
            co2_grams: energy.co2_grams,
            cost: energy.cost.map(|price| price.amount),
            ..RequestStats::default()
        };
        self.metrics.record_request(labels, &stats);
    }
}
