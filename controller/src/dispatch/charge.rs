//! What a request takes on a replica, from when it is sent there.

use std::sync::Arc;

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{RequestError, Usage};
use flotilla_core::{NodeName, ZoneName};

use crate::arrival::RequestContext;
use crate::fleet::{LoadGuard, ReplicaView};

/// A request on a replica: its load there, and its energy, which is counted once, whichever way it ends.
/// Of what has no end that is what it took until this was dropped.
pub(super) struct UsageGuard {
    guard: LoadGuard,
    arrival: Arc<RequestContext>,
    node: NodeName,
    zone: Option<ZoneName>,
    /// Whether its energy is counted.
    settled: bool,
    /// Whether it is known to be computed.
    begun: bool,
}

impl UsageGuard {
    /// A request that is about to be sent to `replica`, where `guard` counts it.
    pub(super) fn new(
        replica: &ReplicaView,
        guard: LoadGuard,
        arrival: Arc<RequestContext>,
    ) -> Self {
        Self {
            guard,
            arrival,
            node: replica.node.clone(),
            zone: replica.zone.clone(),
            settled: false,
            begun: false,
        }
    }

    /// The answer has begun.
    pub(super) fn begins(&mut self) {
        self.begun = true;
        self.guard.answers();
    }

    /// The answer is complete: what it took is learnt and counted.
    pub(super) fn served(&mut self, usage: Usage) -> EnergyUsage {
        let spent = self.guard.served(usage);
        self.settle(spent)
    }

    /// It is given up: what it took until now is counted.
    pub(super) fn given_up(&mut self) -> EnergyUsage {
        let spent = self.guard.spent();
        self.settle(spent)
    }

    /// It failed.
    pub(super) fn failed(&mut self, error: &RequestError) {
        self.guard.failed(error);
    }

    /// The replica said no: that took nothing.
    pub(super) fn refused(&mut self, error: &RequestError) {
        self.settled = true;
        self.guard.failed(error);
    }

    fn settle(&mut self, spent: EnergyUsage) -> EnergyUsage {
        self.settled = true;
        self.arrival.spends(&self.node, self.zone.as_ref(), spent)
    }
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        // What may only have waited there for others took nothing.
        if !self.settled && (self.begun || self.guard.had_room()) {
            self.given_up();
        }
    }
}
