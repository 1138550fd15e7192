//! How wrong the joules are that a request is told: the ledger is fed as the agent feeds it, by a
//! node whose joules are known token by token.
//!
//! The node draws 10 W idle and up to 45 W. A token read and a token written take different
//! joules, of a small and of a large model; requests at once slow each other down and draw a little
//! more together. How long they take alone, and how many are computed at once, is what [`Asked`] says.

use flotilla_core::Watts;
use flotilla_core::energy::{Ledger, MeterWindow, PowerRange};

use super::fleet::normal;

/// A step of the simulation, in seconds.
const STEP: f64 = 0.001;
/// How long it is, in steps, and how long a meter's window is, as the agent's are.
const STEPS: usize = 4 * 3_600_000;
const WINDOW: usize = 100;
/// How long a window is while nothing is computed.
const QUIET: usize = 1_000;
const POWER: PowerRange = PowerRange {
    idle: Watts(10.0),
    max: Watts(45.0),
    configured: true,
};
/// What the meter counts in, joules, and its noise: standard deviation of what a window is off.
const QUANTUM: f64 = 0.05;
const NOISE: f64 = 0.03;
const CORES: f64 = 8.0;
/// Seconds that the shortest request takes alone.
const SHORTEST: f64 = 0.005;
/// Requests at once that the models are told to compute.
const CONCURRENCY: f64 = 8.0;
/// How fast what a token takes follows the answers, as in the agent's accounts.
const TOKEN_FOLLOWS: f64 = 0.2;

/// Seconds of a token read and written, and watts on top of idle meanwhile.
struct Model {
    prefill: f64,
    decode: f64,
    reads: f64,
    writes: f64,
}

const MODELS: [Model; 2] = [
    Model {
        prefill: 0.001,
        decode: 0.012,
        reads: 32.0,
        writes: 20.0,
    },
    Model {
        prefill: 0.005,
        decode: 0.060,
        reads: 34.0,
        writes: 26.0,
    },
];

/// Where the ledger's joules come from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Source {
    Meter,
    /// Processor time and what the node draws idle and at full work.
    Estimate,
}

/// What is asked of the node.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Requests at once, at most.
    pub(crate) at_once: usize,
    /// Seconds that the longest request takes alone.
    pub(crate) longest: f64,
}

/// The errors of requests of some length.
pub(crate) struct Class {
    pub(crate) name: &'static str,
    shorter_than: f64,
    pub(crate) requests: usize,
    off: f64,
    told: f64,
    took: f64,
}

pub(crate) type Errors = Vec<Class>;

impl Class {
    fn new((name, shorter_than): (&'static str, f64)) -> Self {
        Self {
            name,
            shorter_than,
            requests: 0,
            off: 0.0,
            told: 0.0,
            took: 0.0,
        }
    }

    fn count(&mut self, told: f64, took: f64) {
        self.requests += 1;
        self.off += (told - took).abs() / took;
        self.told += told;
        self.took += took;
    }

    /// Mean absolute error of what one request is told, as a part of what it took.
    pub(crate) fn mean(&self) -> f64 {
        self.off / self.requests.max(1) as f64
    }

    /// By how much all together are told too much.
    pub(crate) fn of_sum(&self) -> f64 {
        self.told / self.took - 1.0
    }
}

struct Request {
    account: u64,
    model: usize,
    /// Work alone, in seconds, up to the first token and in all, and what is done of it.
    prefill: f64,
    all: f64,
    done: f64,
    tokens: f64,
    /// Seconds so far, and those to the first token.
    elapsed: f64,
    first: Option<f64>,
    /// Work that is in the ledger.
    counted: f64,
    joules: f64,
}

impl Request {
    /// Between 5 ms and the `longest` long, each length as likely as its half.
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
            model.reads
        } else {
            model.writes
        }
    }

    /// Its work as the agent counts it: reading by time, writing by tokens at what one takes.
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

/// Runs it, with this source of joules.
pub(crate) fn errors(source: Source, asked: Asked, seed: u64) -> Errors {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ledger = Ledger::new(f64::from(POWER.idle.0), POWER.configured);
    let classes = [
        ("5 to 50 ms", 0.05),
        ("50 to 200 ms", 0.2),
        ("0.2 to 1 s", 1.0),
        ("1 to 3 s", 3.0),
        ("3 to 10 s", f64::INFINITY),
    ];
    let mut classes: Errors = classes.map(Class::new).into();
    let mut all = Class::new(("all", f64::INFINITY));
    let mut per_token = [None; 2];
    let mut running: Vec<Request> = Vec::new();
    let (mut wanted, mut until) = (0, 0);
    let (mut joules, mut counter, mut busy, mut opened) = (0.0, 0.0_f64, 0.0, 0);
    for step in 0..STEPS {
        if step >= until {
            // Now and then nobody asks.
            wanted = if random.u8(..4) == 0 {
                0
            } else {
                random.usize(1..=asked.at_once)
            };
            until = step + random.usize(1_000..8_000);
        }
        while running.len() < wanted {
            running.push(Request::draw(
                ledger.open_account(),
                asked.longest,
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
                let took = request.watts() / at_once * together * STEP;
                reads |= request.done < request.prefill;
                request.joules += took;
                joules += took;
                request.done += STEP / slow;
                request.elapsed += STEP;
                if request.done >= request.prefill && request.first.is_none() {
                    request.first = Some(request.elapsed);
                }
            }
            // All cores read a prompt; writing waits for memory a part of the time.
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
                *known = Some(before + TOKEN_FOLLOWS * (seen - before));
            }
            ended.count(&mut ledger, *known);
            let guess = f64::from(POWER.dynamic_power().0) / CONCURRENCY;
            let told = ledger.settle_account(ended.account, guess);
            let class = classes
                .iter_mut()
                .find(|class| ended.all < class.shorter_than);
            if let Some(class) = class {
                class.count(told, ended.joules);
            }
            all.count(told, ended.joules);
        }
        let length = if running.is_empty() { QUIET } else { WINDOW };
        if step + 1 - opened >= length {
            for request in &mut running {
                request.count(&mut ledger, per_token[request.model]);
            }
            let seconds = (step + 1 - opened) as f64 * STEP;
            let read = match source {
                Source::Meter => {
                    // The counter goes on where it was: what is rounded off is read next time.
                    let before = (counter / QUANTUM).floor();
                    counter += joules * (1.0 + NOISE * normal(&mut random)).max(0.0);
                    ((counter / QUANTUM).floor() - before) * QUANTUM
                }
                Source::Estimate => {
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
