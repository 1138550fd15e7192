//! Measures the error of the joules attributed to a request: the ledger is fed as the agent feeds it, with
//! the readings of a simulated node whose energy is known token by token.
//!
//! The node draws 10 W idle and up to 45 W. Prefill and decode of a small and of a large
//! model draw different power; concurrent requests slow each other down and draw a little more together.
//! [`NodeWorkload`] says how long requests take and how many are computed at once.

use flotilla_core::Watts;
use flotilla_core::energy::{Ledger, MeterWindow, PowerRange};

use super::fleet::normal;

/// The length of a simulation step in seconds.
const STEP: f64 = 0.001;
/// The length of the simulation and of a meter window in steps; the latter as in the agent.
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
const SHORTEST: f64 = 0.005;
/// Slots of the models.
const CONCURRENCY: f64 = 8.0;
/// The weight of a new answer in the running mean of the time per token, as in the agent.
const NEW_TOKEN_WEIGHT: f64 = 0.2;

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

/// How the energy of the node is read.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum EnergyReading {
    /// By a meter.
    Meter,
    /// Estimated from processor time and the node's idle and maximum power.
    Estimate,
}

/// The requests of the node.
#[derive(Clone, Copy)]
pub(crate) struct NodeWorkload {
    /// The most concurrent requests.
    pub(crate) at_once: usize,
    /// Seconds of the longest request on an idle node.
    pub(crate) longest: f64,
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

    fn count(&mut self, attributed: f64, actual: f64) {
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
    /// Seconds of work up to the first token, in all, and done so far.
    prefill: f64,
    all: f64,
    done: f64,
    tokens: f64,
    /// Seconds so far, and up to the first token.
    elapsed: f64,
    first: Option<f64>,
    /// Seconds of work that are in the ledger.
    counted: f64,
    joules: f64,
}

impl Request {
    /// A request of 5 ms to `longest` seconds, with a log-uniform length.
    fn draw(account: u64, longest: f64, random: &mut fastrand::Rng) -> Self {
        let long = SHORTEST * (random.f64() * (longest / SHORTEST).ln()).exp();
        let model = usize::from(long > 0.1 && random.bool());
        let of = &MODELS[model];
        let reading = long * (0.1 + 0.5 * random.f64());
        let prompt = (reading / of.prefill).round().max(1.0);
        let more = ((long - reading) / of.decode).floor();
        Self {
            account,
            model,
            prefill: prompt * of.prefill,
            all: prompt * of.prefill + more * of.decode,
            done: 0.0,
            tokens: 1.0 + more,
            elapsed: 0.0,
            first: None,
            counted: 0.0,
            joules: 0.0,
        }
    }

    fn watts(&self) -> f64 {
        let model = &MODELS[self.model];
        if self.done < self.prefill {
            model.prefill_watts
        } else {
            model.decode_watts
        }
    }

    /// Its work as the agent counts it: prefill by time, decode by tokens times the time per token.
    fn work(&self, per_token: Option<f64>) -> f64 {
        let Some(first) = self.first else {
            return self.elapsed;
        };
        let written = ((self.done - self.prefill) / MODELS[self.model].decode).floor();
        first + per_token.map_or(self.elapsed - first, |seconds| seconds * written)
    }

    fn count(&mut self, ledger: &mut Ledger, per_token: Option<f64>) {
        let work = self.work(per_token);
        ledger.add_work(self.account, work - self.counted);
        self.counted = self.counted.max(work);
    }
}

/// Runs the simulation and returns the errors by length of the requests, those of all at the end.
pub(crate) fn errors(source: EnergyReading, workload: NodeWorkload, seed: u64) -> Errors {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ledger = Ledger::new(f64::from(POWER.idle.0), POWER.configured);
    let classes = [
        ("5 to 50 ms", 0.05),
        ("50 to 200 ms", 0.2),
        ("0.2 to 1 s", 1.0),
        ("1 to 3 s", 3.0),
        ("3 to 10 s", f64::INFINITY),
    ];
    let mut classes: Errors = classes.map(LengthClass::new).into();
    let mut all = LengthClass::new(("all", f64::INFINITY));
    let mut per_token = [None; 2];
    let mut running: Vec<Request> = Vec::new();
    let (mut wanted, mut until) = (0, 0);
    let (mut joules, mut counter, mut busy, mut opened) = (0.0, 0.0_f64, 0.0, 0);
    for step in 0..STEPS {
        if step >= until {
            // A quarter of the periods have no requests.
            wanted = if random.u8(..4) == 0 {
                0
            } else {
                random.usize(1..=workload.at_once)
            };
            until = step + random.usize(1_000..8_000);
        }
        while running.len() < wanted {
            running.push(Request::draw(
                ledger.open_account(),
                workload.longest,
                &mut random,
            ));
        }
        joules += f64::from(POWER.idle.0) * STEP;
        if !running.is_empty() {
            let at_once = running.len() as f64;
            let slow = 1.0 + 0.45 * (at_once - 1.0);
            let together = 1.0 + 0.02 * (at_once - 1.0);
            let mut reads = false;
            for request in &mut running {
                let joules_of_step = request.watts() / at_once * together * STEP;
                reads |= request.done < request.prefill;
                request.joules += joules_of_step;
                joules += joules_of_step;
                request.done += STEP / slow;
                request.elapsed += STEP;
                if request.done >= request.prefill && request.first.is_none() {
                    request.first = Some(request.elapsed);
                }
            }
            // Prefill uses all cores; decode waits for memory a part of the time.
            busy += if reads { STEP } else { 0.9 * STEP };
        }
        let mut at = 0;
        while at < running.len() {
            if running[at].done < running[at].all {
                at += 1;
                continue;
            }
            let mut ended = running.swap_remove(at);
            let first = ended.first.unwrap_or(ended.elapsed);
            let known = &mut per_token[ended.model];
            if ended.tokens > 1.0 {
                let seen = (ended.elapsed - first) / (ended.tokens - 1.0);
                let before = known.unwrap_or(seen);
                *known = Some(before + NEW_TOKEN_WEIGHT * (seen - before));
            }
            ended.count(&mut ledger, *known);
            let guess = f64::from(POWER.dynamic_power().0) / CONCURRENCY;
            let attributed = ledger.settle_account(ended.account, guess);
            let class = classes
                .iter_mut()
                .find(|class| ended.all < class.shorter_than);
            if let Some(class) = class {
                class.count(attributed, ended.joules);
            }
            all.count(attributed, ended.joules);
        }
        let length = if running.is_empty() { QUIET } else { WINDOW };
        if step + 1 - opened >= length {
            for request in &mut running {
                request.count(&mut ledger, per_token[request.model]);
            }
            let seconds = (step + 1 - opened) as f64 * STEP;
            let read = match source {
                EnergyReading::Meter => {
                    // The counter keeps what is rounded off for the next reading.
                    let before = (counter / QUANTUM).floor();
                    counter += joules * (1.0 + NOISE * normal(&mut random)).max(0.0);
                    ((counter / QUANTUM).floor() - before) * QUANTUM
                }
                EnergyReading::Estimate => {
                    // Processor time is counted in ticks of 10 ms.
                    let cores = (busy * CORES / 0.01).round() * 0.01 / CORES;
                    f64::from(POWER.idle.0) * seconds + f64::from(POWER.dynamic_power().0) * cores
                }
            };
            ledger.close_window(MeterWindow {
                seconds,
                joules: read,
                own_share: 1.0,
            });
            (joules, busy, opened) = (0.0, 0.0, step + 1);
        }
    }
    classes.push(all);
    classes
}
