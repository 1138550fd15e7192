//! The ledger of a node with a simulated GPU, whose energy is known step by step.
//!
//! What an accelerator does that a processor does not: steps of 20 to 100 ms for all sequences together, idle power that
//! rises with a context, power that hardly depends on the batch, and a counter that moves only now and then. The figures
//! are those of an H100 as it was measured with another engine.

use super::*;
use crate::energy::{EngineTime, Progress};

/// The length of a simulation step, of a meter window and of one without requests, in seconds.
const TICK: f64 = 0.001;
const WINDOW: f64 = 0.1;
const QUIET_WINDOW: f64 = 1.0;
/// The time between two updates of the GPU's counter.
const COUNTER_PERIOD: f64 = 0.05;
/// Watts of the GPU without a context, with one, and while it computes.
const WITHOUT_CONTEXT: f64 = 71.0;
const WITH_CONTEXT: f64 = 122.0;
const COMPUTING: f64 = 385.0;
/// Watts of the processors, which are estimated: idle, and while their thread feeds the GPU.
const PROCESSORS: (f64, f64) = (11.8, 2.8);
/// Seconds of a step: for itself, for each token that is written, for each token of a prompt.
const STEP: (f64, f64, f64) = (0.02, 0.001, 0.000_1);
/// The most tokens of prompts that a step reads.
const CHUNK: u32 = 480;

/// How the agent sees what a request has computed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    /// The engine reports the seconds.
    Reported,
    /// By the time to the first token, and by the tokens from then on.
    Observed,
}

#[derive(Debug)]
struct Request {
    account: u64,
    unread: u32,
    unwritten: u32,
    /// After how many tokens it fails.
    fails_after: u32,
    written: u32,
    /// Its tokens after the first one, each with the time that one took then.
    decoded: f64,
    /// Seconds of the engine's steps that are its own.
    computed: f64,
    /// Joules above idle that it took.
    joules: f64,
}

impl Request {
    fn random(account: u64, random: &mut fastrand::Rng) -> Self {
        let unwritten = random.u32(8..256);
        Self {
            account,
            unread: random.u32(20..1_500),
            unwritten,
            fails_after: match random.u8(..8) {
                0 => random.u32(..unwritten),
                _ => u32::MAX,
            },
            written: 0,
            decoded: 0.0,
            computed: 0.0,
            joules: 0.0,
        }
    }

    fn progress(&self, source: Source) -> Progress {
        match source {
            Source::Reported => Progress::Seconds(self.computed),
            Source::Observed if self.written == 0 => Progress::Reading,
            Source::Observed => Progress::Seconds(self.decoded),
        }
    }
}

/// What the ledger charged, against what requests took.
#[derive(Debug, Default)]
struct Errors {
    /// The relative errors of requests.
    requests: Vec<f64>,
    charged: f64,
    taken: f64,
    /// The largest part of the metered energy of ten seconds that was attributed to nobody.
    unattributed: f64,
}

impl Errors {
    fn mean(&self) -> f64 {
        self.requests.iter().sum::<f64>() / self.requests.len() as f64
    }

    /// The part of the requests whose joules are within 15 %.
    fn within(&self) -> f64 {
        let within = self.requests.iter().filter(|error| **error <= 0.15);
        within.count() as f64 / self.requests.len() as f64
    }
}

/// A step of the engine: when it ends, how long it is, and what it computes of each request.
struct Step {
    ends: f64,
    seconds: f64,
    /// For each request: tokens read, whether a token is written, and its seconds.
    parts: Vec<(u64, u32, bool, f64)>,
}

impl Step {
    /// The next step: a token for each answer, and a part of the oldest prompts.
    fn plan(requests: &[Request], now: f64) -> Self {
        let mut left = CHUNK;
        let mut parts = Vec::new();
        for request in requests {
            let read = request.unread.min(left);
            left -= read;
            if request.unread > 0 && read == 0 {
                continue;
            }
            let writes = request.unread == read;
            let seconds = STEP.1 * f64::from(u8::from(writes)) + STEP.2 * f64::from(read);
            parts.push((request.account, read, writes, seconds));
        }
        let own = STEP.0 / parts.len() as f64;
        parts.iter_mut().for_each(|part| part.3 += own);
        let seconds = parts.iter().map(|part| part.3).sum();
        Self {
            // It begins with this tick.
            ends: now - TICK + seconds,
            seconds,
            parts,
        }
    }
}

/// Simulates a node for so many seconds, with 1 to `most` requests at once.
fn simulate(source: Source, most: usize, seconds: f64, seed: u64) -> Errors {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ledger = Ledger::new(PROCESSORS.0);
    let mut engine = EngineTime::default();
    let mut running: Vec<Request> = Vec::new();
    let mut step: Option<Step> = None;
    let mut errors = Errors::default();
    let (mut counter, mut shown, mut read) = (0.0, 0.0, 0.0);
    let (mut window_start, mut busy, mut had_requests) = (0.0, 0.0, false);
    let (mut concurrency, mut period_end) = (0, 8.0);
    let (mut ten_seconds, mut ten_seconds_end) = (LedgerTotals::default(), 0.0);
    // The model comes after five seconds, the first request three seconds later.
    for tick in 1..(seconds / TICK) as u64 {
        let now = tick as f64 * TICK;
        let is_at = |period: f64| tick % (period / TICK).round() as u64 == 0;
        if tick == (5.0 / TICK) as u64 {
            ledger.restart_idle();
        }
        if now >= period_end {
            concurrency = match random.u8(..4) {
                0 => 0,
                _ => random.usize(1..=most),
            };
            period_end = now + 3.0 + 9.0 * random.f64();
        }
        let per_token = STEP.0 + STEP.1 * running.len() as f64;
        let progress = |running: &[Request], account| {
            let request = running.iter().find(|r: &&Request| r.account == account);
            request.map_or(Progress::Reading, |request| request.progress(source))
        };
        while running.len() < concurrency {
            let account = ledger.open_account(GpuUse::One(0));
            engine.begin(now, account, |account| progress(&running, account));
            running.push(Request::random(account, &mut random));
        }
        if step.is_none() && !running.is_empty() {
            step = Some(Step::plan(&running, now));
        }
        let idle = if now < 5.0 {
            WITHOUT_CONTEXT
        } else {
            WITH_CONTEXT
        };
        counter += TICK * if step.is_some() { COMPUTING } else { idle };
        busy += if step.is_some() { TICK } else { 0.0 };
        if is_at(COUNTER_PERIOD) {
            shown = counter;
        }
        had_requests |= !running.is_empty();
        if let Some(ended) = step.take_if(|step| step.ends <= now) {
            for (account, read, writes, seconds) in ended.parts {
                let Some(request) = running.iter_mut().find(|r| r.account == account) else {
                    continue;
                };
                request.unread -= read;
                request.computed += seconds;
                // What a step takes beyond its end, up to the tick, is a part of it.
                let ticks = ((ended.seconds - 1e-9) / TICK).ceil();
                let scale = ticks * TICK / ended.seconds;
                request.joules += seconds * scale * (COMPUTING - WITH_CONTEXT + PROCESSORS.1);
                if writes {
                    request.decoded += if request.written > 0 { per_token } else { 0.0 };
                    request.written += 1;
                }
            }
            let is_over = |r: &Request| r.written >= r.unwritten || r.written > r.fails_after;
            while let Some(index) = running.iter().position(is_over) {
                let account = running[index].account;
                let seconds = engine.end(now, account, |account| progress(&running, account));
                let request = running.swap_remove(index);
                let processors = seconds * PROCESSORS.1 / 44.2;
                let work = Work {
                    processors,
                    gpu: seconds,
                };
                ledger.add_work(account, work);
                let charged = ledger.settle_account(account, 44.2);
                errors.charged += charged;
                errors.taken += request.joules;
                errors.requests.push((charged / request.joules - 1.0).abs());
            }
        }
        let length = if running.is_empty() && !had_requests {
            QUIET_WINDOW
        } else {
            WINDOW
        };
        if now - window_start < length - TICK / 2.0 {
            continue;
        }
        engine.divide(now, |account| progress(&running, account));
        for (account, seconds) in engine.take() {
            let processors = seconds * PROCESSORS.1 / 44.2;
            let work = Work {
                processors,
                gpu: seconds,
            };
            ledger.add_work(account, work);
        }
        let seconds = now - window_start;
        let idle_joules = PROCESSORS.0 * seconds;
        let processors = ChannelWindow {
            channel: 1,
            part: MeteredPart::Processors,
            joules: idle_joules + PROCESSORS.1 * busy,
            idle_joules: Some(idle_joules),
            own_share: 1.0,
        };
        let gpu = ChannelWindow {
            channel: 0,
            part: MeteredPart::Gpu(0),
            joules: shown - read,
            idle_joules: None,
            own_share: 1.0,
        };
        ledger.close_window(MeterWindow {
            seconds,
            channels: &[processors, gpu],
            is_loading: false,
        });
        (read, window_start, busy, had_requests) = (shown, now, 0.0, !running.is_empty());
        if now - ten_seconds_end >= 10.0 {
            ten_seconds_end = now;
            let totals = ledger.totals();
            let metered = totals.metered - ten_seconds.metered;
            let unattributed = (totals.carried - ten_seconds.carried).abs();
            errors.unattributed = errors.unattributed.max(unattributed / metered);
            ten_seconds = totals;
        }
    }
    errors
}

#[test]
fn joules_of_requests_agree_with_a_gpu_meter() {
    println!(
        "at once | progress | requests | mean error | within 15 % | sum | unattributed in 10 s"
    );
    // The least part of the requests that must be within 15 %.
    for (most, source, within) in [
        (1, Source::Reported, 0.99),
        (4, Source::Reported, 0.97),
        (32, Source::Reported, 0.94),
        (1, Source::Observed, 0.99),
        (4, Source::Observed, 0.9),
        (32, Source::Observed, 0.5),
    ] {
        let errors = simulate(source, most, 600.0, 7);
        let sum = errors.charged / errors.taken - 1.0;
        println!(
            "1 to {most} | {source:?} | {} | {:.1} % | {:.1} % | {:+.1} % | {:.2} %",
            errors.requests.len(),
            100.0 * errors.mean(),
            100.0 * errors.within(),
            100.0 * sum,
            100.0 * errors.unattributed,
        );
        assert!(
            errors.unattributed < 0.03,
            "{most} {source:?}: {}",
            errors.unattributed
        );
        assert!(sum.abs() < 0.03, "{most} {source:?}: {sum}");
        assert!(errors.within() > within, "{most} {source:?}");
    }
}
