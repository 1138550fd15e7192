//! The energy of a request.

use flotilla_core::Joules;
use flotilla_core::energy::{EnergySources, EnergyUsage};

use crate::v1;

/// Returns the message of an energy. It has no emissions and no price, because nodes do not know them.
pub(super) fn energy_message(energy: EnergyUsage) -> v1::EnergyUsage {
    v1::EnergyUsage {
        joules: energy.joules.0,
        sources: energy.sources.bits(),
    }
}

/// Returns the energy of a message. `None` if it is negative or not finite.
pub(super) fn parse_energy(energy: v1::EnergyUsage) -> Option<EnergyUsage> {
    let valid = energy.joules.is_finite() && energy.joules >= 0.0;
    let sources = EnergySources::from_bits(energy.sources);
    valid.then(|| EnergyUsage::new(Joules(energy.joules), sources))
}
