//! How fast a replica answers, learnt from its answers, and how long the next one will take there.
//!
//! A request's work is the bytes of its prompt and the tokens of its answer. Of each replica it is
//! learnt how the time to read a prompt grows with its bytes, and how long a token of an answer
//! takes. What was learnt long ago is trusted less and less: the replica then counts as
//! fast as the one it is compared with, so that it is tried again.

use crate::routing::ReplicaLoad;

/// Prompt tokens that are as much work as one token of an answer, where a node does not say how
/// long each part took: a prompt is computed at once, an answer token by token. On a CPU it is
/// about ten, on a GPU more.
const PROMPT_TOKENS: f32 = 10.0;
/// What one more answer weighs in the means.
const NEW: f32 = 0.2;
/// What is known is trusted half as much, on a scale of ratios, after so many seconds. A slow replica that
/// nobody asks is tried again after about four of these, and that request is late: in the fleet of
/// `benches/fleet_day`, 30 % busy, the slowest twentieth takes a third longer where it is a minute.
const HALF_LIFE: f32 = 300.0;
/// An idle replica is hoped to be twice as fast for each so many seconds that nobody asked it: only what is
/// tried shows that it is better by now. The further it misses a limit, the rarer it is tried.
const HOPE: f32 = 300.0;
/// Part of an answer's time by which each request that is computed beside it slows it down,
/// also where there is room for more: of equal replicas the least busy comes first.
const CROWDING: f32 = 0.25;
/// Times that differ by less than this factor count as one: what one of two equal replicas is
/// ahead by chance shall not give it all requests.
const ALIKE: f32 = 1.25;
/// By what factor one answer that was not waited for can lengthen what is expected, at most.
const MOST_STRETCH: f32 = 4.0;
/// What the belief that a prompt's time is in proportion to its bytes weighs, in squared
/// coefficients of variation of the bytes that were seen.
const PROPORTION: f32 = 0.01;
/// Bytes of a prompt up to which what it takes is mostly the same for all: a few bytes say nothing of
/// what many take.
const SHORT: f32 = 100.0;
/// What one more answer weighs in how prompts' times go with their bytes.
const NEW_SLOPE: f32 = 0.05;

/// What a request asks for, as far as is known before it is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestCost {
    /// Of the prompt.
    pub prompt_bytes: u32,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
}

/// How fast a replica answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeedEstimate {
    prompt: PrefillRegression,
    /// Seconds for a token of an answer after its first one.
    decode: f32,
    /// Tokens of an answer.
    output: f32,
    /// When it was learnt, in seconds of the caller's clock.
    at: f32,
    /// Whether no answer was seen yet, only that one takes so long at least.
    least: bool,
}

/// How the time to the first token grows with the prompt: running means of a regression.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PrefillRegression {
    bytes: f32,
    seconds: f32,
    /// Variance of the bytes.
    variance: f32,
    /// Covariance of bytes and seconds.
    covariance: f32,
}

/// An answer that a replica gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServedRequest {
    pub prompt_bytes: u32,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    /// From dispatch to its end, in seconds.
    pub seconds: f32,
    /// How long computing it took, if its node says so.
    pub computed: Option<ComputeTime>,
    /// The replica's load when it was dispatched, itself not included.
    pub load: ReplicaLoad,
}

/// How long computing an answer took, in seconds, without what it waited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComputeTime {
    /// Up to the first token.
    pub prefill: f32,
    /// From there to the last one.
    pub decode: f32,
}

/// When an answer is expected, in seconds from now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyPrediction {
    pub first_token: f32,
    pub total: f32,
}

/// By which factor a request is slower on a replica of this load than alone: as often as all its
/// places have to be taken by turns, and a little for each request beside it.
#[must_use]
pub fn crowd(load: ReplicaLoad) -> f32 {
    let turns = (load.requests() as f32 + 1.0) / load.concurrency.max(1) as f32;
    turns.max(1.0) + CROWDING * turns
}

impl ServedRequest {
    /// Without what it waited. Where the node does not say: as if it had been computed by turns with
    /// what was there before it, parted by tokens.
    fn computed(self) -> ComputeTime {
        self.computed.unwrap_or_else(|| {
            let alone = self.seconds / crowd(self.load);
            let prompt = self.prompt_tokens as f32 / PROMPT_TOKENS + 1.0;
            let prefill = alone * prompt / (prompt + self.completion_tokens as f32);
            ComputeTime {
                prefill,
                decode: alone - prefill,
            }
        })
    }
}

impl PrefillRegression {
    fn learn(&mut self, bytes: f32, seconds: f32) {
        let (off, late) = (bytes - self.bytes, seconds - self.seconds);
        let mean = |old: f32, new: f32| old + NEW_SLOPE * (new - old);
        self.bytes += NEW * off;
        self.seconds += NEW * late;
        self.variance = mean(self.variance, (1.0 - NEW) * off * off);
        self.covariance = mean(self.covariance, (1.0 - NEW) * off * late);
    }

    /// Seconds to read so many bytes: by ridge regression towards proportion.
    fn seconds(self, bytes: f32) -> f32 {
        let typical = self.bytes.max(SHORT);
        let belief = PROPORTION * typical * typical;
        let proportion = self.seconds / typical;
        let slope = (self.covariance + belief * proportion) / (self.variance + belief);
        let slope = slope.clamp(0.0, 2.0 * proportion);
        (self.seconds + slope * (bytes - self.bytes)).max(0.0)
    }
}

impl SpeedEstimate {
    /// What `known` becomes by one more answer, which ended `now`.
    #[must_use]
    pub fn learn(known: Option<Self>, served: ServedRequest, now: f32) -> Self {
        let ComputeTime { prefill, decode } = served.computed();
        let tokens = served.completion_tokens as f32;
        // The first token is there when the prompt is read.
        let decode = decode / (tokens - 1.0).max(1.0);
        let bytes = served.prompt_bytes as f32;
        let Some(mut known) = known.filter(|known| !known.least) else {
            return Self {
                prompt: PrefillRegression {
                    bytes,
                    seconds: prefill,
                    variance: 0.0,
                    covariance: 0.0,
                },
                decode,
                output: tokens,
                at: now,
                least: false,
            };
        };
        known.prompt.learn(bytes, prefill);
        known.decode += NEW * (decode - known.decode);
        known.output += NEW * (tokens - known.output);
        known.at = now;
        known
    }

    /// What `known` becomes by an answer to this work that was not waited for, `alone` seconds after a
    /// replica with room for it was asked: it takes that long at least.
    #[must_use]
    pub fn learn_least(
        known: Option<Self>,
        work: RequestCost,
        alone: f32,
        load: ReplicaLoad,
        now: f32,
    ) -> Option<Self> {
        let expected = known.map(|known| known.alone(work));
        if expected.is_some_and(|expected| alone <= expected) {
            return known;
        }
        let (Some(known), Some(expected)) = (known, expected) else {
            let served = ServedRequest {
                prompt_bytes: work.prompt_bytes,
                prompt_tokens: 0,
                completion_tokens: 1,
                seconds: alone,
                computed: Some(ComputeTime {
                    prefill: alone,
                    decode: 0.0,
                }),
                load,
            };
            return Some(Self {
                least: true,
                ..Self::learn(None, served, now)
            });
        };
        // What was expected is stretched to what it takes at least, but one request is not believed
        // all: the same one said twice changes nothing.
        let stretch = (alone / expected.max(f32::MIN_POSITIVE)).min(MOST_STRETCH);
        Some(Self {
            prompt: PrefillRegression {
                seconds: known.prompt.seconds * stretch,
                covariance: known.prompt.covariance * stretch,
                ..known.prompt
            },
            decode: known.decode * stretch,
            at: now,
            ..known
        })
    }

    /// Whether no answer was seen yet, only that one takes so long at least.
    #[must_use]
    pub fn is_least(self) -> bool {
        self.least
    }

    /// By which factor an idle replica may be faster by now than was learnt, for all that is known: 1
    /// at first, less the longer nobody asked it.
    #[must_use]
    pub fn hope(self, now: f32) -> f32 {
        0.5_f32.powf((now - self.at).max(0.0) / HOPE)
    }

    /// Seconds to the first token of this work, alone.
    fn prefill(self, work: RequestCost) -> f32 {
        self.prompt.seconds(work.prompt_bytes as f32)
    }

    /// Seconds for this work, alone.
    #[must_use]
    pub fn alone(self, work: RequestCost) -> f32 {
        let most = work.max_tokens.map_or(f32::MAX, |most| most as f32);
        let tokens = self.output.min(most);
        self.prefill(work) + self.decode * (tokens - 1.0).max(0.0)
    }

    /// When an answer to this work is expected on a replica of this load.
    #[must_use]
    pub fn predict(self, load: ReplicaLoad, work: RequestCost) -> LatencyPrediction {
        let places = load.concurrency.max(1);
        let ahead = (load.requests() + 1).saturating_sub(places) as f32;
        // What is being computed is half done, in the mean.
        let typical = RequestCost {
            prompt_bytes: self.prompt.bytes as u32,
            max_tokens: None,
        };
        let wait = (ahead - 0.5).max(0.0) / places as f32 * self.alone(typical);
        LatencyPrediction {
            first_token: wait + self.prefill(work),
            total: wait + self.alone(work),
        }
    }
}

/// How slow this work would be on each of two replicas, to be compared with each other
/// only. Where a pace is not known, or long ago, the other's stands in for it.
#[must_use]
pub fn compare(
    a: (ReplicaLoad, Option<SpeedEstimate>),
    b: (ReplicaLoad, Option<SpeedEstimate>),
    work: RequestCost,
    now: f32,
) -> (f32, f32) {
    let (first, second) = match (a.1, b.1) {
        (Some(a), Some(b)) => {
            let time = |pace: SpeedEstimate, other: SpeedEstimate| {
                let alone = pace.alone(work).max(f32::MIN_POSITIVE);
                if !pace.least || other.least {
                    return alone;
                }
                // It is only known how long the first token takes at least: what follows is taken
                // for as much slower than the other's.
                let ratio = alone / other.prefill(work).max(f32::MIN_POSITIVE);
                alone.max(other.alone(work) * ratio)
            };
            let trusted = |pace: SpeedEstimate, other: SpeedEstimate| {
                let trust = 0.5_f32.powf((now - pace.at).max(0.0) / HALF_LIFE);
                let (here, there) = (time(pace, other), time(other, pace));
                there * (here / there).powf(trust)
            };
            let (first, second) = (trusted(a, b), trusted(b, a));
            if (1.0 / ALIKE..ALIKE).contains(&(first / second)) {
                (1.0, 1.0)
            } else {
                (first, second)
            }
        }
        _ => (1.0, 1.0),
    };
    (first * crowd(a.0), second * crowd(b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(in_flight: u32) -> ReplicaLoad {
        ReplicaLoad {
            in_flight,
            elsewhere: 0,
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
            computed: None,
            load: load(in_flight),
        }
    }

    fn computed(prompt_bytes: u32, tokens: u32, prefill: f32, decode: f32) -> ServedRequest {
        ServedRequest {
            prompt_bytes,
            completion_tokens: tokens,
            computed: Some(ComputeTime { prefill, decode }),
            ..served(60.0, 50)
        }
    }

    fn pace(seconds: f32, at: f32) -> SpeedEstimate {
        SpeedEstimate::learn(None, served(seconds * crowd(load(0)), 0), at)
    }

    const WORK: RequestCost = RequestCost {
        prompt_bytes: 100,
        max_tokens: None,
    };

    #[test]
    fn what_it_predicts_is_what_it_has_seen() {
        let mut known = None;
        for _ in 0..50 {
            known = Some(SpeedEstimate::learn(known, computed(100, 5, 0.2, 0.4), 0.0));
        }
        let known = known.unwrap();
        let told = known.predict(load(0), WORK);
        assert!((told.first_token - 0.2).abs() < 1e-3, "{told:?}");
        assert!((told.total - 0.6).abs() < 1e-3, "{told:?}");
        // Nobody waits while there are places; then it waits for those before it.
        assert_eq!(known.predict(load(3), WORK), told);
        let queued = known.predict(load(11), WORK);
        assert!(
            (queued.first_token - (0.2 + 7.5 / 4.0 * 0.6)).abs() < 1e-3,
            "{queued:?}"
        );
        // Shorter answers take less.
        let short = RequestCost {
            max_tokens: Some(1),
            ..WORK
        };
        assert!((known.predict(load(0), short).total - 0.2).abs() < 1e-3);
    }

    #[test]
    fn what_a_node_does_not_say_is_told_from_its_load() {
        let alone = SpeedEstimate::learn(None, served(2.0, 0), 0.0);
        let seen = alone.alone(WORK) * crowd(load(0));
        assert!((seen - 2.0).abs() < 0.01, "{seen}");
        let busy = 2.0 * crowd(load(15)) / crowd(load(0));
        let busy = SpeedEstimate::learn(None, served(busy, 15), 0.0);
        assert!((busy.alone(WORK) - alone.alone(WORK)).abs() < 0.01);
    }

    #[test]
    fn it_learns_what_of_a_prompt_is_in_proportion() {
        let prompt = |seconds: fn(f32) -> f32| {
            let mut known = None;
            for n in 0..200_u32 {
                let bytes = 50 + n * 37 % 400;
                let served = computed(bytes, 2, seconds(bytes as f32), 0.01);
                known = Some(SpeedEstimate::learn(known, served, 0.0));
            }
            known.unwrap()
        };
        let at = |pace: SpeedEstimate, prompt_bytes| {
            let work = RequestCost {
                prompt_bytes,
                max_tokens: Some(1),
            };
            pace.alone(work)
        };
        let steep = prompt(|bytes| 0.001 * bytes);
        assert!((at(steep, 1_000) - 1.0).abs() < 0.1, "{}", at(steep, 1_000));
        let flat = prompt(|_| 0.3);
        assert!((at(flat, 1_000) - 0.3).abs() < 0.15, "{}", at(flat, 1_000));
        // Of prompts of one length nothing is learnt of others: they are taken as in proportion.
        let mut same = None;
        for _ in 0..20 {
            same = Some(SpeedEstimate::learn(same, computed(100, 2, 0.1, 0.01), 0.0));
        }
        let twice = at(same.unwrap(), 200);
        assert!((twice - 0.2).abs() < 0.01, "{twice}");
    }

    #[test]
    fn an_answer_that_was_not_waited_for_takes_that_long_at_least() {
        let least = |known, seconds| SpeedEstimate::learn_least(known, WORK, seconds, load(0), 0.0);
        let fresh = least(None, 2.0).unwrap();
        assert!((fresh.alone(WORK) - 2.0).abs() < 1e-3);
        let known = Some(SpeedEstimate::learn(None, computed(100, 5, 0.2, 0.4), 0.0));
        assert_eq!(least(known, 0.1), known, "that says nothing");
        // The first whole answer counts alone.
        let whole = SpeedEstimate::learn(Some(fresh), computed(100, 5, 0.2, 0.4), 0.0);
        assert!((whole.alone(WORK) - 0.6).abs() < 1e-3, "{whole:?}");
        assert!(whole.hope(1.0) > 0.99 && (whole.hope(HOPE) - 0.5).abs() < 1e-6);
        // That its first token takes twice as long makes it the slower one, though no more is known.
        let tortoise = (load(0), least(None, 0.4));
        let (fast, slow) = compare((load(0), known), tortoise, WORK, 0.0);
        assert!(fast < slow);
        let slower = least(known, 2.0).unwrap();
        assert!((slower.alone(WORK) - 2.0).abs() < 1e-3, "{slower:?}");
        let again = least(Some(slower), 1.9);
        assert_eq!(again, Some(slower));
    }

    #[test]
    fn a_few_bytes_say_little_of_what_many_take() {
        let short = SpeedEstimate::learn(None, computed(2, 2, 0.1, 0.01), 0.0);
        let long = RequestCost {
            prompt_bytes: 650,
            max_tokens: Some(1),
        };
        assert!(short.alone(long) < 1.0, "{}", short.alone(long));
    }

    #[test]
    fn it_follows_a_change() {
        let mut known = Some(pace(0.1, 0.0));
        for _ in 0..20 {
            known = Some(SpeedEstimate::learn(known, served(10.0, 0), 1.0));
        }
        assert!(known.unwrap().alone(WORK) > 5.0, "{known:?}");
    }

    #[test]
    fn an_idle_slow_replica_is_worse_than_a_fast_one_until_that_is_full() {
        let slow = (load(0), Some(pace(1.0, 0.0)));
        let fast = |in_flight| (load(in_flight), Some(pace(0.1, 0.0)));
        for in_flight in [0, 3, 20] {
            let (fast, idle) = compare(fast(in_flight), slow, WORK, 0.0);
            assert!(fast < idle, "{in_flight}");
        }
        let (fast, idle) = compare(fast(60), slow, WORK, 0.0);
        assert!(fast > idle);
    }

    #[test]
    fn paces_that_differ_little_are_one() {
        let of = |seconds| (load(1), Some(pace(seconds, 0.0)));
        let (a, b) = compare(of(0.1), of(0.115), WORK, 0.0);
        assert_eq!(a, b);
    }

    #[test]
    fn an_old_bad_name_is_forgotten() {
        let fast = |now| (load(2), Some(pace(0.1, now)));
        let slow = (load(0), Some(pace(1.0, 0.0)));
        let (a, b) = compare(fast(0.0), slow, WORK, 0.0);
        assert!(a < b);
        let later = 6.0 * HALF_LIFE;
        let (a, b) = compare(fast(later), slow, WORK, later);
        assert!(a > b, "it is tried again");
        // An unknown one counts as fast as the other.
        let (a, b) = compare(fast(0.0), (load(0), None), WORK, 0.0);
        assert!(a > b);
    }
}
