//! Load, counted at dispatch and given back exactly once, and the pace of the answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use flotilla_core::estimate::{Pace, Served};
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::routing::{Breaker, Load, Prospect};

/// When the clock of the paces began.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time in seconds, on the clock of the paces.
#[must_use]
pub fn pace_clock() -> f32 {
    START.elapsed().as_secs_f32()
}

/// How busy a replica is, as this controller counts it, and how fast, as it has found.
#[derive(Debug)]
pub struct ReplicaLoad {
    in_flight: AtomicU32,
    /// What it has from other controllers, as its node said last.
    elsewhere: AtomicU32,
    concurrency: u32,
    capacity: u32,
    known: Mutex<Known>,
}

/// What was learnt of a replica from its answers.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    pace: Option<Pace>,
    breaker: Breaker,
}

impl ReplicaLoad {
    /// An idle replica that computes `concurrency` requests at once and lets `queue` wait.
    #[must_use]
    pub fn new(concurrency: u32, queue: u32) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            concurrency: concurrency.max(1),
            capacity: concurrency.saturating_add(queue),
            known: Mutex::default(),
        }
    }

    /// The load now.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            elsewhere: self.elsewhere.load(Ordering::Relaxed),
            concurrency: self.concurrency,
            capacity: self.capacity,
        }
    }

    /// The replica as the choice sees it.
    #[must_use]
    pub fn prospect(&self, now: f32) -> Prospect {
        let known = *self.lock();
        Prospect {
            load: self.load(),
            pace: known.pace,
            admitted: known.breaker.admits(now),
        }
    }

    /// Its node says that it has so many requests, those from here included.
    pub fn note(&self, requests: u32) {
        let here = self.in_flight.load(Ordering::Relaxed);
        let elsewhere = requests.saturating_sub(here);
        self.elsewhere.store(elsewhere, Ordering::Relaxed);
    }

    /// Whether it has these limits.
    #[must_use]
    pub fn fits(&self, concurrency: u32, queue: u32) -> bool {
        self.concurrency == concurrency.max(1) && self.capacity == concurrency.saturating_add(queue)
    }

    /// Counts one request until the guard is dropped.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> LoadGuard {
        let load = self.load();
        self.lock().breaker.began(pace_clock());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        LoadGuard {
            replica: self.clone(),
            load,
            begun: Instant::now(),
            judged: false,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing panics while it is held, and it is held for a copy only.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request under way on a replica.
#[derive(Debug)]
pub struct LoadGuard {
    replica: Arc<ReplicaLoad>,
    /// What it had when the request came.
    load: Load,
    begun: Instant,
    /// Whether it was told how the request ended.
    judged: bool,
}

impl LoadGuard {
    /// The request is answered: the replica's pace is learnt from it.
    pub fn served(&mut self, usage: Usage) {
        self.judged = true;
        let served = Served {
            seconds: self.begun.elapsed().as_secs_f32(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            load: self.load,
        };
        let mut known = self.replica.lock();
        known.pace = Some(Pace::learn(known.pace, served, pace_clock()));
        known.breaker.answered();
    }

    /// The request failed, with this error.
    pub fn failed(&mut self, error: &RequestError) {
        if error.blames_the_replica() {
            self.judged = true;
            self.replica.lock().breaker.failed(pace_clock());
        }
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if !self.judged {
            self.replica.lock().breaker.ended();
        }
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_given_back_once_however_the_guard_ends() {
        let load = Arc::new(ReplicaLoad::new(4, 60));
        let first = load.take();
        let second = load.take();
        assert_eq!(load.load().in_flight, 2);
        drop(first);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = second;
            panic!("while it answers");
        }));
        assert!(panicked.is_err());
        assert_eq!(load.load().in_flight, 0);
        assert_eq!(load.load().capacity, 64);
        assert!(load.prospect(0.0).pace.is_none());
        load.take().served(Usage {
            prompt_tokens: 1,
            completion_tokens: 1,
        });
        assert!(load.prospect(0.0).pace.is_some());
        let _here = load.take();
        load.note(5);
        assert_eq!(load.load().elsewhere, 4);
    }
}
