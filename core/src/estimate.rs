//! How fast a replica answers, learnt from its answers, and how long the next one will take.
//!
//! An answer's work is counted in tokens; a replica's pace is the seconds it takes for one. Both
//! are running means. A pace that was learnt long ago is trusted less and less: the replica then
//! counts as fast as the one it is compared with, so that it is tried again.

use crate::routing::Load;

/// Prompt tokens that are as much work as one token of an answer: a prompt is computed at once,
/// an answer token by token. On a CPU it is about ten, on a GPU more.
const PROMPT_TOKENS: f32 = 10.0;
/// What one more answer weighs in the mean pace.
const NEW_PACE: f32 = 0.2;
/// What one more answer weighs in the mean work.
const NEW_WORK: f32 = 0.1;
/// A pace is trusted half as much, on a scale of ratios, after so many seconds.
const HALF_LIFE: f32 = 60.0;
/// Part of a replica's pace by which each request that it computes beside another slows it down,
/// also where it has room for more: among replicas of one pace the least busy comes first.
const CROWDING: f32 = 0.25;

/// Paces that differ by less than this factor count as one: what one of two equal replicas is ahead
/// by chance shall not give it all requests.
const ALIKE: f32 = 1.25;

/// How fast a replica answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Seconds for a token of work, alone.
    pub seconds: f32,
    /// Tokens of work in an answer.
    pub work: f32,
    /// When that was learnt, in seconds of the caller's clock.
    pub at: f32,
}

/// An answer that a replica gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Served {
    /// From dispatch to its end, in seconds.
    pub seconds: f32,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    /// The replica's load when it was dispatched, itself not included.
    pub load: Load,
}

/// By which factor a request is slower on a replica of this load than alone: as often as all its
/// places have to be taken by turns, and a little for each request beside it.
#[must_use]
pub fn crowd(load: Load) -> f32 {
    let requests = load.in_flight as f32 + load.elsewhere as f32 + 1.0;
    let turns = requests / load.concurrency.max(1) as f32;
    turns.max(1.0) + CROWDING * turns
}

impl Pace {
    /// What `known` becomes by one more answer, which ended `now`.
    #[must_use]
    pub fn learn(known: Option<Self>, served: Served, now: f32) -> Self {
        let work = served.completion_tokens as f32 + served.prompt_tokens as f32 / PROMPT_TOKENS;
        // An answer without tokens took some time all the same.
        let work = work.max(1.0);
        let seconds = served.seconds / work / crowd(served.load);
        let Some(known) = known else {
            return Self {
                seconds,
                work,
                at: now,
            };
        };
        let mean = |old: f32, new: f32, weight: f32| old + weight * (new - old);
        Self {
            seconds: mean(known.seconds, seconds, NEW_PACE),
            work: mean(known.work, work, NEW_WORK),
            at: now,
        }
    }

    /// Seconds that one more answer will take on a replica of this load.
    #[must_use]
    pub fn predict(self, load: Load) -> f32 {
        self.seconds * self.work * crowd(load)
    }
}

/// How slow one more request would be on each of two replicas, to be compared with each other
/// only. Where a pace is not known, or long ago, the other's stands in for it.
#[must_use]
pub fn compare(a: (Load, Option<Pace>), b: (Load, Option<Pace>), now: f32) -> (f32, f32) {
    let (first, second) = match (a.1, b.1) {
        (Some(a), Some(b)) => {
            let trusted = |pace: Pace, other: Pace| {
                let trust = 0.5_f32.powf((now - pace.at).max(0.0) / HALF_LIFE);
                let other = other.seconds.max(f32::MIN_POSITIVE);
                other * (pace.seconds / other).powf(trust)
            };
            let (first, second) = (trusted(a, b), trusted(b, a));
            let ratio = first / second;
            if (1.0 / ALIKE..ALIKE).contains(&ratio) {
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

    fn load(in_flight: u32) -> Load {
        Load {
            in_flight,
            elsewhere: 0,
            concurrency: 4,
            capacity: 64,
        }
    }

    fn served(seconds: f32, in_flight: u32) -> Served {
        Served {
            seconds,
            prompt_tokens: 20,
            completion_tokens: 8,
            load: load(in_flight),
        }
    }

    fn pace(seconds: f32, at: f32) -> Pace {
        Pace {
            seconds,
            work: 10.0,
            at,
        }
    }

    #[test]
    fn what_it_predicts_is_what_it_has_seen() {
        let mut known = None;
        for _ in 0..50 {
            known = Some(Pace::learn(known, served(2.0, 0), 0.0));
        }
        let known = known.unwrap();
        assert!((known.predict(load(0)) - 2.0).abs() < 0.01, "{known:?}");
        // A queue takes as many turns.
        let queued = known.predict(load(15));
        assert!((queued / known.predict(load(3)) - 4.0).abs() < 0.01);
        // What it saw under load is what it is without.
        let busy = Pace::learn(None, served(queued, 15), 0.0);
        assert!((busy.predict(load(0)) - 2.0).abs() < 0.01, "{busy:?}");
    }

    #[test]
    fn it_follows_a_change() {
        let mut known = Some(pace(0.1, 0.0));
        for _ in 0..20 {
            known = Some(Pace::learn(known, served(10.0, 0), 1.0));
        }
        let known = known.unwrap();
        assert!(known.seconds > 0.5 && known.at == 1.0, "{known:?}");
    }

    #[test]
    fn an_idle_slow_replica_is_worse_than_a_fast_one_until_that_is_full() {
        let slow = (load(0), Some(pace(1.0, 0.0)));
        for in_flight in [0, 3, 20] {
            let (fast, idle) = compare((load(in_flight), Some(pace(0.1, 0.0))), slow, 0.0);
            assert!(fast < idle, "{in_flight}");
        }
        let (fast, idle) = compare((load(60), Some(pace(0.1, 0.0))), slow, 0.0);
        assert!(fast > idle);
    }

    #[test]
    fn paces_that_differ_little_are_one() {
        let (a, b) = compare(
            (load(1), Some(pace(0.1, 0.0))),
            (load(1), Some(pace(0.115, 0.0))),
            0.0,
        );
        assert_eq!(a, b);
    }

    #[test]
    fn an_old_bad_name_is_forgotten() {
        let fast = |now| (load(2), Some(pace(0.1, now)));
        let slow = (load(0), Some(pace(1.0, 0.0)));
        let (a, b) = compare(fast(0.0), slow, 0.0);
        assert!(a < b);
        let (a, b) = compare(fast(600.0), slow, 600.0);
        assert!(a > b, "it is tried again");
        // An unknown one counts as fast as the other.
        let (a, b) = compare(fast(0.0), (load(0), None), 0.0);
        assert!(a > b);
    }
}
