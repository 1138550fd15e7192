//! The requests of a day: a Poisson process whose rate follows the time of day, with bursts.

use super::fleet::{Fleet, KINDS, MODELS, Model, normal};

/// A request.
pub(crate) struct Request {
    /// Its arrival in seconds since the start of the day.
    pub(crate) at: f64,
    pub(crate) model: u8,
    pub(crate) prompt: u16,
    pub(crate) output: u16,
}

/// Bytes per token of a prompt, approximately.
pub(crate) const BYTES: u32 = 4;

/// The number of bursts in a day; their length in seconds and the factor on the rate.
const BURSTS: usize = 20;
const BURST: (f64, f64) = (40.0, 1.7);

/// The rate of requests at this fraction of the day relative to the peak: low at night, high before noon,
/// in the afternoon and in the evening.
pub(crate) fn curve(day: f64) -> f64 {
    let hour = day * 24.0;
    let bump = |at: f64, wide: f64| (-0.5 * ((hour - at) / wide).powi(2)).exp();
    0.15 + 0.85 * bump(10.5, 2.0) + 0.75 * bump(15.0, 2.2) + 0.45 * bump(20.0, 1.5)
}

/// The requests of a day that load the fleet to `busy` (0 to 1) at its usual peak if the work is divided
/// by the speed of the nodes. The day is compressed to `long` seconds at an unchanged rate of requests.
pub(crate) fn day(fleet: &Fleet, busy: f64, long: f64, random: &mut fastrand::Rng) -> Vec<Request> {
    let rate = busy * most(fleet);
    let bursts: Vec<f64> = (0..BURSTS).map(|_| random.f64() * long).collect();
    let at_most = rate * BURST.1;
    let mut requests = Vec::new();
    let mut at = 0.0;
    loop {
        at -= (1.0 - random.f64()).ln() / at_most;
        if at >= long {
            return requests;
        }
        let burst = bursts
            .iter()
            .any(|from| (*from..from + BURST.0).contains(&at));
        let now = rate * curve(at / long).min(1.0) * if burst { BURST.1 } else { 1.0 };
        if random.f64() * at_most > now {
            continue;
        }
        let mut drawn = random.f64();
        let model = MODELS.iter().position(|model| {
            drawn -= model.part;
            drawn < 0.0
        });
        let model = model.unwrap_or(MODELS.len() - 1);
        let of = &MODELS[model];
        let tokens = |(median, spread): (f64, f64), most: u32, random: &mut fastrand::Rng| {
            let drawn = median * (spread * normal(random)).exp();
            drawn.round().clamp(1.0, f64::from(most)) as u16
        };
        requests.push(Request {
            at,
            model: model as u8,
            prompt: tokens(of.prompt, 2_000, random),
            output: tokens(of.output, of.most, random),
        });
    }
}

/// The most requests per second that the fleet can answer with the given mix of models.
fn most(fleet: &Fleet) -> f64 {
    let seconds = |at: usize, model: &Model| {
        let replica = &fleet.replicas[at];
        f64::from(replica.prefill) * mean(model.prompt)
            + f64::from(replica.decode) * mean(model.output)
    };
    let room = |model: usize| {
        let nodes = fleet.by_model[model].iter().map(|at| {
            let replica = &fleet.replicas[*at];
            let kind = &KINDS[fleet.nodes[replica.node].kind];
            let many = f64::from(kind.concurrency);
            let gained = many / (1.0 + f64::from(kind.contention) * (many - 1.0));
            gained / seconds(*at, &MODELS[model])
        });
        nodes.sum::<f64>()
    };
    // The sum of the fractions of the fleet that the models take at one request per second.
    let taken = (0..MODELS.len()).map(|model| MODELS[model].part / room(model));
    1.0 / taken.sum::<f64>()
}

/// The mean of a lognormal distribution with this median and spread of the logarithm.
fn mean((median, spread): (f64, f64)) -> f64 {
    median * (spread * spread / 2.0).exp()
}
