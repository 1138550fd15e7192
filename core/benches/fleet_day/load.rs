//! The requests of a day: a Poisson process whose rate follows the time of day, with bursts.

use super::fleet::{Fleet, KINDS, MODELS, Model, normal};

/// A request.
pub(crate) struct Request {
    /// Time of arrival in seconds since the start of the day.
    pub(crate) arrival: f64,
    /// Index of the model.
    pub(crate) model: u8,
    /// Tokens of the prompt.
    pub(crate) prompt: u16,
    /// Tokens of the answer.
    pub(crate) output: u16,
}

/// Approximate number of bytes per token of a prompt.
pub(crate) const BYTES_PER_TOKEN: u32 = 4;

/// Number of bursts in a day.
const BURSTS: usize = 20;
/// Length of a burst in seconds.
const BURST_SECONDS: f64 = 40.0;
/// Factor on the rate of requests in a burst.
const BURST_FACTOR: f64 = 1.7;

/// Returns the rate of requests at a fraction of the day relative to the peak: low at night, high before
/// noon, in the afternoon and in the evening.
pub(crate) fn relative_rate(day: f64) -> f64 {
    let hour = day * 24.0;
    let bump = |center: f64, width: f64| (-0.5 * ((hour - center) / width).powi(2)).exp();
    0.15 + 0.85 * bump(10.5, 2.0) + 0.75 * bump(15.0, 2.2) + 0.45 * bump(20.0, 1.5)
}

/// Returns the requests of a day. At the usual peak they load the fleet to `peak_load` (0 to 1) if the
/// work is divided by the speed of the nodes. The day is compressed to `day_seconds` at an unchanged
/// rate of requests.
pub(crate) fn day(
    fleet: &Fleet,
    peak_load: f64,
    day_seconds: f64,
    random: &mut fastrand::Rng,
) -> Vec<Request> {
    let rate = peak_load * max_rate(fleet);
    let bursts: Vec<f64> = (0..BURSTS).map(|_| random.f64() * day_seconds).collect();
    let highest_rate = rate * BURST_FACTOR;
    let mut requests = Vec::new();
    let mut time = 0.0;
    // Thinning: candidates arrive at the highest rate, and a part of them is dropped.
    loop {
        time -= (1.0 - random.f64()).ln() / highest_rate;
        if time >= day_seconds {
            return requests;
        }
        let in_burst = bursts
            .iter()
            .any(|start| (*start..start + BURST_SECONDS).contains(&time));
        let burst_factor = if in_burst { BURST_FACTOR } else { 1.0 };
        let current_rate = rate * relative_rate(time / day_seconds).min(1.0) * burst_factor;
        if random.f64() * highest_rate > current_rate {
            continue;
        }
        let mut remaining = random.f64();
        let model_index = MODELS.iter().position(|model| {
            remaining -= model.fraction;
            remaining < 0.0
        });
        let model_index = model_index.unwrap_or(MODELS.len() - 1);
        let model = &MODELS[model_index];
        let tokens = |(median, spread): (f64, f64), max: u32, random: &mut fastrand::Rng| {
            let tokens = median * (spread * normal(random)).exp();
            tokens.round().clamp(1.0, f64::from(max)) as u16
        };
        requests.push(Request {
            arrival: time,
            model: model_index as u8,
            prompt: tokens(model.prompt, 2_000, random),
            output: tokens(model.output, model.max_tokens, random),
        });
    }
}

/// Returns the maximum number of requests per second that the fleet can answer with this mix of models.
fn max_rate(fleet: &Fleet) -> f64 {
    let seconds = |replica: usize, model: &Model| {
        let replica = &fleet.replicas[replica];
        f64::from(replica.prefill) * mean(model.prompt)
            + f64::from(replica.decode) * mean(model.output)
    };
    // Requests per second if the fleet computed this model only.
    let model_rate = |model: usize| {
        let rates = fleet.by_model[model].iter().map(|index| {
            let replica = &fleet.replicas[*index];
            let kind = &KINDS[fleet.nodes[replica.node].kind];
            let concurrency = f64::from(kind.concurrency);
            let speedup = concurrency / (1.0 + f64::from(kind.contention) * (concurrency - 1.0));
            speedup / seconds(*index, &MODELS[model])
        });
        rates.sum::<f64>()
    };
    // The fractions of the fleet that the models use at one request per second.
    let fractions = (0..MODELS.len()).map(|model| MODELS[model].fraction / model_rate(model));
    1.0 / fractions.sum::<f64>()
}

/// Returns the mean of a lognormal distribution with this median and this standard deviation of the
/// logarithm.
fn mean((median, spread): (f64, f64)) -> f64 {
    median * (spread * spread / 2.0).exp()
}
