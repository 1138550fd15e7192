//! The energy that a request has taken so far, for the error with which it fails.

use std::sync::Arc;

use flotilla_core::energy::EnergyUsage;
use flotilla_proto::status;
use parking_lot::Mutex;
use tonic::Status;

/// The energy of all turns of one request that have ended. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct SpentEnergy(Arc<Mutex<Option<EnergyUsage>>>);

impl SpentEnergy {
    /// Adds the energy of a turn.
    pub(super) fn add(&self, energy: EnergyUsage) {
        let mut sum = self.0.lock();
        *sum = EnergyUsage::combine_known(*sum, Some(energy));
    }

    /// Adds the sum to the status with which the request fails, so that the controller charges what the node has
    /// measured. Nothing is added for a request that was not computed.
    pub(crate) fn report_in(&self, mut status: Status) -> Status {
        if let Some(energy) = *self.0.lock() {
            status::set_energy(&mut status, energy);
        }
        status
    }
}
