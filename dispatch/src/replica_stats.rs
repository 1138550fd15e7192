//! The load of one replica as this process counts it, and what its answers have shown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use flotilla_core::admission::{FairnessKey, Priority, QueueKey};
use flotilla_core::energy::{EnergySources, EnergyUsage, NodePressure, PowerRange};
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, SpeedEstimate};
use flotilla_core::routing::{CircuitBreaker, ReplicaLoad};
use flotilla_core::{Joules, Watts};
use parking_lot::Mutex;

use crate::{FailingRequests, LoadGuard};

/// The zero of [`stats_clock`].
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the time in seconds on the clock that speed estimates and circuit breakers use.
#[must_use]
pub fn stats_clock() -> f32 {
    START.elapsed().as_secs_f32()
}

/// Number of requests beyond a replica's capacity that are sent to it when its queue may put them before
/// others. The replica admits or refuses each of them at once, so few are undecided at a time.
const BEYOND_CAPACITY: u32 = 8;

/// Weight of the newest answer in the moving average of an answer's power.
const WATTS_WEIGHT: f32 = 0.2;

/// What a replica can take, as its node reports it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaLimits {
    /// Requests that the replica computes at once.
    pub concurrency: u32,
    /// Requests that the replica takes, computing and waiting together.
    pub capacity: u32,
    /// The power that the node draws, idle and at full work.
    pub power: PowerRange,
    /// Whether the replica reads the beginning of a conversation faster when it has read it before.
    pub prefix_cache: bool,
}

/// The load of one replica as this process counts it, and what its answers have shown.
#[derive(Debug)]
pub struct ReplicaStats {
    in_flight: AtomicU32,
    /// Requests from other controllers, as the node reported last.
    external_in_flight: AtomicU32,
    limits: ReplicaLimits,
    history: Mutex<ReplicaHistory>,
}

/// What a replica's answers and reports have shown, besides its load.
#[derive(Debug, Default)]
struct ReplicaHistory {
    speed: Option<SpeedEstimate>,
    breaker: CircuitBreaker,
    /// The requests that failed since the last answer. `None`: none did.
    failing: Option<FailingRequests>,
    /// Requests in flight, by priority and fairness key.
    by_queue_key: HashMap<(Priority, FairnessKey), u32>,
    /// Watts above idle that one answer takes while it is computed. `None` until an answer with energy.
    answer_watts: Option<f32>,
    pressure: NodePressure,
}

/// A replica at the moment of a selection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateSnapshot {
    /// The requests that the replica has.
    pub load: ReplicaLoad,
    /// How fast the replica answers. `None` until it has answered.
    pub speed: Option<SpeedEstimate>,
    /// Whether the circuit breaker lets a request through.
    pub admitted: bool,
    /// Whether the replica would refuse one more request with this queue key.
    pub full: bool,
    /// The power that the node draws, idle and at full work.
    pub power: PowerRange,
    /// Watts above idle that one answer takes while it is computed. `None` until an answer with energy.
    pub answer_watts: Option<f32>,
    /// Whether the node is short of power or too hot.
    pub pressure: NodePressure,
}

impl CandidateSnapshot {
    /// Returns the energy above idle of an answer that is computed alone for `seconds`.
    #[must_use]
    pub fn joules(&self, seconds: f32) -> Joules {
        match self.answer_watts {
            Some(watts) => Watts(watts).energy_over(seconds),
            None => self.power.answer_energy(seconds, 1),
        }
    }
}

impl ReplicaHistory {
    /// Returns whether a full queue may put a request with this key before another one.
    fn may_displace(&self, queue_key: QueueKey) -> bool {
        let own = (queue_key.priority, queue_key.fairness_key);
        let own = self.by_queue_key.get(&own).copied().unwrap_or(0);
        self.by_queue_key.iter().any(|((priority, _), requests)| {
            match priority.cmp(&queue_key.priority) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => *requests > own + 1,
                std::cmp::Ordering::Greater => false,
            }
        })
    }
}

impl ReplicaStats {
    /// Creates the statistics of a replica without requests. A concurrency of 0 counts as 1.
    #[must_use]
    pub fn new(limits: ReplicaLimits) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            external_in_flight: AtomicU32::new(0),
            limits: ReplicaLimits {
                concurrency: limits.concurrency.max(1),
                ..limits
            },
            history: Mutex::default(),
        }
    }

    /// What the replica can take.
    #[must_use]
    pub fn limits(&self) -> ReplicaLimits {
        self.limits
    }

    /// The current load.
    #[must_use]
    pub fn load(&self) -> ReplicaLoad {
        ReplicaLoad {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            external_in_flight: self.external_in_flight.load(Ordering::Relaxed),
            concurrency: self.limits.concurrency,
            capacity: self.limits.capacity,
        }
    }

    /// Returns the replica as a candidate for a request with this queue key, at `now` seconds of
    /// [`stats_clock`].
    #[must_use]
    pub fn snapshot(&self, queue_key: QueueKey, now: f32) -> CandidateSnapshot {
        let load = self.load();
        let history = self.lock();
        let hard_limit = load.capacity.saturating_add(BEYOND_CAPACITY);
        CandidateSnapshot {
            load,
            speed: history.speed,
            admitted: history.breaker.allows_request(now),
            full: load.is_full()
                && (load.in_flight >= hard_limit || !history.may_displace(queue_key)),
            power: self.limits.power,
            answer_watts: history.answer_watts,
            pressure: history.pressure,
        }
    }

    /// Records the number of requests that the node reported, which includes those of this process.
    pub fn set_reported_requests(&self, requests: u32) {
        let external = requests.saturating_sub(self.in_flight.load(Ordering::Relaxed));
        self.external_in_flight.store(external, Ordering::Relaxed);
    }

    /// Records the power or thermal pressure of the node.
    pub fn set_pressure(&self, pressure: NodePressure) {
        self.lock().pressure = pressure;
    }

    /// Counts one request until the returned guard is dropped. The prompt in its `cost` is the part that the
    /// replica has yet to read.
    #[must_use]
    pub fn begin_request(self: &Arc<Self>, queue_key: QueueKey, cost: RequestCost) -> LoadGuard {
        let load = self.load();
        let key = (queue_key.priority, queue_key.fairness_key);
        let mut history = self.lock();
        history.breaker.record_request(stats_clock());
        *history.by_queue_key.entry(key).or_insert(0) += 1;
        drop(history);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        LoadGuard::new(self.clone(), load, key, cost)
    }

    /// Learns from a complete answer and, where the node reported them, from its joules.
    pub(crate) fn learn(&self, served: ServedRequest, usage: Option<EnergyUsage>) {
        let mut history = self.lock();
        let speed = SpeedEstimate::learn(history.speed, served, stats_clock());
        history.speed = Some(speed);
        history.breaker.record_success();
        history.failing = None;
        if let (Some(usage), Some(ComputeTime { prefill, decode })) = (usage, served.compute_time) {
            let watts = usage.joules.0 / (prefill + decode).max(1e-6);
            let before = history.answer_watts.unwrap_or(watts);
            history.answer_watts = Some(before + WATTS_WEIGHT * (watts - before));
        }
    }

    /// Learns that the replica takes at least `seconds` for a request that was abandoned after that time.
    pub(crate) fn learn_lower_bound(&self, cost: RequestCost, seconds: f32, load: ReplicaLoad) {
        let cost = RequestCost {
            max_tokens: None,
            ..cost
        };
        let mut history = self.lock();
        history.speed =
            SpeedEstimate::learn_lower_bound(history.speed, cost, seconds, load, stats_clock());
    }

    /// Notes the text of an error with which a request failed on the replica.
    pub(crate) fn note_failed_request(&self, error: &str) {
        let mut history = self.lock();
        history.failing = Some(FailingRequests::after(history.failing.take(), error));
    }

    /// Returns the requests that failed since the last answer. `None`: none did.
    #[must_use]
    pub fn failing_requests(&self) -> Option<FailingRequests> {
        self.lock().failing.clone()
    }

    /// Counts a failure of the replica towards its circuit breaker.
    pub(crate) fn record_failure(&self) {
        self.lock().breaker.record_failure(stats_clock());
    }

    /// Counts the end of a request that says nothing of the replica.
    pub(crate) fn record_neutral_end(&self) {
        self.lock().breaker.record_cancellation();
    }

    /// Estimates the energy above idle of an answer that was computed for `seconds` beside the requests
    /// in `load`.
    pub(crate) fn estimate_energy(&self, seconds: f32, load: ReplicaLoad) -> EnergyUsage {
        let at_once = (load.requests() + 1).min(load.concurrency);
        let joules = match self.lock().answer_watts {
            Some(watts) => Watts(watts).energy_over(seconds),
            None => self.limits.power.answer_energy(seconds, at_once),
        };
        EnergyUsage::new(joules, EnergySources::ESTIMATE)
    }

    /// Gives back the load of one request.
    pub(crate) fn end_request(&self, key: (Priority, FairnessKey)) {
        let mut history = self.lock();
        if let Some(requests) = history.by_queue_key.get_mut(&key) {
            *requests -= 1;
            if *requests == 0 {
                history.by_queue_key.remove(&key);
            }
        }
        drop(history);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, ReplicaHistory> {
        // Nothing panics while the lock is held, and it is held for a few instructions only.
        self.history.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use flotilla_core::generate::{AnswerTiming, RequestError, Usage};

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

    fn begin(replica: &Arc<ReplicaStats>) -> LoadGuard {
        let cost = RequestCost {
            prompt_bytes: 10,
            ..RequestCost::default()
        };
        replica.begin_request(QueueKey::default(), cost)
    }

    #[test]
    fn long_answers_and_waits_behind_others_are_no_faults() {
        let stats = replica(1, 64);
        let is_admitted = |stats: &ReplicaStats| {
            let snapshot = stats.snapshot(QueueKey::default(), stats_clock());
            snapshot.admitted
        };
        let timeout = RequestError::Timeout("not begun".into());
        let computing = begin(&stats);
        for error in [
            timeout.clone(),
            RequestError::AnswerTimeout("too long".into()),
        ] {
            for _ in 0..5 {
                begin(&stats).record_failure(&error);
            }
        }
        assert!(is_admitted(&stats));
        drop(computing);
        // A node that hangs does not correct what it reported.
        stats.set_reported_requests(10);
        for _ in 0..3 {
            assert!(is_admitted(&stats));
            begin(&stats).record_failure(&timeout);
        }
        assert!(!is_admitted(&stats));
    }

    #[test]
    fn load_is_given_back_once_however_the_guard_ends() {
        let stats = replica(4, 64);
        let first = begin(&stats);
        let second = begin(&stats);
        assert_eq!(stats.load().in_flight, 2);
        drop(first);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = second;
            panic!("while it answers");
        }));
        assert!(panicked.is_err());
        assert_eq!(stats.load().in_flight, 0);
        assert!(stats.lock().by_queue_key.is_empty());
    }

    #[test]
    fn complete_and_abandoned_answers_update_the_speed_and_invalid_requests_do_not() {
        let stats = replica(4, 64);
        let snapshot = || stats.snapshot(QueueKey::default(), 0.0);
        begin(&stats).record_failure(&RequestError::invalid("model", "wrong"));
        assert!(snapshot().speed.is_none());
        drop(begin(&stats));
        assert!(snapshot().speed.is_some(), "a lower bound");
        let stats = replica(4, 64);
        let snapshot = || stats.snapshot(QueueKey::default(), 0.0);
        let usage = begin(&stats).record_answer(Usage {
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
            usage,
            EnergyUsage::new(Joules(40.0), EnergySources::ESTIMATE)
        );
        assert!(snapshot().speed.is_some());
        let _in_flight = begin(&stats);
        stats.set_reported_requests(5);
        assert_eq!(stats.load().external_in_flight, 4);
    }

    #[test]
    fn a_full_replica_takes_a_few_requests_that_its_queue_may_put_first() {
        let stats = replica(1, 4);
        let key = |priority, fairness_key| QueueKey {
            priority,
            fairness_key,
        };
        let guards: Vec<_> = (0..4)
            .map(|_| stats.begin_request(key(Priority::Normal, 1), RequestCost::default()))
            .collect();
        let full = |priority, fairness_key| stats.snapshot(key(priority, fairness_key), 0.0).full;
        assert!(full(Priority::Normal, 1));
        assert!(full(Priority::Low, 2));
        assert!(!full(Priority::High, 1), "a higher priority");
        assert!(!full(Priority::Normal, 2), "a key with fewer requests");
        let more: Vec<_> = (0..BEYOND_CAPACITY)
            .map(|_| stats.begin_request(key(Priority::High, 1), RequestCost::default()))
            .collect();
        assert!(full(Priority::High, 1), "enough are in flight");
        drop((guards, more));
        assert!(!full(Priority::Low, 1));
    }
}
