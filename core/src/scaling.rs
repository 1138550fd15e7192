//! How many replicas a model should have now: between its minimum and its maximum, following
//! the requests that compute and wait.
//!
//! It goes up fast and down slowly, each only after the reason has held for a while, and at
//! different marks, so that load near a mark does not make replicas come and go.

use std::time::{Duration, Instant};

use crate::spec::Replicas;

/// Requests wait this long before a replica more is worth its memory.
const LONG_WAIT: Duration = Duration::from_millis(500);
/// Pressure has to hold for this long.
const UP_AFTER: Duration = Duration::from_secs(3);
/// What is under way would keep one replica fewer busy to this part at most …
const SLACK: f64 = 0.5;
/// … for this long before one leaves.
const DOWN_AFTER: Duration = Duration::from_secs(60);

/// What a model's replicas are doing, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelLoad {
    /// Replicas that answer.
    pub ready_replicas: u32,
    /// Requests that one replica computes at once.
    pub concurrency: u32,
    /// Requests being computed.
    pub active: u32,
    /// Requests waiting on replicas.
    pub queued: u32,
    /// Requests waiting on controllers, since no replica answers.
    pub pending: u32,
    /// Requests ever begun; may start anew.
    pub started_total: u64,
    /// How long those begun lately had waited, on average.
    pub mean_wait: Duration,
}

/// The number of replicas of one model.
#[derive(Debug, Clone)]
pub struct ReplicaScaler {
    target: u32,
    /// Since when there is reason for more.
    pressed: Option<Instant>,
    /// Since when there is reason for fewer.
    slack: Option<Instant>,
    used: Instant,
    begun: u64,
}

impl ReplicaScaler {
    /// A model that has `placed` replicas. It counts as used now: how long it was not is not
    /// known.
    #[must_use]
    pub fn new(placed: u32, now: Instant) -> Self {
        Self {
            target: placed,
            pressed: None,
            slack: None,
            used: now,
            begun: 0,
        }
    }

    /// How many replicas there should be.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Looks at the load at `now`. `keep_alive` counts where the minimum is 0.
    pub fn observe(
        &mut self,
        bounds: Replicas,
        keep_alive: Duration,
        load: &ModelLoad,
        now: Instant,
    ) {
        let under_way = load.active + load.queued + load.pending;
        if under_way > 0 || load.started_total != self.begun {
            self.used = now;
            self.begun = load.started_total;
        }
        self.target = self.target.clamp(bounds.min, bounds.max);
        if self.target == 0 {
            self.target = u32::from(load.pending > 0);
            return;
        }
        let slots = f64::from(self.target) * f64::from(load.concurrency.max(1));
        let wait = load.queued > 0 && load.mean_wait >= LONG_WAIT;
        let full = f64::from(load.queued) >= slots;
        // While a new replica is still loading, the load says nothing about enough.
        let settled = load.ready_replicas >= self.target;
        held(&mut self.pressed, settled && (wait || full), now);
        let fewer = f64::from(self.target - 1) * f64::from(load.concurrency.max(1));
        held(&mut self.slack, f64::from(under_way) <= fewer * SLACK, now);

        let due = |since: Option<Instant>, after: Duration| since.is_some_and(|s| s + after <= now);
        if due(self.pressed, UP_AFTER) {
            self.target = (self.target + 1).min(bounds.max);
            self.pressed = None;
        } else if bounds.min == 0 && self.used + keep_alive <= now {
            self.target = 0;
            self.slack = None;
        } else if due(self.slack, DOWN_AFTER) && self.target > bounds.min.max(1) {
            self.target -= 1;
            self.slack = None;
        }
    }
}

/// Notes since when something holds.
fn held(since: &mut Option<Instant>, holds: bool, now: Instant) {
    *since = holds.then(|| since.unwrap_or(now));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALIVE: Duration = Duration::from_secs(300);

    struct Bench {
        scaler: ReplicaScaler,
        now: Instant,
        bounds: Replicas,
    }

    impl Bench {
        fn new(min: u32, max: u32, placed: u32) -> Self {
            let now = Instant::now();
            let mut bench = Self {
                scaler: ReplicaScaler::new(placed, now),
                now,
                bounds: Replicas { min, max },
            };
            bench.look(&busy(0, 0));
            bench
        }

        fn look(&mut self, load: &ModelLoad) -> u32 {
            let load = ModelLoad {
                ready_replicas: self.scaler.target,
                ..*load
            };
            self.scaler.observe(self.bounds, ALIVE, &load, self.now);
            self.scaler.target
        }

        /// The same load, looked at every second.
        fn during(&mut self, seconds: u64, load: &ModelLoad) -> u32 {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.look(load);
            }
            self.scaler.target
        }
    }

    fn busy(active: u32, queued: u32) -> ModelLoad {
        ModelLoad {
            concurrency: 4,
            active,
            queued,
            mean_wait: Duration::from_secs(1),
            ..ModelLoad::default()
        }
    }

    #[test]
    fn pressure_that_holds_adds_replicas_up_to_the_maximum() {
        let mut bench = Bench::new(1, 3, 1);
        assert_eq!(bench.during(2, &busy(4, 2)), 1);
        // A moment without pressure counts from the start again.
        assert_eq!(bench.during(1, &busy(4, 0)), 1);
        assert_eq!(bench.during(4, &busy(4, 2)), 2);
        assert_eq!(bench.during(60, &busy(12, 9)), 3);
    }

    #[test]
    fn a_short_queue_that_moves_fast_adds_nothing() {
        let mut bench = Bench::new(1, 3, 1);
        let load = ModelLoad {
            mean_wait: Duration::from_millis(40),
            ..busy(4, 2)
        };
        assert_eq!(bench.during(60, &load), 1);
        let load = ModelLoad {
            mean_wait: Duration::from_millis(40),
            ..busy(4, 4)
        };
        assert_eq!(bench.during(5, &load), 2);
    }

    #[test]
    fn while_a_replica_loads_no_other_one_is_added() {
        let mut bench = Bench::new(1, 5, 1);
        for _ in 0..60 {
            bench.now += Duration::from_secs(1);
            let load = ModelLoad {
                ready_replicas: 1,
                ..busy(4, 9)
            };
            bench.scaler.observe(bench.bounds, ALIVE, &load, bench.now);
        }
        assert_eq!(bench.scaler.target, 2);
    }

    #[test]
    fn replicas_leave_one_by_one_and_only_when_the_rest_is_enough() {
        let mut bench = Bench::new(1, 4, 3);
        // 2 × 4 places at half: 4 requests.
        assert_eq!(bench.during(300, &busy(5, 0)), 3);
        assert_eq!(bench.during(59, &busy(4, 0)), 3);
        assert_eq!(bench.during(2, &busy(4, 0)), 2);
        assert_eq!(bench.during(300, &busy(0, 0)), 1);
    }

    #[test]
    fn what_nobody_asks_for_leaves_and_comes_back_when_somebody_does() {
        let mut bench = Bench::new(0, 2, 1);
        assert_eq!(bench.during(299, &busy(0, 0)), 1);
        // One request in between, already answered when looked at.
        assert_eq!(
            bench.during(
                1,
                &ModelLoad {
                    started_total: 7,
                    ..busy(0, 0)
                }
            ),
            1
        );
        assert_eq!(
            bench.during(
                299,
                &ModelLoad {
                    started_total: 7,
                    ..busy(0, 0)
                }
            ),
            1
        );
        assert_eq!(
            bench.during(
                2,
                &ModelLoad {
                    started_total: 7,
                    ..busy(0, 0)
                }
            ),
            0
        );
        assert_eq!(
            bench.during(
                60,
                &ModelLoad {
                    started_total: 7,
                    ..busy(0, 0)
                }
            ),
            0
        );
        assert_eq!(
            bench.look(&ModelLoad {
                pending: 1,
                ..busy(0, 0)
            }),
            1
        );
    }

    #[test]
    fn new_bounds_hold_at_once() {
        let mut bench = Bench::new(1, 4, 3);
        bench.bounds = Replicas::fixed(2);
        assert_eq!(bench.look(&busy(0, 0)), 2);
        bench.bounds = Replicas::fixed(5);
        assert_eq!(bench.look(&busy(0, 0)), 5);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_steady_load_comes_to_rest(
            min in 0u32..4, more in 0u32..4, placed in 0u32..9, active in 0u32..40,
        ) {
            let max = (min + more).max(1);
            let mut bench = Bench::new(min, max, placed);
            let rest = |bench: &mut Bench| {
                let free = (bench.scaler.target * 4).min(active);
                bench.during(1, &busy(free, active - free))
            };
            for _ in 0..1_000 {
                let target = rest(&mut bench);
                prop_assert!((min..=max).contains(&target));
            }
            let settled = rest(&mut bench);
            for _ in 0..600 {
                prop_assert_eq!(rest(&mut bench), settled);
            }
        }
    }
}
