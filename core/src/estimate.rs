//! Learns how fast a replica answers and predicts how long the next answer takes there.
//!
//! The cost of a request is the bytes of its prompt, the tokens of a choice of its answer, and the number of
//! choices. For each replica two things are learnt: how the time to read a prompt grows with its bytes, and
//! how long one token of a choice takes.
//!
//! A wrong estimate that is too fast corrects itself, because the replica gets requests. One that is
//! too slow does not, because the replica gets none. Estimates are therefore optimistic where it costs
//! little (optimism in the face of uncertainty, Lai and Robbins, 1985): an answer that is much faster
//! than expected is believed at once, and a single one that is much slower only in part; an idle replica
//! counts as fast as the others until several rounds of answers have confirmed that it is slow; and old
//! knowledge is trusted less and less, the sooner the busier the other replicas are.

mod exploration;
mod prefill;

use crate::routing::ReplicaLoad;

pub use exploration::Exploration;
use prefill::PrefillRegression;

/// Prompt tokens that cost as much as one token of an answer, where a node does not report how long
/// prefill and decode took: a prompt is computed in batches, an answer token by token. The ratio is
/// about ten on a CPU and higher on a GPU; our own estimate.
const PROMPT_TOKENS_PER_OUTPUT_TOKEN: f32 = 10.0;
/// The weight of a new answer in the running means.
const NEW_WEIGHT: f32 = 0.2;
/// Seconds in which trust in an estimate halves while another replica answers at once. A slow replica
/// that gets no requests is tried again after about four half-lives, and that request is late: in the
/// fleet of `benches/fleet_day` at 30 % load the p95 is a third longer with a half-life of one minute.
const TRUST_HALF_LIFE: f32 = 300.0;
/// Rounds of answers after which an estimate is trusted fully. Our own choice.
const TRUSTED_ROUNDS: u8 = 4;
/// An answer that takes less than this share of the expected time shows that the estimate is wrong:
/// nothing makes a replica faster than it is.
const FASTER_THAN_EXPECTED: f32 = 0.5;
/// The most by which one answer may shorten an estimate, as a factor.
const MIN_SHRINK: f32 = 0.01;
/// The longest time that an answer counts as, as a multiple of the expected time: it may have met a bad
/// moment. It doubles with each further round of answers that are slower still. With [`NEW_WEIGHT`] a single
/// one leaves the estimate [`SIMILAR`] to what it was.
const MAX_SURPRISE: f32 = 2.0;
/// Rounds of slow answers after which [`MAX_SURPRISE`] grows no more.
const MAX_SURPRISING_ROUNDS: u8 = 6;
/// The shortest expected time that [`MAX_SURPRISE`] multiplies, in seconds.
const MIN_EXPECTED: f32 = 1e-3;
/// The share of an answer's time that each concurrent request adds, also while slots are free: of
/// equal replicas the least busy one comes first. Our own estimate.
const CONTENTION: f32 = 0.25;
/// Values that differ by less than this factor count as equal, so that a small random difference
/// between two equal replicas does not send all requests to one of them. Our own choice.
const SIMILAR: f32 = 1.25;
/// The most that one abandoned request may lengthen an estimate, as a factor.
const MAX_STRETCH: f32 = 4.0;
/// The shortest time that replicas are compared by, in seconds, so that ratios stay finite.
const MIN_SECONDS: f32 = 1e-9;

/// The cost of a request, as far as it is known before the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestCost {
    /// Bytes of the prompt.
    pub prompt_bytes: u32,
    /// The most tokens that a choice may have. `None` if the request sets no limit.
    pub max_tokens: Option<u32>,
    /// The number of choices, at least 1.
    pub choices: u32,
}

impl Default for RequestCost {
    fn default() -> Self {
        Self {
            prompt_bytes: 0,
            max_tokens: None,
            choices: 1,
        }
    }
}

/// How fast a replica answers, learnt from its answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeedEstimate {
    prefill: PrefillRegression,
    /// Seconds for each token of an answer after the first one.
    decode: f32,
    /// Mean tokens of a choice.
    output: f32,
    /// Time of the last update, in seconds of the caller's clock.
    updated: f32,
    /// Whether no complete answer was seen yet, only a lower bound of the time to the first token.
    lower_bound: bool,
    /// Rounds of answers seen, at most [`TRUSTED_ROUNDS`]. Requests that were under way together are one
    /// round: they may have met the same bad moment.
    rounds: u8,
    /// Time at which the last round ended: a request that is dispatched later begins the next.
    round_ended: f32,
    /// Rounds in a row whose answers were slower than [`MAX_SURPRISE`] allows.
    surprising_rounds: u8,
}

/// An answer that a replica gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServedRequest {
    /// Bytes of the prompt that the replica had to read.
    pub prompt_bytes: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of all choices.
    pub completion_tokens: u32,
    /// The number of choices, at least 1.
    pub choices: u32,
    /// Seconds from dispatch to the end of the answer.
    pub seconds: f32,
    /// How long the node computed the answer. `None` if the node does not report it.
    pub compute_time: Option<ComputeTime>,
    /// The replica's load at dispatch, without this request.
    pub load: ReplicaLoad,
}

/// How long a node computed an answer, without the time it waited in the queue. Of several choices it is the
/// time that the first one waited for its first token, and that all took for the others.
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

/// How many times as long as one choice `choices` take on an idle replica with this number of slots.
fn rounds_of_choices(choices: u32, slots: u32) -> f32 {
    choices.max(1).div_ceil(slots.max(1)) as f32
}

impl ServedRequest {
    /// The mean number of tokens of a choice.
    fn tokens_per_choice(self) -> f32 {
        self.completion_tokens as f32 / self.choices.max(1) as f32
    }

    /// How long a choice was computed on average. Where the node does not report it, the time since dispatch
    /// is divided by the contention and the rounds of choices, and split by tokens.
    fn compute_time_per_choice(self) -> ComputeTime {
        if let Some(ComputeTime { prefill, decode }) = self.compute_time {
            return ComputeTime {
                prefill,
                decode: decode / self.choices.max(1) as f32,
            };
        }
        let rounds = rounds_of_choices(self.choices, self.load.concurrency);
        let unloaded = self.seconds / contention_factor(self.load) / rounds;
        let prompt = self.prompt_tokens as f32 / PROMPT_TOKENS_PER_OUTPUT_TOKEN + 1.0;
        let prefill = unloaded * prompt / (prompt + self.tokens_per_choice());
        ComputeTime {
            prefill,
            decode: unloaded - prefill,
        }
    }
}

impl SpeedEstimate {
    /// The `previous` estimate updated with an answer that ended at the time `now`. The first
    /// complete answer replaces a lower bound. An answer that is much faster than expected shortens the
    /// estimate to its time; one that is much slower lengthens it only a little, unless others follow.
    #[must_use]
    pub fn learn(previous: Option<Self>, served: ServedRequest, now: f32) -> Self {
        let ComputeTime { prefill, decode } = served.compute_time_per_choice();
        let tokens = served.tokens_per_choice();
        // The time to the first token is the time to read the prompt.
        let later_tokens = (tokens - 1.0).max(1.0);
        let bytes = served.prompt_bytes as f32;
        let Some(estimate) = previous.filter(|previous| !previous.lower_bound) else {
            let decode = decode / later_tokens;
            return Self {
                prefill: PrefillRegression::new(bytes, prefill),
                decode,
                output: tokens,
                updated: now,
                lower_bound: false,
                rounds: 1,
                round_ended: now,
                surprising_rounds: 0,
            };
        };
        let expected = estimate.prefill.seconds(bytes) + estimate.decode * (tokens - 1.0).max(0.0);
        let actual = prefill + decode;
        let mut estimate = if actual < FASTER_THAN_EXPECTED * expected {
            estimate.scaled((actual / expected).max(MIN_SHRINK))
        } else {
            estimate
        };
        let is_new_round = now - served.seconds >= estimate.round_ended;
        let expected = expected.max(MIN_EXPECTED);
        let longest = expected * MAX_SURPRISE * 2_f32.powi(estimate.surprising_rounds.into());
        let counted = if actual <= MAX_SURPRISE * expected {
            estimate.surprising_rounds = 0;
            1.0
        } else if is_new_round {
            let surprising = estimate.surprising_rounds + 1;
            estimate.surprising_rounds = surprising.min(MAX_SURPRISING_ROUNDS);
            (longest / actual).min(1.0)
        } else {
            // It met the same moment as the answer that this round was counted by.
            expected / actual
        };
        let decode = counted * decode / later_tokens;
        estimate.prefill.learn(bytes, counted * prefill);
        estimate.decode += NEW_WEIGHT * (decode - estimate.decode);
        estimate.output += NEW_WEIGHT * (tokens - estimate.output);
        estimate.updated = now;
        if is_new_round {
            estimate.rounds = (estimate.rounds + 1).min(TRUSTED_ROUNDS);
            estimate.round_ended = now;
        }
        estimate
    }

    /// The estimate of a replica that takes `factor` times as long.
    fn scaled(self, factor: f32) -> Self {
        Self {
            prefill: self.prefill.scaled(factor),
            decode: self.decode * factor,
            ..self
        }
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
        let seconds = seconds / rounds_of_choices(cost.choices, load.concurrency);
        let Some(estimate) = previous else {
            let served = ServedRequest {
                prompt_bytes: cost.prompt_bytes,
                prompt_tokens: 0,
                completion_tokens: 1,
                choices: 1,
                seconds,
                compute_time: Some(ComputeTime {
                    prefill: seconds,
                    decode: 0.0,
                }),
                load,
            };
            return Some(Self {
                lower_bound: true,
                rounds: TRUSTED_ROUNDS,
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
            updated: now,
            ..estimate.scaled(stretch)
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

    /// Seconds from the first token of a choice to its last.
    fn decode_seconds(self, cost: RequestCost) -> f32 {
        let max_tokens = cost.max_tokens.map_or(f32::MAX, |max| max as f32);
        let tokens = self.output.min(max_tokens);
        self.decode * (tokens - 1.0).max(0.0)
    }

    /// Seconds that one choice of a request of this `cost` takes on an idle replica.
    #[must_use]
    pub fn unloaded_seconds(self, cost: RequestCost) -> f32 {
        self.prefill_seconds(cost) + self.decode_seconds(cost)
    }

    /// Seconds that a replica computes for all choices of a request of this `cost` together, as it reports
    /// them in [`ComputeTime`].
    #[must_use]
    pub fn compute_seconds(self, cost: RequestCost) -> f32 {
        self.prefill_seconds(cost) + self.decode_seconds(cost) * cost.choices.max(1) as f32
    }

    /// Seconds that one choice of a request of this `cost` takes on an idle replica, compared with those of
    /// `other`.
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
            ..RequestCost::default()
        };
        // The requests in the slots are half done on average.
        let wait = (ahead - 0.5).max(0.0) / slots as f32 * self.unloaded_seconds(typical);
        LatencyPrediction {
            first_token: wait + self.prefill_seconds(cost),
            total: wait + self.unloaded_seconds(cost) * rounds_of_choices(cost.choices, slots),
        }
    }
}

/// The time on a replica as a multiple of the time on another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeRatio {
    /// The ratio by which replicas are compared: as far as the estimates are trusted.
    pub trusted: f32,
    /// The ratio by the estimates as they stand.
    pub estimated: f32,
}

/// The time that a request of this `cost` takes on a replica, as a multiple of the time on a
/// `reference` replica. Candidates are compared by their ratios to one common
/// reference, which order them totally.
///
/// The older the estimates are, the less their ratio is trusted, as the `exploration` says, and a replica
/// of unknown speed counts as fast as the reference, so that replicas are tried again from time to time.
/// Similar speeds count as equal; the load is taken into account afterwards.
#[must_use]
pub fn time_ratio(
    replica: (ReplicaLoad, Option<SpeedEstimate>),
    reference: (ReplicaLoad, Option<SpeedEstimate>),
    cost: RequestCost,
    exploration: Exploration,
) -> TimeRatio {
    let (trusted, estimated) = match (replica.1, reference.1) {
        (Some(speed), Some(of_reference)) => {
            let ratio =
                speed.seconds_beside(of_reference, cost) / of_reference.seconds_beside(speed, cost);
            let trust = if ratio >= 1.0 {
                exploration.trust_in_ratio((replica.0, speed), of_reference)
            } else {
                exploration.trust_in_ratio((reference.0, of_reference), speed)
            };
            (snap_similar(ratio.powf(trust)), snap_similar(ratio))
        }
        _ => (1.0, 1.0),
    };
    let load_factor = |load: ReplicaLoad| {
        contention_factor(load) * rounds_of_choices(cost.choices, load.concurrency)
    };
    let load_ratio = load_factor(replica.0) / load_factor(reference.0);
    TimeRatio {
        trusted: trusted * load_ratio,
        estimated: estimated * load_ratio,
    }
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
