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
/// Values that differ by less than this factor count as equal: what one of two equal replicas is
/// ahead by chance must not give it all requests. Our own choice.
const SIMILAR: f32 = 1.25;
/// The most that one abandoned request may lengthen an estimate, as a factor.
const MAX_STRETCH: f32 = 4.0;
/// The weight of the prior that prefill time is proportional to the prompt's bytes, in squared
/// coefficients of variation of the bytes seen so far.
const PROPORTIONAL_PRIOR: f32 = 0.01;
/// Bytes of a prompt up to which prefill time is mostly constant: a few bytes say nothing of how
/// long many take.
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
    /// When it was last updated, in seconds of the caller's clock.
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

/// When an answer is expected.
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

    /// Seconds to read so many bytes, by a ridge regression whose prior is proportionality.
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
        // The first token is there once the prompt is read.
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

    /// When the answer to a request of this `cost` is expected on a replica of this load.
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
mod tests {
    use super::*;

    fn load(in_flight: u32) -> ReplicaLoad {
        ReplicaLoad {
            in_flight,
            external_in_flight: 0,
            concurrency: 4,
            capacity: 64,
        }
    }

    fn served(seconds: f32, in_flight: u32) -> ServedRequest {
        ServedRequest {
            prompt_bytes: 100,
            prompt_tokens: 20,
            completion_tokens: 8,
            seconds,
            compute_time: None,
            load: load(in_flight),
        }
    }

    fn computed(prompt_bytes: u32, tokens: u32, prefill: f32, decode: f32) -> ServedRequest {
        ServedRequest {
            prompt_bytes,
            completion_tokens: tokens,
            compute_time: Some(ComputeTime { prefill, decode }),
            ..served(60.0, 50)
        }
    }

    fn speed(seconds: f32, at: f32) -> SpeedEstimate {
        SpeedEstimate::learn(None, served(seconds * contention_factor(load(0)), 0), at)
    }

    fn times_of_two(
        a: (ReplicaLoad, Option<SpeedEstimate>),
        b: (ReplicaLoad, Option<SpeedEstimate>),
        cost: RequestCost,
        now: f32,
    ) -> (f32, f32) {
        (time_ratio(a, b, cost, now), 1.0)
    }

    const COST: RequestCost = RequestCost {
        prompt_bytes: 100,
        max_tokens: None,
    };

    #[test]
    fn predicts_what_it_has_learnt() {
        let mut known = None;
        for _ in 0..50 {
            known = Some(SpeedEstimate::learn(known, computed(100, 5, 0.2, 0.4), 0.0));
        }
        let known = known.unwrap();
        let prediction = known.predict(load(0), COST);
        assert!(
            (prediction.first_token - 0.2).abs() < 1e-3,
            "{prediction:?}"
        );
        assert!((prediction.total - 0.6).abs() < 1e-3, "{prediction:?}");
        // A request does not wait while a slot is free; then it waits for the requests before it.
        assert_eq!(known.predict(load(3), COST), prediction);
        let queued = known.predict(load(11), COST);
        assert!(
            (queued.first_token - (0.2 + 7.5 / 4.0 * 0.6)).abs() < 1e-3,
            "{queued:?}"
        );
        // A shorter answer takes less time.
        let short = RequestCost {
            max_tokens: Some(1),
            ..COST
        };
        assert!((known.predict(load(0), short).total - 0.2).abs() < 1e-3);
    }

    #[test]
    fn unreported_compute_time_is_estimated_from_the_load() {
        let alone = SpeedEstimate::learn(None, served(2.0, 0), 0.0);
        let seen = alone.unloaded_seconds(COST) * contention_factor(load(0));
        assert!((seen - 2.0).abs() < 0.01, "{seen}");
        let busy = 2.0 * contention_factor(load(15)) / contention_factor(load(0));
        let busy = SpeedEstimate::learn(None, served(busy, 15), 0.0);
        assert!((busy.unloaded_seconds(COST) - alone.unloaded_seconds(COST)).abs() < 0.01);
    }

    #[test]
    fn learns_how_prefill_time_grows_with_the_prompt() {
        let prompt = |seconds: fn(f32) -> f32| {
            let mut known = None;
            for n in 0..200_u32 {
                let bytes = 50 + n * 37 % 400;
                let served = computed(bytes, 2, seconds(bytes as f32), 0.01);
                known = Some(SpeedEstimate::learn(known, served, 0.0));
            }
            known.unwrap()
        };
        let at = |speed: SpeedEstimate, prompt_bytes| {
            let cost = RequestCost {
                prompt_bytes,
                max_tokens: Some(1),
            };
            speed.unloaded_seconds(cost)
        };
        let steep = prompt(|bytes| 0.001 * bytes);
        assert!((at(steep, 1_000) - 1.0).abs() < 0.1, "{}", at(steep, 1_000));
        let flat = prompt(|_| 0.3);
        assert!((at(flat, 1_000) - 0.3).abs() < 0.15, "{}", at(flat, 1_000));
        // Prompts of one length say nothing of other lengths: proportionality is assumed.
        let mut same = None;
        for _ in 0..20 {
            same = Some(SpeedEstimate::learn(same, computed(100, 2, 0.1, 0.01), 0.0));
        }
        let twice = at(same.unwrap(), 200);
        assert!((twice - 0.2).abs() < 0.01, "{twice}");
    }

    #[test]
    fn abandoned_request_sets_a_lower_bound() {
        let lower_bound =
            |known, seconds| SpeedEstimate::learn_lower_bound(known, COST, seconds, load(0), 0.0);
        let fresh = lower_bound(None, 2.0).unwrap();
        assert!((fresh.unloaded_seconds(COST) - 2.0).abs() < 1e-3);
        let known = Some(SpeedEstimate::learn(None, computed(100, 5, 0.2, 0.4), 0.0));
        assert_eq!(
            lower_bound(known, 0.1),
            known,
            "a shorter time says nothing"
        );
        // The first complete answer replaces the lower bound.
        let whole = SpeedEstimate::learn(Some(fresh), computed(100, 5, 0.2, 0.4), 0.0);
        assert!(
            (whole.unloaded_seconds(COST) - 0.6).abs() < 1e-3,
            "{whole:?}"
        );
        assert!(
            whole.exploration_bonus(1.0) > 0.99
                && (whole.exploration_bonus(TRUST_HALF_LIFE) - 0.5).abs() < 1e-6
        );
        // A first token that takes twice as long makes it the slower replica, though no more is known.
        let tortoise = (load(0), lower_bound(None, 0.4));
        let (fast, slow) = times_of_two((load(0), known), tortoise, COST, 0.0);
        assert!(fast < slow);
        let slower = lower_bound(known, 2.0).unwrap();
        assert!(
            (slower.unloaded_seconds(COST) - 2.0).abs() < 1e-3,
            "{slower:?}"
        );
        let again = lower_bound(Some(slower), 1.9);
        assert_eq!(again, Some(slower));
    }

    #[test]
    fn short_prompt_says_little_of_long_ones() {
        let short = SpeedEstimate::learn(None, computed(2, 2, 0.1, 0.01), 0.0);
        let long = RequestCost {
            prompt_bytes: 650,
            max_tokens: Some(1),
        };
        assert!(
            short.unloaded_seconds(long) < 1.0,
            "{}",
            short.unloaded_seconds(long)
        );
    }

    #[test]
    fn estimate_follows_a_change_of_speed() {
        let mut known = Some(speed(0.1, 0.0));
        for _ in 0..20 {
            known = Some(SpeedEstimate::learn(known, served(10.0, 0), 1.0));
        }
        assert!(known.unwrap().unloaded_seconds(COST) > 5.0, "{known:?}");
    }

    #[test]
    fn idle_slow_replica_is_worse_than_a_fast_one_until_that_is_overloaded() {
        let slow = (load(0), Some(speed(1.0, 0.0)));
        let fast = |in_flight| (load(in_flight), Some(speed(0.1, 0.0)));
        for in_flight in [0, 3, 20] {
            let (fast, idle) = times_of_two(fast(in_flight), slow, COST, 0.0);
            assert!(fast < idle, "{in_flight}");
        }
        let (fast, idle) = times_of_two(fast(60), slow, COST, 0.0);
        assert!(fast > idle);
    }

    #[test]
    fn similar_speeds_count_as_equal() {
        let of = |seconds| (load(1), Some(speed(seconds, 0.0)));
        let (a, b) = times_of_two(of(0.1), of(0.115), COST, 0.0);
        assert_eq!(a, b);
    }

    #[test]
    fn slow_replica_is_tried_again_after_a_while() {
        let fast = |now| (load(2), Some(speed(0.1, now)));
        let slow = (load(0), Some(speed(1.0, 0.0)));
        let (a, b) = times_of_two(fast(0.0), slow, COST, 0.0);
        assert!(a < b);
        let later = 6.0 * TRUST_HALF_LIFE;
        let (a, b) = times_of_two(fast(later), slow, COST, later);
        assert!(a > b, "it is tried again");
        // An unknown replica counts as fast as the other one.
        let (a, b) = times_of_two(fast(0.0), (load(0), None), COST, 0.0);
        assert!(a > b);
    }
}
