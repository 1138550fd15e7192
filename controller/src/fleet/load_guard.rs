//! Load, counted at dispatch and given back exactly once, and what is learnt from the answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use flotilla_core::admission::{FairnessKey, Priority, QueueKey};
use flotilla_core::energy::{EnergySources, EnergyUsage, NodePressure, PowerRange};
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, SpeedEstimate, crowd};
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::routing::{CircuitBreaker, ReplicaLoad};
use flotilla_core::{Joules, Watts};
use parking_lot::Mutex;

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
pub struct ReplicaLimits {
    /// Requests that it computes at once.
    pub concurrency: u32,
    /// Requests that it takes, computing and waiting.
    pub capacity: u32,
    /// What its node draws.
    pub power: PowerRange,
    /// Whether it reads the beginning of a conversation faster that it has read before.
    pub prefix_cache: bool,
}

/// How busy a replica is, as this controller counts it, and how fast, as it has found.
#[derive(Debug)]
pub struct ReplicaStats {
    in_flight: AtomicU32,
    /// What it has from other controllers, as its node said last.
    elsewhere: AtomicU32,
    limits: ReplicaLimits,
    known: Mutex<ReplicaHistory>,
}

/// What is known of a replica beside its load.
#[derive(Debug, Default)]
struct ReplicaHistory {
    pace: Option<SpeedEstimate>,
    breaker: CircuitBreaker,
    /// Requests under way there, by whom they are of.
    flows: HashMap<(Priority, FairnessKey), u32>,
    /// Watts above idle that an answer takes while it is computed: with its pace that is joules per
    /// token.
    watts: Option<f32>,
    strain: NodePressure,
}

/// A replica as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateSnapshot {
    pub load: ReplicaLoad,
    /// How fast it answers, if that is known.
    pub pace: Option<SpeedEstimate>,
    /// Whether its breaker lets requests through.
    pub admitted: bool,
    /// Whether it would refuse one more request of that queue_key.
    pub full: bool,
    /// What its node draws.
    pub power: PowerRange,
    /// Watts above idle that an answer takes while it is computed, as answers have shown.
    pub watts: Option<f32>,
    /// What strains its node.
    pub strain: NodePressure,
}

impl CandidateSnapshot {
    /// The energy of an answer that is computed for so many seconds, by itself.
    #[must_use]
    pub fn joules(&self, seconds: f32) -> Joules {
        match self.watts {
            Some(watts) => Watts(watts).energy_over(seconds),
            None => self.power.answer_energy(seconds, 1),
        }
    }
}

impl ReplicaHistory {
    /// Whether a full queue may put a request of this queue_key before another.
    fn may_displace(&self, queue_key: QueueKey) -> bool {
        let own = (queue_key.priority, queue_key.fairness_key);
        let own = self.flows.get(&own).copied().unwrap_or(0);
        self.flows.iter().any(|((priority, _), requests)| {
            *priority < queue_key.priority
                || (*priority == queue_key.priority && *requests > own + 1)
        })
    }
}

impl ReplicaStats {
    /// An idle replica.
    #[must_use]
    pub fn new(limits: ReplicaLimits) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            limits: ReplicaLimits {
                concurrency: limits.concurrency.max(1),
                ..limits
            },
            known: Mutex::default(),
        }
    }

    /// What it is.
    #[must_use]
    pub fn limits(&self) -> ReplicaLimits {
        self.limits
    }

    /// The load now.
    #[must_use]
    pub fn load(&self) -> ReplicaLoad {
        ReplicaLoad {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            elsewhere: self.elsewhere.load(Ordering::Relaxed),
            concurrency: self.limits.concurrency,
            capacity: self.limits.capacity,
        }
    }

    /// The replica as the choice for a request sees it.
    #[must_use]
    pub fn prospect(&self, queue_key: QueueKey, now: f32) -> CandidateSnapshot {
        let load = self.load();
        let known = self.lock();
        let beyond = load.capacity.saturating_add(BEYOND);
        CandidateSnapshot {
            load,
            pace: known.pace,
            admitted: known.breaker.admits(now),
            full: load.is_full() && (load.in_flight >= beyond || !known.may_displace(queue_key)),
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
    pub fn strains(&self, strain: NodePressure) {
        self.lock().strain = strain;
    }

    /// Counts one request with so many bytes of a prompt to read until the guard is dropped.
    #[must_use]
    pub fn take(self: &Arc<Self>, queue_key: QueueKey, prompt_bytes: u32) -> LoadGuard {
        let load = self.load();
        let flow = (queue_key.priority, queue_key.fairness_key);
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
            end: GuardEnd::Abandoned,
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, ReplicaHistory> {
        self.known.lock()
    }
}

/// One request under way on a replica.
#[derive(Debug)]
pub struct LoadGuard {
    replica: Arc<ReplicaStats>,
    /// What it had when the request came.
    load: ReplicaLoad,
    flow: (Priority, FairnessKey),
    prompt_bytes: u32,
    begun: Instant,
    end: GuardEnd,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuardEnd {
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
    pub fn served(&mut self, usage: Usage) -> EnergyUsage {
        self.end = GuardEnd::Judged;
        let seconds = self.begun.elapsed().as_secs_f32();
        let computed = usage.timing.map(|timing| ComputeTime {
            prefill: timing.prefill.as_secs_f32(),
            decode: timing.decode.as_secs_f32(),
        });
        let served = ServedRequest {
            prompt_bytes: self.prompt_bytes,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            seconds,
            computed,
            load: self.load,
        };
        let mut known = self.replica.lock();
        known.pace = Some(SpeedEstimate::learn(known.pace, served, pace_clock()));
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
    pub fn spent(&self) -> EnergyUsage {
        self.estimate(self.begun.elapsed().as_secs_f32() / crowd(self.load))
    }

    fn estimate(&self, computed: f32) -> EnergyUsage {
        let at_once = (self.load.requests() + 1).min(self.load.concurrency);
        let joules = match self.replica.lock().watts {
            Some(watts) => Watts(watts).energy_over(computed),
            None => self.replica.limits.power.answer_energy(computed, at_once),
        };
        EnergyUsage::new(joules, EnergySources::ESTIMATE)
    }

    /// The answer has begun: how long its client goes on reading says nothing of the replica.
    pub fn answers(&mut self) {
        self.end = GuardEnd::Excused;
    }

    /// The request failed, with this error.
    pub fn failed(&mut self, error: &RequestError) {
        if error.is_replica_fault() {
            self.replica.lock().breaker.failed(pace_clock());
        }
        self.end = match error {
            RequestError::DeadlineUnmet(_) => GuardEnd::Abandoned,
            _ if error.is_replica_fault() => GuardEnd::Judged,
            _ => GuardEnd::Excused,
        };
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let mut known = self.replica.lock();
        if self.end != GuardEnd::Judged {
            known.breaker.ended();
        }
        // One that may have waited for others was not computed all that time.
        if self.end == GuardEnd::Abandoned && self.load.has_room() {
            let work = RequestCost {
                prompt_bytes: self.prompt_bytes,
                max_tokens: None,
            };
            let waited = self.begun.elapsed().as_secs_f32();
            known.pace =
                SpeedEstimate::learn_least(known.pace, work, waited, self.load, pace_clock());
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

    use flotilla_core::generate::AnswerTiming;

    fn replica(concurrency: u32, capacity: u32) -> Arc<ReplicaStats> {
        let power = PowerRange {
            idle: Watts(10.0),
            max: Watts(30.0),
            configured: true,
        };
        Arc::new(ReplicaStats::new(ReplicaLimits {
            concurrency,
            capacity,
            power,
            prefix_cache: false,
        }))
    }

    fn take(replica: &Arc<ReplicaStats>) -> LoadGuard {
        replica.take(QueueKey::default(), 10)
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
        let seen = || load.prospect(QueueKey::default(), 0.0);
        take(&load).failed(&RequestError::invalid("model", "wrong"));
        assert!(seen().pace.is_none(), "that says nothing of the replica");
        drop(take(&load));
        assert!(seen().pace.is_some(), "it takes some time at least");
        let load = replica(4, 64);
        let seen = || load.prospect(QueueKey::default(), 0.0);
        let spent = take(&load).served(Usage {
            prompt_tokens: 1,
            completion_tokens: 1,
            timing: Some(AnswerTiming {
                queued: Duration::from_secs(9),
                prefill: Duration::from_secs(1),
                decode: Duration::from_secs(1),
            }),
            energy: None,
        });
        assert_eq!(
            spent,
            EnergyUsage::new(Joules(40.0), EnergySources::ESTIMATE)
        );
        assert!(seen().pace.is_some());
        let _here = take(&load);
        load.note(5);
        assert_eq!(load.load().elsewhere, 4);
    }

    #[test]
    fn full_is_full_but_for_those_who_go_before() {
        let load = replica(1, 4);
        let of = |priority, flow| QueueKey {
            priority,
            fairness_key: flow,
        };
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
