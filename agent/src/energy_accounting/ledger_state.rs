//! The ledger together with the requests that run, and how much they have computed.

use std::collections::HashMap;
use std::sync::Arc;

use flotilla_core::Joules;
use flotilla_core::energy::{EnergySources, EnergyUsage, Ledger};
use flotilla_engine::ComputeLocation;

use super::cpu_meter::process_cpu_time;
use super::model_cpu::ModelCpu;
use super::request_progress::{ModelRate, RequestProgress};

/// Everything that changes when requests start, progress and end.
pub(super) struct LedgerState {
    pub(super) ledger: Ledger,
    running: HashMap<u64, RunningRequest>,
    /// Processor time of the models' own processes.
    model_cpu: ModelCpu,
    cores: u32,
    /// Computation since the last window closed.
    compute: WindowCompute,
    has_ended_requests: bool,
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
    /// Core-seconds of the models' own processes, while they had requests.
    pub(super) process_seconds: f64,
    /// Whether a request was computed by a process that somebody else has started.
    pub(super) in_other_process: bool,
}

impl LedgerState {
    pub(super) fn new(ledger: Ledger, sources: EnergySources, cores: u32) -> Self {
        Self {
            ledger,
            running: HashMap::new(),
            model_cpu: ModelCpu::default(),
            cores,
            compute: WindowCompute::default(),
            has_ended_requests: false,
            sources,
            closed: false,
        }
    }

    /// Opens an account. Returns it, with its progress and whether no other request runs.
    pub(super) fn open(&mut self, rate: Arc<ModelRate>) -> (u64, Arc<RequestProgress>, bool) {
        if let Some(process) = rate.process {
            self.model_cpu.open(process, &process_cpu_time);
        }
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
            let progress = request.count(&mut self.compute);
            let work = match request.progress.rate.process {
                Some(process) => self.model_cpu.end(process, progress),
                None => progress,
            };
            self.ledger.add_work(account, work);
            self.has_ended_requests = true;
        }
        let joules = self.ledger.settle_account(account, guessed_watts);
        EnergyUsage::new(Joules(joules as f32), self.sources)
    }

    /// Whether requests have ended since the last window closed.
    pub(super) fn has_ended_requests(&self) -> bool {
        self.has_ended_requests
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Adds the progress of all running requests to the ledger, scaled by the processor time of their
    /// models' processes.
    pub(super) fn count_all(&mut self) {
        let mut progress = Vec::with_capacity(self.running.len());
        for (account, request) in &mut self.running {
            let (process, seconds) = (
                request.progress.rate.process,
                request.count(&mut self.compute),
            );
            if let Some(process) = process {
                self.model_cpu.add_running(process, seconds);
            }
            progress.push((*account, process, seconds));
        }
        let (core_seconds, factors) = self.model_cpu.close_window(self.cores, &process_cpu_time);
        self.compute.process_seconds += core_seconds;
        for (account, process, seconds) in progress {
            let factor = process.and_then(|process| factors.get(&process));
            self.ledger
                .add_work(account, seconds * factor.copied().unwrap_or(1.0));
        }
        let running = &self.running;
        self.model_cpu.retain(|process| {
            let mut rates = running.values().map(|request| &request.progress.rate);
            rates.any(|rate| rate.process == Some(process))
        });
    }

    /// Returns the computation since the last call and starts a new window.
    pub(super) fn take_compute(&mut self) -> WindowCompute {
        self.has_ended_requests = false;
        std::mem::take(&mut self.compute)
    }
}

impl RunningRequest {
    /// Adds the elapsed time since the last call to the window, and returns the progress since then, in
    /// seconds of work.
    fn count(&mut self, compute: &mut WindowCompute) -> f64 {
        let progress = &self.progress;
        let (work, seconds) = (progress.work(), progress.seconds());
        let new_work = (work - self.counted_work).max(0.0);
        // The estimate of a token's time may fall, and work with it; it is never taken back.
        self.counted_work = self.counted_work.max(work);
        let busy = (seconds - self.counted_seconds) / f64::from(progress.rate.concurrency);
        self.counted_seconds = seconds;
        compute.seconds += busy;
        match progress.rate.location {
            // Requests to other machines have no account.
            ComputeLocation::Own | ComputeLocation::OtherMachine => {}
            ComputeLocation::OtherProcess => compute.in_other_process = true,
            ComputeLocation::Simulated => compute.simulated_seconds += busy,
        }
        new_work
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_a_request_that_ended_at_once_is_in_its_window() {
        let mut state = LedgerState::new(Ledger::new(1.0, true), EnergySources::default(), 1);
        let rate = ModelRate::new(ComputeLocation::Own, 1, Some(std::process::id()));
        let (account, _, is_first) = state.open(Arc::new(rate));
        assert!(is_first);
        assert!(!state.has_ended_requests());
        let began = process_cpu_time(std::process::id()).unwrap();
        while process_cpu_time(std::process::id()).unwrap() < began + 0.01 {
            std::hint::spin_loop();
        }
        state.settle(account, 1.0);
        assert!(state.is_idle() && state.has_ended_requests());
        state.count_all();
        assert!(state.take_compute().process_seconds >= 0.01);
        assert!(!state.has_ended_requests());
        state.count_all();
        assert_eq!(state.take_compute().process_seconds, 0.0);
    }
}
