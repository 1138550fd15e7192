//! The ledger together with the requests that run, and how much they have computed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use flotilla_core::Joules;
use flotilla_core::energy::{
    EnergySources, EnergyUsage, EngineTime, GpuUse, Ledger, Progress, Work,
};
use flotilla_engine::ComputeLocation;

use super::cpu_meter::process_cpu_time;
use super::model_cpu::ModelCpu;
use super::request_progress::{EngineKey, ModelRate, RequestProgress};

/// Everything that changes when requests start, progress and end.
pub(super) struct LedgerState {
    pub(super) ledger: Ledger,
    /// The beginning of the clock of [`EngineTime`].
    started: Instant,
    running: HashMap<u64, RunningRequest>,
    /// The time of the engines that have requests.
    engines: HashMap<EngineKey, EngineTime>,
    /// Processor time of the models' own processes.
    model_cpu: ModelCpu,
    cores: u32,
    /// Computation since the last window closed.
    compute: WindowCompute,
    has_ended_requests: bool,
    /// The models that are being loaded or unloaded, and whether there were any since the last window closed.
    loading: u32,
    was_loading: bool,
    /// The sources of the joules of the last window.
    pub(super) sources: EnergySources,
    /// Whether the last handle is gone and the sampling thread should end.
    pub(super) closed: bool,
}

/// A request that is being computed.
struct RunningRequest {
    progress: Arc<RequestProgress>,
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
    /// Whether a request was computed by a GPU.
    pub(super) on_gpu: bool,
    /// Whether models were loaded or unloaded.
    pub(super) is_loading: bool,
}

impl LedgerState {
    pub(super) fn new(ledger: Ledger, sources: EnergySources, cores: u32) -> Self {
        Self {
            ledger,
            started: Instant::now(),
            running: HashMap::new(),
            engines: HashMap::new(),
            model_cpu: ModelCpu::default(),
            cores,
            compute: WindowCompute::default(),
            has_ended_requests: false,
            loading: 0,
            was_loading: false,
            sources,
            closed: false,
        }
    }

    /// Opens an account. Returns it, with its progress and whether no other request runs.
    pub(super) fn open(&mut self, rate: Arc<ModelRate>) -> (u64, Arc<RequestProgress>, bool) {
        if let Some(process) = rate.process() {
            self.model_cpu.open(process, &process_cpu_time);
        }
        let account = self.ledger.open_account(rate.gpus);
        let is_first = self.running.is_empty();
        let now = self.now();
        let engine = self.engines.entry(rate.engine).or_default();
        engine.begin(now, account, |account| progress(&self.running, account));
        let progress = Arc::new(RequestProgress::new(rate));
        let request = RunningRequest {
            progress: progress.clone(),
            counted_seconds: 0.0,
        };
        self.running.insert(account, request);
        (account, progress, is_first)
    }

    /// Closes an account and returns its energy. `guessed_watts` is the power of a machine that is busy, used
    /// until the ledger has seen a window with work.
    pub(super) fn settle(&mut self, account: u64, guessed_watts: f64) -> EnergyUsage {
        let now = self.now();
        if let Some(request) = self.running.get_mut(&account) {
            let busy = request.count(&mut self.compute);
            let rate = request.progress.rate.clone();
            let engine = self.engines.get_mut(&rate.engine);
            let divided = engine.map_or(0.0, |engine| {
                engine.end(now, account, |account| progress(&self.running, account))
            });
            self.running.remove(&account);
            self.engines.retain(|_, engine| !engine.is_idle());
            let seconds = seconds_of(&rate, busy, divided);
            let processors = match rate.process() {
                Some(process) => self.model_cpu.end(process, seconds),
                None => seconds,
            };
            let work = Work {
                processors,
                gpu: seconds,
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

    /// Adds the work of all running requests to the ledger: their parts of the time of their engines, scaled by
    /// the processor time of their models' processes.
    pub(super) fn count_all(&mut self) {
        let now = self.now();
        let mut divided = HashMap::new();
        for engine in self.engines.values_mut() {
            engine.divide(now, |account| progress(&self.running, account));
            divided.extend(engine.take());
        }
        let mut counted = Vec::with_capacity(self.running.len());
        for (account, request) in &mut self.running {
            let busy = request.count(&mut self.compute);
            let divided = divided.get(account).copied().unwrap_or(0.0);
            let rate = &request.progress.rate;
            let seconds = seconds_of(rate, busy, divided);
            let process = rate.process();
            if let Some(process) = process {
                self.model_cpu.add_running(process, seconds);
            }
            counted.push((*account, process, seconds));
        }
        let (core_seconds, factors) = self.model_cpu.close_window(self.cores, &process_cpu_time);
        self.compute.process_seconds += core_seconds;
        for (account, process, seconds) in counted {
            let factor = process.and_then(|process| factors.get(&process));
            let processors = seconds * factor.copied().unwrap_or(1.0);
            let work = Work {
                processors,
                gpu: seconds,
            };
            self.ledger.add_work(account, work);
        }
        let running = &self.running;
        self.model_cpu.retain(|process| {
            let mut rates = running.values().map(|request| &request.progress.rate);
            rates.any(|rate| rate.process() == Some(process))
        });
    }

    /// Returns the computation since the last call and starts a new window.
    pub(super) fn take_compute(&mut self) -> WindowCompute {
        self.has_ended_requests = false;
        let was_loading = std::mem::replace(&mut self.was_loading, self.loading > 0);
        WindowCompute {
            is_loading: was_loading,
            ..std::mem::take(&mut self.compute)
        }
    }

    /// Records that a model begins to come or to go.
    pub(super) fn begin_loading(&mut self) {
        self.loading += 1;
        self.was_loading = true;
    }

    /// Records that a model has come or gone. What the machine draws without requests is another now.
    pub(super) fn end_loading(&mut self) {
        self.loading = self.loading.saturating_sub(1);
        self.ledger.restart_idle();
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

fn progress(running: &HashMap<u64, RunningRequest>, account: u64) -> Progress {
    let request = running.get(&account);
    request.map_or(Progress::Reading, |request| request.progress.progress())
}

/// The seconds of work of a request that was `busy` for so many seconds of the whole machine, and of whose engine's time
/// `divided` is its own. A simulated engine computes its requests apart from each other.
fn seconds_of(rate: &ModelRate, busy: f64, divided: f64) -> f64 {
    match rate.location {
        ComputeLocation::Simulated => busy,
        ComputeLocation::Own | ComputeLocation::OtherProcess | ComputeLocation::OtherMachine => {
            divided
        }
    }
}

impl RunningRequest {
    /// Adds the elapsed time since the last call to the window, and returns it in seconds of the whole machine.
    fn count(&mut self, compute: &mut WindowCompute) -> f64 {
        let progress = &self.progress;
        let seconds = progress.seconds();
        let busy = (seconds - self.counted_seconds) / f64::from(progress.rate.concurrency);
        self.counted_seconds = seconds;
        compute.seconds += busy;
        compute.on_gpu |= progress.rate.gpus != GpuUse::None;
        match progress.rate.location {
            // Requests to other machines have no account.
            ComputeLocation::Own | ComputeLocation::OtherMachine => {}
            ComputeLocation::OtherProcess => compute.in_other_process = true,
            ComputeLocation::Simulated => compute.simulated_seconds += busy,
        }
        busy
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_a_request_that_ended_at_once_is_in_its_window() {
        let mut state = LedgerState::new(Ledger::new(1.0), EnergySources::default(), 1);
        let rate = ModelRate::new(
            ComputeLocation::Own,
            1,
            Some(std::process::id()),
            GpuUse::None,
        );
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
