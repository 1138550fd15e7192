//! Load, counted at dispatch and given back exactly once.

use std::sync::Arc;
use std::time::Instant;

use flotilla_core::admission::{FairnessKey, Priority};
use flotilla_core::energy::EnergyUsage;
use flotilla_core::estimate::{ComputeTime, ServedRequest, contention_factor};
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::routing::ReplicaLoad;

use crate::ReplicaStats;

/// One request in flight on a replica. Dropping the guard gives the load back.
#[derive(Debug)]
pub struct LoadGuard {
    replica: Arc<ReplicaStats>,
    /// The replica's load when the request began.
    load: ReplicaLoad,
    key: (Priority, FairnessKey),
    prompt_bytes: u32,
    began: Instant,
    lesson: Lesson,
}

/// What the end of a request teaches about its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lesson {
    /// A lower bound of the answer's time: the request was given up before its answer, because the
    /// client went away, another replica was faster, or the time was up.
    AtLeast,
    /// Nothing more: the answer or the failure has been recorded.
    Recorded,
    /// Nothing: the end does not depend on the replica.
    Nothing,
}

impl LoadGuard {
    /// Creates the guard of a request that is counted in `replica` already.
    pub(crate) fn new(
        replica: Arc<ReplicaStats>,
        load: ReplicaLoad,
        key: (Priority, FairnessKey),
        prompt_bytes: u32,
    ) -> Self {
        Self {
            replica,
            load,
            key,
            prompt_bytes,
            began: Instant::now(),
            lesson: Lesson::AtLeast,
        }
    }

    /// Learns from a complete answer. Returns its energy: as the node reported it, or else estimated
    /// from the time that it was computed for.
    pub fn served(&mut self, usage: Usage) -> EnergyUsage {
        self.lesson = Lesson::Recorded;
        let computed = usage.timing.map(|timing| ComputeTime {
            prefill: timing.prefill.as_secs_f32(),
            decode: timing.decode.as_secs_f32(),
        });
        let served = ServedRequest {
            prompt_bytes: self.prompt_bytes,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            seconds: self.began.elapsed().as_secs_f32(),
            compute_time: computed,
            load: self.load,
        };
        self.replica.learn(served, usage.energy);
        match (usage.energy, computed) {
            (Some(energy), _) => energy,
            (None, Some(computed)) => self
                .replica
                .estimate_energy(computed.prefill + computed.decode, self.load),
            (None, None) => self.energy_so_far(),
        }
    }

    /// Returns whether the replica could compute the request at once, so that it did not wait there.
    #[must_use]
    pub fn had_room(&self) -> bool {
        self.load.has_free_slot()
    }

    /// Estimates the energy so far of a request whose compute time the node has not reported.
    #[must_use]
    pub fn energy_so_far(&self) -> EnergyUsage {
        let seconds = self.began.elapsed().as_secs_f32() / contention_factor(self.load);
        self.replica.estimate_energy(seconds, self.load)
    }

    /// Records that the answer has begun: from here on, how long the client reads says nothing about
    /// the replica.
    pub fn answer_began(&mut self) {
        self.lesson = Lesson::Nothing;
    }

    /// Records that the request failed.
    pub fn failed(&mut self, error: &RequestError) {
        if error.is_replica_fault() {
            self.replica.record_failure();
        }
        self.lesson = match error {
            RequestError::DeadlineUnmet(_) => Lesson::AtLeast,
            _ if error.is_replica_fault() => Lesson::Recorded,
            _ => Lesson::Nothing,
        };
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if self.lesson != Lesson::Recorded {
            self.replica.record_neutral_end();
        }
        // A request that may have waited for others was not computed all that time.
        if self.lesson == Lesson::AtLeast && self.load.has_free_slot() {
            let seconds = self.began.elapsed().as_secs_f32();
            self.replica
                .learn_at_least(self.prompt_bytes, seconds, self.load);
        }
        self.replica.end_request(self.key);
    }
}
