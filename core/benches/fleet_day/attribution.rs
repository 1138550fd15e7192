//! Measures the error of the joules attributed to a request. The ledger gets the same input as in the
//! agent, from a simulated node whose energy is known token by token.
//!
//! The node draws 10 W idle and up to 45 W. Prefill and decode of a small and of a large model draw
//! different power. Concurrent requests slow each other down and draw a little more together.
//! [`NodeWorkload`] sets the length and the concurrency of requests.

use flotilla_core::Watts;
use flotilla_core::energy::{
    ChannelWindow, EngineTime, GpuUse, Ledger, MeterWindow, MeteredPart, PowerRange, Progress, Work,
};

use super::fleet::normal;

/// The length of a simulation step in seconds.
const STEP: f64 = 0.001;
/// The lengths of the simulation and of a meter window (the same as in the agent), in steps.
const STEPS: usize = 4 * 3_600_000;
const WINDOW: usize = 100;
/// The length of a window without requests in steps.
const QUIET: usize = 1_000;
const POWER: PowerRange = PowerRange {
    idle: Watts(10.0),
    max: Watts(45.0),
    configured: true,
};
/// The resolution of the meter in joules, and its noise: relative standard deviation per window.
const QUANTUM: f64 = 0.05;
const NOISE: f64 = 0.03;
const CORES: f64 = 8.0;
/// Seconds of the shortest request on an idle node.
const MIN_SECONDS: f64 = 0.005;
/// The weight of each second in the mean of the processor time per second of an engine, as in the agent.
const CPU_WEIGHT: f64 = 2.0;

/// Seconds per token and watts above idle in prefill and decode.
struct Model {
    prefill: f64,
    decode: f64,
    prefill_watts: f64,
    decode_watts: f64,
}

const MODELS: [Model; 2] = [
    Model {
        prefill: 0.001,
        decode: 0.012,
        prefill_watts: 32.0,
        decode_watts: 20.0,
    },
    Model {
        prefill: 0.005,
        decode: 0.060,
        prefill_watts: 34.0,
        decode_watts: 26.0,
    },
];

/// The source of the node's energy readings.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum EnergyReading {
    /// A meter.
    Meter,
    /// An estimate from processor time and the node's idle and maximum power.
    Estimate,
}

/// The length and the concurrency of the requests to the node.
#[derive(Clone, Copy)]
pub(crate) struct NodeWorkload {
    /// Maximum number of concurrent requests.
    pub(crate) max_concurrent: usize,
    /// Seconds of the longest request on an idle node.
    pub(crate) max_seconds: f64,
}

/// The attribution errors of requests of similar length.
pub(crate) struct LengthClass {
    pub(crate) name: &'static str,
    shorter_than: f64,
    pub(crate) requests: usize,
    /// The sum of the relative errors.
    relative_errors: f64,
    attributed: f64,
    actual: f64,
}

pub(crate) type Errors = Vec<LengthClass>;

impl LengthClass {
    fn new((name, shorter_than): (&'static str, f64)) -> Self {
        Self {
            name,
            shorter_than,
            requests: 0,
            relative_errors: 0.0,
            attributed: 0.0,
            actual: 0.0,
        }
    }

    fn record(&mut self, attributed: f64, actual: f64) {
        self.requests += 1;
        self.relative_errors += (attributed - actual).abs() / actual;
        self.attributed += attributed;
        self.actual += actual;
    }

    /// The mean relative error of a request's joules.
    pub(crate) fn mean_error(&self) -> f64 {
        self.relative_errors / self.requests.max(1) as f64
    }

    /// The relative error of the sum of all requests' joules.
    pub(crate) fn sum_error(&self) -> f64 {
        self.attributed / self.actual - 1.0
    }
}

struct Request {
    account: u64,
    model: usize,
    /// Seconds of work up to the first token.
    prefill_work: f64,
    /// Seconds of work of the whole request.
    total_work: f64,
    /// Seconds of work so far.
    done_work: f64,
    joules: f64,
}

impl Request {
    /// Returns a request of 5 ms to `max_seconds`, with a log-uniform length.
    fn random(account: u64, max_seconds: f64, random: &mut fastrand::Rng) -> Self {
        let seconds = MIN_SECONDS * (random.f64() * (max_seconds / MIN_SECONDS).ln()).exp();
        let model_index = usize::from(seconds > 0.1 && random.bool());
        let model = &MODELS[model_index];
        let prefill_seconds = seconds * (0.1 + 0.5 * random.f64());
        let prompt = (prefill_seconds / model.prefill).round().max(1.0);
        let decoded = ((seconds - prefill_seconds) / model.decode).floor();
        Self {
            account,
            model: model_index,
            prefill_work: prompt * model.prefill,
            total_work: prompt * model.prefill + decoded * model.decode,
            done_work: 0.0,
            joules: 0.0,
        }
    }

    fn watts(&self) -> f64 {
        let model = &MODELS[self.model];
        if self.done_work < self.prefill_work {
            model.prefill_watts
        } else {
            model.decode_watts
        }
    }

    /// Returns how far it has come, as an engine reports it.
    fn progress(&self) -> Progress {
        Progress::Seconds(self.done_work)
    }
}

/// The process of a model, as the agent sees it.
#[derive(Default)]
struct ModelProcess {
    time: EngineTime,
    /// Processor time in the open window, in seconds of the whole machine.
    cpu: f64,
    /// What requests that ended in the window were counted of it.
    ended: f64,
    /// Processor time per second of the engine in earlier windows. `None`: there was none.
    per_second: Option<f64>,
}

impl ModelProcess {
    /// Ends a request and returns its work since the last window.
    fn end(&mut self, now: f64, account: u64, running: &[Request]) -> f64 {
        let seconds = self
            .time
            .end(now, account, |account| progress(running, account));
        let work = seconds * self.per_second.unwrap_or(1.0);
        self.ended += work;
        work
    }

    /// Closes a window and returns the work of the requests that run.
    fn close_window(&mut self, now: f64, running: &[Request]) -> Vec<(u64, f64)> {
        self.time.divide(now, |account| progress(running, account));
        let shares: Vec<_> = self.time.take().collect();
        let seconds: f64 = shares.iter().map(|(_, seconds)| seconds).sum();
        let factor = (self.cpu - self.ended).max(0.0) / seconds.max(1e-9);
        if seconds > 0.0 {
            let before = self.per_second.unwrap_or(factor);
            let weight = (CPU_WEIGHT * seconds).min(1.0);
            self.per_second = Some(before + weight * (factor - before));
        }
        (self.cpu, self.ended) = (0.0, 0.0);
        let work = shares.into_iter();
        work.map(|(account, seconds)| (account, seconds * factor))
            .collect()
    }
}

fn progress(running: &[Request], account: u64) -> Progress {
    let request = running.iter().find(|request| request.account == account);
    request.map_or(Progress::Reading, Request::progress)
}

fn add_work(ledger: &mut Ledger, account: u64, processors: f64) {
    let work = Work {
        processors,
        gpu: 0.0,
    };
    ledger.add_work(account, work);
}

/// Runs the simulation and returns the errors by length of the requests, followed by those of all
/// requests.
pub(crate) fn errors(source: EnergyReading, workload: NodeWorkload, seed: u64) -> Errors {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ledger = Ledger::new(f64::from(POWER.idle.0));
    let mut processes: [ModelProcess; MODELS.len()] = Default::default();
    let classes = [
        ("5 to 50 ms", 0.05),
        ("50 to 200 ms", 0.2),
        ("0.2 to 1 s", 1.0),
        ("1 to 3 s", 3.0),
        ("3 to 10 s", f64::INFINITY),
    ];
    let mut classes: Errors = classes.map(LengthClass::new).into();
    let mut all = LengthClass::new(("all", f64::INFINITY));
    let mut running: Vec<Request> = Vec::new();
    let (mut concurrency, mut period_end) = (0, 0);
    let (mut joules, mut counter, mut busy, mut window_start) = (0.0, 0.0_f64, 0.0, 0);
    for step in 0..STEPS {
        if step >= period_end {
            // A quarter of the periods have no requests.
            concurrency = if random.u8(..4) == 0 {
                0
            } else {
                random.usize(1..=workload.max_concurrent)
            };
            period_end = step + random.usize(1_000..8_000);
        }
        let now = step as f64 * STEP;
        while running.len() < concurrency {
            let account = ledger.open_account(GpuUse::None);
            let request = Request::random(account, workload.max_seconds, &mut random);
            let process = &mut processes[request.model];
            process
                .time
                .begin(now, account, |account| progress(&running, account));
            running.push(request);
        }
        joules += f64::from(POWER.idle.0) * STEP;
        if !running.is_empty() {
            let concurrent = running.len() as f64;
            let slowdown = 1.0 + 0.45 * (concurrent - 1.0);
            let extra_power = 1.0 + 0.02 * (concurrent - 1.0);
            let mut has_prefill = false;
            for request in &mut running {
                let joules_of_step = request.watts() / concurrent * extra_power * STEP;
                has_prefill |= request.done_work < request.prefill_work;
                request.joules += joules_of_step;
                joules += joules_of_step;
                request.done_work += STEP / slowdown;
            }
            // Prefill uses all cores. Decode waits for memory for a part of the time.
            let cpu = if has_prefill { STEP } else { 0.9 * STEP };
            busy += cpu;
            for request in &running {
                processes[request.model].cpu += cpu / concurrent;
            }
        }
        let now = now + STEP;
        let mut index = 0;
        while index < running.len() {
            if running[index].done_work < running[index].total_work {
                index += 1;
                continue;
            }
            let account = running[index].account;
            let process = &mut processes[running[index].model];
            let work = process.end(now, account, &running);
            add_work(&mut ledger, account, work);
            let completed = running.swap_remove(index);
            let guess = f64::from(POWER.dynamic_power().0);
            let attributed = ledger.settle_account(account, guess);
            let class = classes
                .iter_mut()
                .find(|class| completed.total_work < class.shorter_than);
            if let Some(class) = class {
                class.record(attributed, completed.joules);
            }
            all.record(attributed, completed.joules);
        }
        let length = if running.is_empty() { QUIET } else { WINDOW };
        if step + 1 - window_start >= length {
            for process in &mut processes {
                for (account, work) in process.close_window(now, &running) {
                    add_work(&mut ledger, account, work);
                }
            }
            let seconds = (step + 1 - window_start) as f64 * STEP;
            let reading = match source {
                EnergyReading::Meter => {
                    // The counter keeps the rounded-off energy for the next reading.
                    let previous = (counter / QUANTUM).floor();
                    counter += joules * (1.0 + NOISE * normal(&mut random)).max(0.0);
                    ((counter / QUANTUM).floor() - previous) * QUANTUM
                }
                EnergyReading::Estimate => {
                    // Processor time is counted in ticks of 10 ms.
                    let cores = (busy * CORES / 0.01).round() * 0.01 / CORES;
                    f64::from(POWER.idle.0) * seconds + f64::from(POWER.dynamic_power().0) * cores
                }
            };
            let idle = f64::from(POWER.idle.0) * seconds;
            let channel = ChannelWindow {
                channel: 0,
                part: MeteredPart::Processors,
                joules: reading,
                idle_joules: (source == EnergyReading::Estimate).then_some(idle),
                own_share: 1.0,
            };
            ledger.close_window(MeterWindow {
                seconds,
                channels: &[channel],
                is_loading: false,
            });
            (joules, busy, window_start) = (0.0, 0.0, step + 1);
        }
    }
    classes.push(all);
    classes
}
