//! Load, counted at dispatch and given back exactly once, and what is learnt from the answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use flotilla_core::admission::{Flow, Priority, Standing};
use flotilla_core::energy::{Power, Sources, Spent, Strain};
use flotilla_core::estimate::{Computed, Pace, Served, Work, crowd};
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::routing::{Breaker, Load};
use flotilla_core::{Joules, Watts};

/// When the clock of the paces began.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time in seconds, on the clock of the paces.
#[must_use]
pub fn pace_clock() -> f32 {
    START.elapsed().as_secs_f32()
}

/// Requests beyond its capacity that a replica is sent where its queue may put them before others:
/// it decides at once, so that there are few at a time.
const BEYOND: u32 = 8;

/// How fast the watts of an answer follow the answers.
const WATTS_FOLLOW: f32 = 0.2;

/// What a replica is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests that it computes at once.
    pub concurrency: u32,
    /// Requests that it takes, computing and waiting.
    pub capacity: u32,
    /// What its node draws.
    pub power: Power,
    /// Whether it reads the beginning of a conversation faster that it has read before.
    pub keeps_prefixes: bool,
}

/// How busy a replica is, as this controller counts it, and how fast, as it has found.
#[derive(Debug)]
pub struct ReplicaLoad {
    in_flight: AtomicU32,
    /// What it has from other controllers, as its node said last.
    elsewhere: AtomicU32,
    limits: Limits,
    known: Mutex<Known>,
}

/// What is known of a replica beside its load.
#[derive(Debug, Default)]
struct Known {
    pace: Option<Pace>,
    breaker: Breaker,
    /// Requests under way there, by whom they are of.
    flows: HashMap<(Priority, Flow), u32>,
    /// Watts above idle that an answer takes while it is computed: with its pace that is joules per
    /// token.
    watts: Option<f32>,
    strain: Strain,
}

/// A replica as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prospect {
    pub load: Load,
    /// How fast it answers, if that is known.
    pub pace: Option<Pace>,
    /// Whether its breaker lets requests through.
    pub admitted: bool,
    /// Whether it would refuse one more request of that standing.
    pub full: bool,
    /// What its node draws.
    pub power: Power,
    /// Watts above idle that an answer takes while it is computed, as answers have shown.
    pub watts: Option<f32>,
    /// What strains its node.
    pub strain: Strain,
}

impl Prospect {
    /// The energy of an answer that is computed for so many seconds, by itself.
    #[must_use]
    pub fn joules(&self, seconds: f32) -> Joules {
        match self.watts {
            Some(watts) => Watts(watts).over(seconds),
            None => self.power.of_answer(seconds, 1),
        }
    }
}

impl Known {
    /// Whether a full queue may put a request of this standing before another.
    fn may_displace(&self, standing: Standing) -> bool {
        let own = (standing.priority, standing.flow);
        let own = self.flows.get(&own).copied().unwrap_or(0);
        self.flows.iter().any(|((priority, _), requests)| {
            *priority < standing.priority || (*priority == standing.priority && *requests > own + 1)
        })
    }
}

impl ReplicaLoad {
    /// An idle replica.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            limits: Limits {
                concurrency: limits.concurrency.max(1),
                ..limits
            },
            known: Mutex::default(),
        }
    }

    /// What it is.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The load now.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            elsewhere: self.elsewhere.load(Ordering::Relaxed),
            concurrency: self.limits.concurrency,
            capacity: self.limits.capacity,
        }
    }

    /// The replica as the choice for a request sees it.
    #[must_use]
    pub fn prospect(&self, standing: Standing, now: f32) -> Prospect {
        let load = self.load();
        let known = self.lock();
        let beyond = load.capacity.saturating_add(BEYOND);
        Prospect {
            load,
            pace: known.pace,
            admitted: known.breaker.admits(now),
            full: load.is_full() && (load.in_flight >= beyond || !known.may_displace(standing)),
            power: self.limits.power,
            watts: known.watts,
            strain: known.strain,
        }
    }

    /// Its node says that it has so many requests, those from here included.
    pub fn note(&self, requests: u32) {
        let here = self.in_flight.load(Ordering::Relaxed);
        let elsewhere = requests.saturating_sub(here);
        self.elsewhere.store(elsewhere, Ordering::Relaxed);
    }

    /// Its node is strained so.
    pub fn strains(&self, strain: Strain) {
        self.lock().strain = strain;
    }

    /// Counts one request with so many bytes of a prompt to read until the guard is dropped.
    #[must_use]
    pub fn take(self: &Arc<Self>, standing: Standing, prompt_bytes: u32) -> LoadGuard {
        let load = self.load();
        let flow = (standing.priority, standing.flow);
        let mut known = self.lock();
        known.breaker.began(pace_clock());
        *known.flows.entry(flow).or_insert(0) += 1;
        drop(known);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        LoadGuard {
            replica: self.clone(),
            load,
            flow,
            prompt_bytes,
            begun: Instant::now(),
            end: End::Abandoned,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing panics while it is held, and it is held for a few instructions only.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request under way on a replica.
#[derive(Debug)]
pub struct LoadGuard {
    replica: Arc<ReplicaLoad>,
    /// What it had when the request came.
    load: Load,
    flow: (Priority, Flow),
    prompt_bytes: u32,
    begun: Instant,
    end: End,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was not waited for: its client went away, another replica was sooner, or its time was up.
    Abandoned,
    /// What there is to learn of it is learnt.
    Judged,
    /// It failed for what says nothing of the replica.
    Excused,
}

impl LoadGuard {
    /// The request is answered: what can be is learnt from it. Returns what energy it took, as its
    /// node says, or as far as it can be told from the time that it was computed for.
    pub fn served(&mut self, usage: Usage) -> Spent {
        self.end = End::Judged;
        let seconds = self.begun.elapsed().as_secs_f32();
        let computed = usage.timing.map(|timing| Computed {
            prefill: timing.prefill.as_secs_f32(),
            decode: timing.decode.as_secs_f32(),
        });
        let served = Served {
            prompt_bytes: self.prompt_bytes,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            seconds,
            computed,
            load: self.load,
        };
        let mut known = self.replica.lock();
        known.pace = Some(Pace::learn(known.pace, served, pace_clock()));
        known.breaker.answered();
        if let (Some(spent), Some(computed)) = (usage.energy, computed) {
            let seen = spent.joules.0 / (computed.prefill + computed.decode).max(1e-6);
            let before = known.watts.unwrap_or(seen);
            known.watts = Some(before + WATTS_FOLLOW * (seen - before));
        }
        drop(known);
        match (usage.energy, computed) {
            (Some(spent), _) => spent,
            (None, Some(computed)) => self.estimate(computed.prefill + computed.decode),
            (None, None) => self.spent(),
        }
    }

    /// Whether the replica could compute it at once, so that it did not wait there.
    #[must_use]
    pub fn had_room(&self) -> bool {
        self.load.has_room()
    }

    /// What energy it took so far, of which the node has not said how long it computed.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.estimate(self.begun.elapsed().as_secs_f32() / crowd(self.load))
    }

    fn estimate(&self, computed: f32) -> Spent {
        let at_once = (self.load.requests() + 1).min(self.load.concurrency);
        let joules = match self.replica.lock().watts {
            Some(watts) => Watts(watts).over(computed),
            None => self.replica.limits.power.of_answer(computed, at_once),
        };
        Spent::new(joules, Sources::ESTIMATE)
    }

    /// The answer has begun: how long its client goes on reading says nothing of the replica.
    pub fn answers(&mut self) {
        self.end = End::Excused;
    }

    /// The request failed, with this error.
    pub fn failed(&mut self, error: &RequestError) {
        if error.blames_the_replica() {
            self.replica.lock().breaker.failed(pace_clock());
        }
        self.end = match error {
            RequestError::TooLate(_) => End::Abandoned,
            _ if error.blames_the_replica() => End::Judged,
            _ => End::Excused,
        };
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let mut known = self.replica.lock();
        if self.end != End::Judged {
            known.breaker.ended();
        }
        // One that may have waited for others was not computed all that time.
        if self.end == End::Abandoned && self.load.has_room() {
            let work = Work {
                prompt_bytes: self.prompt_bytes,
                max_tokens: None,
            };
            let waited = self.begun.elapsed().as_secs_f32();
            known.pace = Pace::learn_least(known.pace, work, waited, self.load, pace_clock());
        }
        if let Some(requests) = known.flows.get_mut(&self.flow) {
            *requests -= 1;
            if *requests == 0 {
                known.flows.remove(&self.flow);
            }
        }
        drop(known);
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use flotilla_core::generate::Timing;

    fn replica(concurrency: u32, capacity: u32) -> Arc<ReplicaLoad> {
        let power = Power {
            idle: Watts(10.0),
            max: Watts(30.0),
            stated: true,
        };
        Arc::new(ReplicaLoad::new(Limits {
            concurrency,
            capacity,
            power,
            keeps_prefixes: false,
        }))
    }

    fn take(replica: &Arc<ReplicaLoad>) -> LoadGuard {
        replica.take(Standing::default(), 10)
    }

    #[test]
    fn load_is_given_back_once_however_the_guard_ends() {
        let load = replica(4, 64);
        let first = take(&load);
        let second = take(&load);
        assert_eq!(load.load().in_flight, 2);
        drop(first);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = second;
            panic!("while it answers");
        }));
        assert!(panicked.is_err());
        assert_eq!(load.load().in_flight, 0);
        assert!(load.lock().flows.is_empty());
    }

    #[test]
    fn answers_are_learnt_from_and_so_is_what_was_not_waited_for() {
        let load = replica(4, 64);
        let seen = || load.prospect(Standing::default(), 0.0);
        take(&load).failed(&RequestError::invalid("model", "wrong"));
        assert!(seen().pace.is_none(), "that says nothing of the replica");
        drop(take(&load));
        assert!(seen().pace.is_some(), "it takes some time at least");
        let load = replica(4, 64);
        let seen = || load.prospect(Standing::default(), 0.0);
        let spent = take(&load).served(Usage {
            prompt_tokens: 1,
            completion_tokens: 1,
            timing: Some(Timing {
                queued: Duration::from_secs(9),
                prefill: Duration::from_secs(1),
                decode: Duration::from_secs(1),
            }),
            energy: None,
        });
        assert_eq!(spent, Spent::new(Joules(40.0), Sources::ESTIMATE));
        assert!(seen().pace.is_some());
        let _here = take(&load);
        load.note(5);
        assert_eq!(load.load().elsewhere, 4);
    }

    #[test]
    fn full_is_full_but_for_those_who_go_before() {
        let load = replica(1, 4);
        let of = |priority, flow| Standing { priority, flow };
        let guards: Vec<_> = (0..4)
            .map(|_| load.take(of(Priority::Normal, 1), 0))
            .collect();
        let full = |priority, flow| load.prospect(of(priority, flow), 0.0).full;
        assert!(full(Priority::Normal, 1));
        assert!(full(Priority::Low, 2));
        assert!(!full(Priority::High, 1), "it is urgent");
        assert!(!full(Priority::Normal, 2), "it asks less");
        let more: Vec<_> = (0..BEYOND)
            .map(|_| load.take(of(Priority::High, 1), 0))
            .collect();
        assert!(full(Priority::High, 1), "enough is under way");
        drop((guards, more));
        assert!(!full(Priority::Low, 1));
    }
}
