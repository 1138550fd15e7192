//! The load and energy of one request on one replica, from the time it is sent there.

use std::collections::BTreeSet;
use std::sync::Arc;

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::{NodeName, ZoneName};

use crate::request_context::RequestContext;
use crate::{LoadGuard, ReplicaView};

/// Accounts for one request on one replica: its load, and its energy, which is counted exactly once.
/// Dropping the guard before the end of the request counts the energy until then.
pub(crate) struct UsageGuard {
    load: LoadGuard,
    context: Arc<RequestContext>,
    node: NodeName,
    zones: Arc<BTreeSet<ZoneName>>,
    /// The energy that has been counted. `None`: none has.
    counted: Option<EnergyUsage>,
    /// Whether the replica has begun to answer, and so certainly computes the request.
    computing: bool,
}

impl UsageGuard {
    /// Accounts for a request that is about to be sent to `replica`, where `load` counts it.
    pub(crate) fn new(
        replica: &ReplicaView,
        load: LoadGuard,
        context: Arc<RequestContext>,
    ) -> Self {
        Self {
            load,
            context,
            node: replica.node.clone(),
            zones: replica.zones.clone(),
            counted: None,
            computing: false,
        }
    }

    /// Records that the answer has begun.
    pub(crate) fn record_answer_start(&mut self) {
        self.computing = true;
        self.load.record_answer_start();
    }

    /// Records that the replica has begun to compute an answer of which it has sent nothing yet.
    pub(crate) fn record_computing(&mut self) {
        self.computing = true;
    }

    /// Learns from the complete answer, counts its energy and returns it.
    pub(crate) fn record_answer(&mut self, usage: Usage) -> EnergyUsage {
        let energy = self.load.record_answer(usage);
        self.count(energy)
    }

    /// Counts the energy that the node says a request has taken that failed there.
    pub(crate) fn count_reported_energy(&mut self, energy: EnergyUsage) {
        self.count(energy);
    }

    /// Counts the energy so far of a request that is abandoned, unless it was counted before, and returns it.
    pub(crate) fn count_energy_so_far(&mut self) -> EnergyUsage {
        if let Some(counted) = self.counted {
            return counted;
        }
        let energy = self.load.energy_so_far();
        self.count(energy)
    }

    /// Records that the request failed.
    pub(crate) fn record_failure(&mut self, error: &RequestError) {
        self.load.record_failure(error);
    }

    /// Records that the replica refused the request. A refusal costs no energy but what the replica says.
    pub(crate) fn record_refusal(&mut self, error: &RequestError) {
        self.counted.get_or_insert_default();
        self.load.record_failure(error);
    }

    fn count(&mut self, energy: EnergyUsage) -> EnergyUsage {
        let energy = self.context.add_energy(&self.node, &self.zones, energy);
        self.counted = Some(energy);
        energy
    }
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        // A request that may only have waited in the replica's queue took no energy.
        if self.counted.is_none() && (self.computing || self.load.had_free_slot()) {
            self.count_energy_so_far();
        }
    }
}
