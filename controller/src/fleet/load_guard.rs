//! Load, counted at dispatch and given back exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use flotilla_core::routing::Load;

/// How busy a replica is, as this controller counts it.
#[derive(Debug)]
pub struct ReplicaLoad {
    in_flight: AtomicU32,
    /// What it has from other controllers, as its node said last.
    elsewhere: AtomicU32,
    concurrency: u32,
    capacity: u32,
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
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        LoadGuard(self.clone())
    }
}

/// One request under way on a replica.
#[derive(Debug)]
pub struct LoadGuard(Arc<ReplicaLoad>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
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
        let _here = load.take();
        load.note(5);
        assert_eq!(load.load().elsewhere, 4);
    }
}
