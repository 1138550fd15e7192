//! Autoscaling: the number of replicas of a model, between its minimum and maximum, from the
//! requests that are computed and that wait.
//!
//! The number rises fast and falls slowly, in both directions only after the condition has held for
//! a while. The thresholds for both directions differ, so that a load near one of them does not
//! add and remove replicas in turn.

use std::time::{Duration, Instant};

use crate::spec::Replicas;

/// Mean wait of requests from which on a model gets one more replica.
const SCALE_UP_WAIT: Duration = Duration::from_millis(500);
/// Time for which the condition for scaling up must hold.
const SCALE_UP_DELAY: Duration = Duration::from_secs(3);
/// Largest utilization, 0 to 1, that one replica fewer would have for the model to scale down.
const SCALE_DOWN_UTILIZATION: f64 = 0.5;
/// Time for which the condition for scaling down must hold.
const SCALE_DOWN_DELAY: Duration = Duration::from_secs(60);

/// The load of a model, summed over its replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelLoad {
    /// Number of replicas that answer.
    pub ready_replicas: u32,
    /// Number of replicas whose load is not known. They may be busy, so that the model keeps its
    /// replicas.
    pub unknown_replicas: u32,
    /// Number of requests that one replica computes at once.
    pub concurrency: u32,
    /// Number of requests being computed.
    pub active: u32,
    /// Number of requests that wait on replicas.
    pub queued: u32,
    /// Number of requests in the controllers' pending queues, because no replica answers.
    pub pending: u32,
    /// Number of requests started so far. A counter; it may be reset.
    pub started_total: u64,
    /// Mean wait of the requests started since the previous observation.
    pub mean_wait: Duration,
}

/// The autoscaler of one model.
#[derive(Debug, Clone)]
pub struct ReplicaScaler {
    target: u32,
    /// Start of the time for which the condition for scaling up has held.
    overloaded_since: Option<Instant>,
    /// Start of the time for which the condition for scaling down has held.
    underused_since: Option<Instant>,
    /// Time of the last observation with requests.
    last_used: Instant,
    /// [`ModelLoad::started_total`] at the last observation.
    started_total: u64,
}

impl ReplicaScaler {
    /// Returns the autoscaler of a model that has `placed` replicas. Idle time is counted from
    /// `now`, because earlier use is not known.
    #[must_use]
    pub fn new(placed: u32, now: Instant) -> Self {
        Self {
            target: placed,
            overloaded_since: None,
            underused_since: None,
            last_used: now,
            started_total: 0,
        }
    }

    /// Returns the number of replicas that the model should have.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Updates the target for the load at `now`. With a minimum of 0, a model without requests for
    /// `keep_alive` gets a target of 0, until it has requests.
    pub fn observe(
        &mut self,
        bounds: Replicas,
        keep_alive: Duration,
        load: &ModelLoad,
        now: Instant,
    ) {
        let in_flight = load.active + load.queued + load.pending;
        let is_unknown = load.unknown_replicas > 0;
        let has_started = load.started_total > self.started_total;
        if in_flight > 0 || is_unknown || load.started_total != self.started_total {
            self.last_used = now;
            self.started_total = load.started_total;
        }
        self.target = self.target.clamp(bounds.min, bounds.max);
        if self.target == 0 {
            // A model that stays awake for its adapters is used without a wait.
            self.target = u32::from(in_flight > 0 || has_started);
            return;
        }
        let capacity = f64::from(self.target) * f64::from(load.concurrency.max(1));
        let long_wait = load.queued > 0 && load.mean_wait >= SCALE_UP_WAIT;
        let long_queue = f64::from(load.queued) >= capacity;
        // While a new replica loads, the load does not show whether it will suffice.
        let all_ready = load.ready_replicas >= self.target;
        track(
            &mut self.overloaded_since,
            all_ready && (long_wait || long_queue),
            now,
        );
        let reduced_capacity = f64::from(self.target - 1) * f64::from(load.concurrency.max(1));
        track(
            &mut self.underused_since,
            !is_unknown && f64::from(in_flight) <= reduced_capacity * SCALE_DOWN_UTILIZATION,
            now,
        );

        let due = |since: Option<Instant>, after: Duration| since.is_some_and(|s| s + after <= now);
        if due(self.overloaded_since, SCALE_UP_DELAY) {
            self.target = (self.target + 1).min(bounds.max);
            self.overloaded_since = None;
        } else if bounds.min == 0 && self.last_used + keep_alive <= now {
            self.target = 0;
            self.underused_since = None;
        } else if due(self.underused_since, SCALE_DOWN_DELAY) && self.target > bounds.min.max(1) {
            self.target -= 1;
            self.underused_since = None;
        }
    }
}

/// Updates the start of the time for which a condition has held.
fn track(since: &mut Option<Instant>, holds: bool, now: Instant) {
    *since = holds.then(|| since.unwrap_or(now));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(300);

    #[derive(Clone)]
    struct TestScaler {
        scaler: ReplicaScaler,
        now: Instant,
        bounds: Replicas,
    }

    impl TestScaler {
        fn new(min: u32, max: u32, placed: u32) -> Self {
            let now = Instant::now();
            let mut test = Self {
                scaler: ReplicaScaler::new(placed, now),
                now,
                bounds: Replicas { min, max },
            };
            test.observe_once(&load(0, 0));
            test
        }

        fn observe_once(&mut self, load: &ModelLoad) -> u32 {
            let load = ModelLoad {
                ready_replicas: self.scaler.target,
                ..*load
            };
            self.scaler
                .observe(self.bounds, KEEP_ALIVE, &load, self.now);
            self.scaler.target
        }

        /// Observes the same load every second.
        fn observe_for(&mut self, seconds: u64, load: &ModelLoad) -> u32 {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.observe_once(load);
            }
            self.scaler.target
        }
    }

    fn load(active: u32, queued: u32) -> ModelLoad {
        ModelLoad {
            concurrency: 4,
            active,
            queued,
            mean_wait: Duration::from_secs(1),
            ..ModelLoad::default()
        }
    }

    #[test]
    fn lasting_overload_adds_replicas_up_to_the_maximum() {
        let mut test = TestScaler::new(1, 3, 1);
        assert_eq!(test.observe_for(2, &load(4, 2)), 1);
        // A moment without overload restarts the delay.
        assert_eq!(test.observe_for(1, &load(4, 0)), 1);
        assert_eq!(test.observe_for(4, &load(4, 2)), 2);
        assert_eq!(test.observe_for(60, &load(12, 9)), 3);
    }

    #[test]
    fn short_queue_that_moves_fast_adds_no_replica() {
        let mut test = TestScaler::new(1, 3, 1);
        let short_wait = |queued| ModelLoad {
            mean_wait: Duration::from_millis(40),
            ..load(4, queued)
        };
        assert_eq!(test.observe_for(60, &short_wait(2)), 1);
        assert_eq!(test.observe_for(5, &short_wait(4)), 2);
    }

    #[test]
    fn no_replica_is_added_while_another_loads() {
        let mut test = TestScaler::new(1, 5, 1);
        for _ in 0..60 {
            test.now += Duration::from_secs(1);
            let load = ModelLoad {
                ready_replicas: 1,
                ..load(4, 9)
            };
            test.scaler
                .observe(test.bounds, KEEP_ALIVE, &load, test.now);
        }
        assert_eq!(test.scaler.target, 2);
    }

    #[test]
    fn replicas_are_removed_one_by_one_when_the_rest_suffices() {
        let mut test = TestScaler::new(1, 4, 3);
        // Two replicas compute 8 requests; half of that is 4.
        assert_eq!(test.observe_for(300, &load(5, 0)), 3);
        assert_eq!(test.observe_for(59, &load(4, 0)), 3);
        assert_eq!(test.observe_for(2, &load(4, 0)), 2);
        assert_eq!(test.observe_for(300, &load(0, 0)), 1);
    }

    #[test]
    fn unused_model_scales_to_zero_and_back_on_a_request() {
        let mut test = TestScaler::new(0, 2, 1);
        assert_eq!(test.observe_for(299, &load(0, 0)), 1);
        // A request that was answered between two observations.
        assert_eq!(
            test.observe_for(
                1,
                &ModelLoad {
                    started_total: 7,
                    ..load(0, 0)
                }
            ),
            1
        );
        assert_eq!(
            test.observe_for(
                299,
                &ModelLoad {
                    started_total: 7,
                    ..load(0, 0)
                }
            ),
            1
        );
        assert_eq!(
            test.observe_for(
                2,
                &ModelLoad {
                    started_total: 7,
                    ..load(0, 0)
                }
            ),
            0
        );
        assert_eq!(
            test.observe_for(
                60,
                &ModelLoad {
                    started_total: 7,
                    ..load(0, 0)
                }
            ),
            0
        );
        assert_eq!(
            test.observe_once(&ModelLoad {
                pending: 1,
                ..load(0, 0)
            }),
            1
        );
    }

    #[test]
    fn model_that_sleeps_with_replicas_wakes_up_when_they_are_used() {
        let mut test = TestScaler::new(0, 2, 1);
        let used = |started_total, active| ModelLoad {
            started_total,
            ..load(active, 0)
        };
        test.observe_for(1, &used(7, 0));
        assert_eq!(test.observe_for(300, &used(7, 0)), 0);
        assert_eq!(test.clone().observe_for(1, &used(7, 1)), 1);
        assert_eq!(test.clone().observe_for(1, &used(8, 0)), 1);
        // The counters of replicas that leave go with them.
        assert_eq!(test.observe_for(60, &used(0, 0)), 0);
    }

    #[test]
    fn model_whose_load_is_not_known_keeps_its_replicas() {
        let unknown = ModelLoad {
            unknown_replicas: 1,
            ..load(0, 0)
        };
        let mut test = TestScaler::new(0, 3, 2);
        assert_eq!(test.observe_for(1_000, &unknown), 2);
        // From then on the idle time counts.
        assert_eq!(test.observe_for(59, &load(0, 0)), 2);
        assert_eq!(test.observe_for(2, &load(0, 0)), 1);
        assert_eq!(test.observe_for(300, &load(0, 0)), 0);
    }

    #[test]
    fn new_bounds_apply_at_once() {
        let mut test = TestScaler::new(1, 4, 3);
        test.bounds = Replicas::fixed(2);
        assert_eq!(test.observe_once(&load(0, 0)), 2);
        test.bounds = Replicas::fixed(5);
        assert_eq!(test.observe_once(&load(0, 0)), 5);
    }

    proptest! {
        #[test]
        fn target_stays_in_bounds_and_settles_under_constant_load(
            min in 0u32..4, more in 0u32..4, placed in 0u32..9, active in 0u32..40,
        ) {
            let max = (min + more).max(1);
            let mut test = TestScaler::new(min, max, placed);
            let step = |test: &mut TestScaler| {
                let free = (test.scaler.target * 4).min(active);
                test.observe_for(1, &load(free, active - free))
            };
            for _ in 0..1_000 {
                let target = step(&mut test);
                prop_assert!((min..=max).contains(&target));
            }
            let settled = step(&mut test);
            for _ in 0..600 {
                prop_assert_eq!(step(&mut test), settled);
            }
        }
    }
}
