//! The ledger together with the requests that run, and how much they have computed.

use std::collections::HashMap;
use std::sync::Arc;

use flotilla_core::Joules;
use flotilla_core::energy::{EnergySources, EnergyUsage, Ledger};
use flotilla_engine::ComputeLocation;

use super::request_progress::{ModelRate, RequestProgress};

/// Everything that changes when requests start, progress and end.
pub(super) struct LedgerState {
    pub(super) ledger: Ledger,
    running: HashMap<u64, RunningRequest>,
    /// Computation since the last window closed.
    compute: WindowCompute,
    /// The sources of the joules of the last window.
    pub(super) sources: EnergySources,
    /// Whether the last handle is gone and the sampling thread should end.
    pub(super) closed: bool,
}

/// A request that is being computed.
struct RunningRequest {
    progress: Arc<RequestProgress>,
    /// Seconds of work already in the ledger.
    counted_work: f64,
    /// Elapsed seconds already in [`WindowCompute`].
    counted_seconds: f64,
}

/// Computation within one window.
///
/// Seconds are seconds of the whole machine: a model that runs as many requests as it can compute
/// at once counts one second per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct WindowCompute {
    /// Seconds of all requests.
    pub(super) seconds: f64,
    /// Seconds of requests to simulated engines, which use no processor.
    pub(super) simulated_seconds: f64,
    /// Whether a request was computed by another process.
    pub(super) in_other_process: bool,
}

impl LedgerState {
    pub(super) fn new(ledger: Ledger, sources: EnergySources) -> Self {
        Self {
            ledger,
            running: HashMap::new(),
            compute: WindowCompute::default(),
            sources,
            closed: false,
        }
    }

    /// Opens an account. Returns it, with its progress and whether no other request runs.
    pub(super) fn open(&mut self, rate: Arc<ModelRate>) -> (u64, Arc<RequestProgress>, bool) {
        let progress = Arc::new(RequestProgress::new(rate));
        let account = self.ledger.open_account();
        let is_first = self.running.is_empty();
        let request = RunningRequest {
            progress: progress.clone(),
            counted_work: 0.0,
            counted_seconds: 0.0,
        };
        self.running.insert(account, request);
        (account, progress, is_first)
    }

    /// Closes an account and returns its energy. `guessed_watts` is the power of one request, used
    /// until the ledger has seen a window with work.
    pub(super) fn settle(&mut self, account: u64, guessed_watts: f64) -> EnergyUsage {
        if let Some(mut request) = self.running.remove(&account) {
            request.count(account, &mut self.ledger, &mut self.compute);
        }
        let joules = self.ledger.settle_account(account, guessed_watts);
        EnergyUsage::new(Joules(joules as f32), self.sources)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Adds the progress of all running requests to the ledger.
    pub(super) fn count_all(&mut self) {
        for (account, request) in &mut self.running {
            request.count(*account, &mut self.ledger, &mut self.compute);
        }
    }

    /// Returns the computation since the last call and starts a new window.
    pub(super) fn take_compute(&mut self) -> WindowCompute {
        std::mem::take(&mut self.compute)
    }
}

impl RunningRequest {
    /// Adds the progress since the last call to the ledger and the window.
    fn count(&mut self, account: u64, ledger: &mut Ledger, compute: &mut WindowCompute) {
        let progress = &self.progress;
        let (work, seconds) = (progress.work(), progress.seconds());
        ledger.add_work(account, work - self.counted_work);
        // The estimate of a token's time may fall, and work with it; it is never taken back.
        self.counted_work = self.counted_work.max(work);
        let busy = (seconds - self.counted_seconds) / f64::from(progress.rate.concurrency);
        self.counted_seconds = seconds;
        compute.seconds += busy;
        match progress.rate.location {
            // Requests to other machines have no account.
            ComputeLocation::InProcess | ComputeLocation::OtherMachine => {}
            ComputeLocation::OtherProcess => compute.in_other_process = true,
            ComputeLocation::Simulated => compute.simulated_seconds += busy,
        }
    }
}
