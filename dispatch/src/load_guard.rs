//! Load, counted at dispatch and given back exactly once.

use std::sync::Arc;
use std::time::Instant;

use flotilla_core::admission::{FairnessKey, Priority};
use flotilla_core::energy::EnergyUsage;
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, contention_factor};
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
    /// The cost of the request, with the part of its prompt that the replica had yet to read.
    cost: RequestCost,
    began: Instant,
    end_effect: EndEffect,
}

/// The effect of the request's end on the statistics of its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndEffect {
    /// The elapsed time is a lower bound of the answer's time: the request was abandoned before its
    /// answer, because the client went away, another replica was faster, or the time was up.
    LowerBound,
    /// None: the answer or the failure has been recorded already.
    AlreadyRecorded,
    /// None: the end does not depend on the replica.
    Neutral,
}

impl LoadGuard {
    /// Creates the guard of a request that is counted in `replica` already.
    pub(crate) fn new(
        replica: Arc<ReplicaStats>,
        load: ReplicaLoad,
        key: (Priority, FairnessKey),
        cost: RequestCost,
    ) -> Self {
        Self {
            replica,
            load,
            key,
            cost,
            began: Instant::now(),
            end_effect: EndEffect::LowerBound,
        }
    }

    /// Learns from a complete answer. Returns its energy: the node's number, or an estimate from the
    /// compute time where the node reported none.
    pub fn record_answer(&mut self, usage: Usage) -> EnergyUsage {
        self.end_effect = EndEffect::AlreadyRecorded;
        let computed = usage.timing.map(|timing| ComputeTime {
            prefill: timing.prefill.as_secs_f32(),
            decode: timing.decode.as_secs_f32(),
        });
        let served = ServedRequest {
            prompt_bytes: self.cost.prompt_bytes,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            choices: self.cost.choices,
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

    /// Returns whether the replica had a free slot when the request began. If not, the request may have
    /// waited in the replica's queue.
    #[must_use]
    pub fn had_free_slot(&self) -> bool {
        self.load.has_free_slot()
    }

    /// Estimates the energy so far of a request whose compute time the node has not reported.
    #[must_use]
    pub fn energy_so_far(&self) -> EnergyUsage {
        let seconds = self.began.elapsed().as_secs_f32() / contention_factor(self.load);
        self.replica.estimate_energy(seconds, self.load)
    }

    /// Records that the answer has begun. The time from here on depends on how fast the client reads,
    /// and so says nothing about the replica.
    pub fn record_answer_start(&mut self) {
        self.end_effect = EndEffect::Neutral;
    }

    /// Records that the request failed.
    pub fn record_failure(&mut self, error: &RequestError) {
        // A request that may have waited for others shows no fault by not beginning. Only those of this
        // process are known to be there still: a node that hangs reports the others for ever.
        let had_to_wait = self.load.in_flight >= self.load.concurrency;
        let may_have_waited = matches!(error, RequestError::Timeout(_)) && had_to_wait;
        let is_fault = error.is_replica_fault() && !may_have_waited;
        if is_fault {
            self.replica.record_failure();
        }
        self.end_effect = match error {
            RequestError::DeadlineUnmet(_) => EndEffect::LowerBound,
            _ if is_fault => EndEffect::AlreadyRecorded,
            _ => EndEffect::Neutral,
        };
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if self.end_effect != EndEffect::AlreadyRecorded {
            self.replica.record_neutral_end();
        }
        // A request that may have waited for others was not computed all that time.
        if self.end_effect == EndEffect::LowerBound && self.load.has_free_slot() {
            let seconds = self.began.elapsed().as_secs_f32();
            self.replica
                .learn_lower_bound(self.cost, seconds, self.load);
        }
        self.replica.end_request(self.key);
    }
}
