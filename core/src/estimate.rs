//! Learns how fast a replica answers and predicts how long the next answer takes there.
//!
//! The cost of a request is the bytes of its prompt and the tokens of its answer. For each replica
//! two things are learnt: how the time to read a prompt grows with its bytes, and how long one token
//! of an answer takes. Old knowledge is trusted less and less: the replica then counts as fast as
//! the one it is compared with, so that it is tried again.

use crate::routing::ReplicaLoad;

/// Prompt tokens that cost as much as one token of an answer, where a node does not report how long
/// prefill and decode took: a prompt is computed in batches, an answer token by token. The ratio is
/// about ten on a CPU and higher on a GPU; our own estimate.
const PROMPT_TOKENS_PER_OUTPUT_TOKEN: f32 = 10.0;
/// The weight of a new answer in the running means.
const NEW_WEIGHT: f32 = 0.2;
/// The weight of a new answer in the running variance and covariance of prompts, which need more
/// samples than the means.
const NEW_SLOPE_WEIGHT: f32 = 0.05;
/// Seconds in which trust in an estimate halves. A slow replica that gets no requests is tried again
/// after about four half-lives, and that request is late: in the fleet of `benches/fleet_day` at
/// 30 % load the p95 is a third longer with a half-life of one minute.
const TRUST_HALF_LIFE: f32 = 300.0;
/// The share of an answer's time that each concurrent request adds, also while slots are free: of
/// equal replicas the least busy one comes first. Our own estimate.
const CONTENTION: f32 = 0.25;
/// Values that differ by less than this factor count as equal, so that a small random difference
/// between two equal replicas does not send all requests to one of them. Our own choice.
const SIMILAR: f32 = 1.25;
/// The most that one abandoned request may lengthen an estimate, as a factor.
const MAX_STRETCH: f32 = 4.0;
/// The weight of the prior that prefill time is proportional to the prompt's bytes, in squared
/// coefficients of variation of the bytes seen so far.
const PROPORTIONAL_PRIOR: f32 = 0.01;
/// Bytes of a prompt up to which prefill time is mostly constant: the time of a short prompt does
/// not show how the time grows with its length.
const SHORT_PROMPT_BYTES: f32 = 100.0;
/// The shortest time that replicas are compared by, in seconds, so that ratios stay finite.
const MIN_SECONDS: f32 = 1e-9;

/// The cost of a request, as far as it is known before the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestCost {
    /// Bytes of the prompt.
    pub prompt_bytes: u32,
    /// The most tokens that the answer may have. `None` if the request sets no limit.
    pub max_tokens: Option<u32>,
}

/// How fast a replica answers, learnt from its answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeedEstimate {
    prefill: PrefillRegression,
    /// Seconds for each token of an answer after the first one.
    decode: f32,
    /// Mean tokens of an answer.
    output: f32,
    /// Time of the last update, in seconds of the caller's clock.
    updated: f32,
    /// Whether no complete answer was seen yet, only a lower bound of the time to the first token.
    lower_bound: bool,
}

/// How the time to the first token grows with the bytes of the prompt: the running moments of a
/// linear regression.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PrefillRegression {
    /// Mean bytes of a prompt.
    bytes: f32,
    /// Mean seconds to the first token.
    seconds: f32,
    /// Variance of the bytes.
    variance: f32,
    /// Covariance of bytes and seconds.
    covariance: f32,
}

/// An answer that a replica gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServedRequest {
    /// Bytes of the prompt that the replica had to read.
    pub prompt_bytes: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Seconds from dispatch to the end of the answer.
    pub seconds: f32,
    /// How long the node computed the answer. `None` if the node does not report it.
    pub compute_time: Option<ComputeTime>,
    /// The replica's load at dispatch, without this request.
    pub load: ReplicaLoad,
}

/// How long a node computed an answer, without the time it waited in the queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComputeTime {
    /// Seconds up to the first token.
    pub prefill: f32,
    /// Seconds from the first token to the last.
    pub decode: f32,
}

/// The predicted time of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyPrediction {
    /// Seconds from now to the first token.
    pub first_token: f32,
    /// Seconds from now to the end of the answer.
    pub total: f32,
}

/// The factor by which a request takes longer on a replica of this load than on an idle one. Once
/// all slots are busy requests take turns, and each concurrent request slows the others a little.
#[must_use]
pub fn contention_factor(load: ReplicaLoad) -> f32 {
    let turns = (load.requests() as f32 + 1.0) / load.concurrency.max(1) as f32;
    turns.max(1.0) + CONTENTION * turns
}

impl ServedRequest {
    /// How long the answer was computed. Where the node does not report it, the time since dispatch
    /// is divided by the contention and split by tokens.
    fn compute_time_or_estimate(self) -> ComputeTime {
        self.compute_time.unwrap_or_else(|| {
            let unloaded = self.seconds / contention_factor(self.load);
            let prompt = self.prompt_tokens as f32 / PROMPT_TOKENS_PER_OUTPUT_TOKEN + 1.0;
            let prefill = unloaded * prompt / (prompt + self.completion_tokens as f32);
            ComputeTime {
                prefill,
                decode: unloaded - prefill,
            }
        })
    }
}

impl PrefillRegression {
    fn learn(&mut self, bytes: f32, seconds: f32) {
        let (bytes_off, seconds_off) = (bytes - self.bytes, seconds - self.seconds);
        let mean = |old: f32, new: f32| old + NEW_SLOPE_WEIGHT * (new - old);
        self.bytes += NEW_WEIGHT * bytes_off;
        self.seconds += NEW_WEIGHT * seconds_off;
        let remaining = 1.0 - NEW_WEIGHT;
        self.variance = mean(self.variance, remaining * bytes_off * bytes_off);
        self.covariance = mean(self.covariance, remaining * bytes_off * seconds_off);
    }

    /// Seconds to read a prompt of `bytes`, by a ridge regression whose prior is proportionality.
    fn seconds(self, bytes: f32) -> f32 {
        let typical = self.bytes.max(SHORT_PROMPT_BYTES);
        let prior = PROPORTIONAL_PRIOR * typical * typical;
        let proportion = self.seconds / typical;
        let slope = (self.covariance + prior * proportion) / (self.variance + prior);
        let slope = slope.clamp(0.0, 2.0 * proportion);
        (self.seconds + slope * (bytes - self.bytes)).max(0.0)
    }
}

impl SpeedEstimate {
    /// The `previous` estimate updated with an answer that ended at the time `now`. The first
    /// complete answer replaces a lower bound.
    #[must_use]
    pub fn learn(previous: Option<Self>, served: ServedRequest, now: f32) -> Self {
        let ComputeTime { prefill, decode } = served.compute_time_or_estimate();
        let tokens = served.completion_tokens as f32;
        // The time to the first token is the time to read the prompt.
        let decode = decode / (tokens - 1.0).max(1.0);
        let bytes = served.prompt_bytes as f32;
        let Some(mut estimate) = previous.filter(|previous| !previous.lower_bound) else {
            return Self {
                prefill: PrefillRegression {
                    bytes,
                    seconds: prefill,
                    variance: 0.0,
                    covariance: 0.0,
                },
                decode,
                output: tokens,
                updated: now,
                lower_bound: false,
            };
        };
        estimate.prefill.learn(bytes, prefill);
        estimate.decode += NEW_WEIGHT * (decode - estimate.decode);
        estimate.output += NEW_WEIGHT * (tokens - estimate.output);
        estimate.updated = now;
        estimate
    }

    /// The `previous` estimate updated with an abandoned request of this `cost`: after `seconds` on
    /// a replica with a free slot it had not been answered, so it takes that long at least.
    #[must_use]
    pub fn learn_lower_bound(
        previous: Option<Self>,
        cost: RequestCost,
        seconds: f32,
        load: ReplicaLoad,
        now: f32,
    ) -> Option<Self> {
        let Some(estimate) = previous else {
            let served = ServedRequest {
                prompt_bytes: cost.prompt_bytes,
                prompt_tokens: 0,
                completion_tokens: 1,
                seconds,
                compute_time: Some(ComputeTime {
                    prefill: seconds,
                    decode: 0.0,
                }),
                load,
            };
            return Some(Self {
                lower_bound: true,
                ..Self::learn(None, served, now)
            });
        };
        let expected = estimate.unloaded_seconds(cost);
        if seconds <= expected {
            return previous;
        }
        // The estimate is stretched to the lower bound, so that a second report of the same request
        // changes nothing. One request alone must not stretch it without limit.
        let stretch = (seconds / expected.max(MIN_SECONDS)).min(MAX_STRETCH);
        Some(Self {
            prefill: PrefillRegression {
                seconds: estimate.prefill.seconds * stretch,
                covariance: estimate.prefill.covariance * stretch,
                ..estimate.prefill
            },
            decode: estimate.decode * stretch,
            updated: now,
            ..estimate
        })
    }

    /// Whether no complete answer was seen yet, only a lower bound of the time to the first token.
    #[must_use]
    pub fn is_lower_bound(self) -> bool {
        self.lower_bound
    }

    /// The factor by which an idle replica may be faster by now than it was when last seen. It
    /// starts at 1 and halves every `TRUST_HALF_LIFE` seconds without an answer: only trying shows
    /// whether a replica has improved, and the further it misses a limit, the more rarely it is
    /// tried.
    #[must_use]
    pub fn exploration_bonus(self, now: f32) -> f32 {
        0.5_f32.powf((now - self.updated).max(0.0) / TRUST_HALF_LIFE)
    }

    /// Seconds to the first token on an idle replica.
    fn prefill_seconds(self, cost: RequestCost) -> f32 {
        self.prefill.seconds(cost.prompt_bytes as f32)
    }

    /// Seconds that a request of this `cost` takes on an idle replica.
    #[must_use]
    pub fn unloaded_seconds(self, cost: RequestCost) -> f32 {
        let max_tokens = cost.max_tokens.map_or(f32::MAX, |max| max as f32);
        let tokens = self.output.min(max_tokens);
        self.prefill_seconds(cost) + self.decode * (tokens - 1.0).max(0.0)
    }

    /// Seconds that a request of this `cost` takes on an idle replica, compared with those of `other`.
    fn seconds_beside(self, other: Self, cost: RequestCost) -> f32 {
        let seconds = self.unloaded_seconds(cost).max(MIN_SECONDS);
        if !self.lower_bound || other.lower_bound {
            return seconds;
        }
        // Only the time to the first token has a known lower bound. The whole answer is taken to be as
        // much slower than the other replica's as the first token is.
        let ratio = seconds / other.prefill_seconds(cost).max(MIN_SECONDS);
        seconds.max(other.unloaded_seconds(cost) * ratio)
    }

    /// Predicts the time of the answer to a request of this `cost` on a replica of this load.
    #[must_use]
    pub fn predict(self, load: ReplicaLoad, cost: RequestCost) -> LatencyPrediction {
        let slots = load.concurrency.max(1);
        let ahead = (load.requests() + 1).saturating_sub(slots) as f32;
        let typical = RequestCost {
            prompt_bytes: self.prefill.bytes as u32,
            max_tokens: None,
        };
        // The requests in the slots are half done on average.
        let wait = (ahead - 0.5).max(0.0) / slots as f32 * self.unloaded_seconds(typical);
        LatencyPrediction {
            first_token: wait + self.prefill_seconds(cost),
            total: wait + self.unloaded_seconds(cost),
        }
    }
}

/// The time that a request of this `cost` takes on a replica, as a multiple of the time on a
/// `reference` replica, at the time `now`. Candidates are compared by their ratios to one common
/// reference, which order them totally.
///
/// The older the estimates are, the less their ratio is trusted, and a replica of unknown speed
/// counts as fast as the reference, so that replicas are tried again from time to time. Similar
/// speeds count as equal; the load is taken into account afterwards.
#[must_use]
pub fn time_ratio(
    replica: (ReplicaLoad, Option<SpeedEstimate>),
    reference: (ReplicaLoad, Option<SpeedEstimate>),
    cost: RequestCost,
    now: f32,
) -> f32 {
    let speed_ratio = match (replica.1, reference.1) {
        (Some(speed), Some(reference)) => {
            let ratio =
                speed.seconds_beside(reference, cost) / reference.seconds_beside(speed, cost);
            let trust = speed.exploration_bonus(now) + reference.exploration_bonus(now) - 1.0;
            snap_similar(ratio.powf(trust.max(0.0)))
        }
        _ => 1.0,
    };
    speed_ratio * contention_factor(replica.0) / contention_factor(reference.0)
}

/// A ratio of two values of which similar ones count as equal: 1 if they differ by less than the
/// factor [`SIMILAR`].
pub(crate) fn snap_similar(ratio: f32) -> f32 {
    if (1.0 / SIMILAR..SIMILAR).contains(&ratio) {
        1.0
    } else {
        ratio
    }
}

#[cfg(test)]
mod tests;
