//! Accounts for what one request takes on one replica, from the moment it is sent there.

use std::sync::Arc;

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::{NodeName, ZoneName};

use crate::request_context::RequestContext;
use crate::{LoadGuard, ReplicaView};

/// A request on a replica: its load there, and its energy, which is counted once, however the request
/// ends. A request that is dropped counts the energy until then.
pub(crate) struct UsageGuard {
    load: LoadGuard,
    context: Arc<RequestContext>,
    node: NodeName,
    zone: Option<ZoneName>,
    /// Whether the energy has been counted.
    counted: bool,
    /// Whether the replica is known to compute the request.
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
            zone: replica.zone.clone(),
            counted: false,
            computing: false,
        }
    }

    /// Records that the answer has begun.
    pub(crate) fn answer_began(&mut self) {
        self.computing = true;
        self.load.answer_began();
    }

    /// Learns from the complete answer, counts its energy and returns it.
    pub(crate) fn served(&mut self, usage: Usage) -> EnergyUsage {
        let energy = self.load.served(usage);
        self.count(energy)
    }

    /// Counts the energy so far of a request that is given up, and returns it.
    pub(crate) fn given_up(&mut self) -> EnergyUsage {
        let energy = self.load.energy_so_far();
        self.count(energy)
    }

    /// Records that the request failed.
    pub(crate) fn failed(&mut self, error: &RequestError) {
        self.load.failed(error);
    }

    /// Records that the replica refused the request, which takes no energy.
    pub(crate) fn refused(&mut self, error: &RequestError) {
        self.counted = true;
        self.load.failed(error);
    }

    fn count(&mut self, energy: EnergyUsage) -> EnergyUsage {
        self.counted = true;
        self.context
            .add_energy(&self.node, self.zone.as_ref(), energy)
    }
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        // A request that may only have waited in the replica's queue took no energy.
        if !self.counted && (self.computing || self.load.had_room()) {
            self.given_up();
        }
    }
}
