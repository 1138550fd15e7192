//! The power that a node draws, idle and under full load.

use serde::{Deserialize, Serialize};

use crate::{Joules, Watts};

/// The power that a node draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerRange {
    /// Without any load.
    pub idle: Watts,
    /// Under full load of all processors.
    pub max: Watts,
    /// Whether the values were configured; otherwise they are estimated from the number of cores.
    pub configured: bool,
}

/// Watts per core of an idle and of a fully loaded server: the means for AWS of Cloud Carbon
/// Footprint's methodology (cloudcarbonfootprint.org, "Energy Estimate (Watt-Hours)").
const WATTS_PER_CORE: (f32, f32) = (0.74, 3.5);

impl PowerRange {
    /// Estimates the power range of a node with this number of `cores`, for nodes without a configured one.
    #[must_use]
    pub fn estimate(cores: u32) -> Self {
        let cores = cores.max(1) as f32;
        Self {
            idle: Watts(WATTS_PER_CORE.0 * cores),
            max: Watts(WATTS_PER_CORE.1 * cores),
            configured: false,
        }
    }

    /// The power of full load on top of idle power.
    #[must_use]
    pub fn dynamic_power(self) -> Watts {
        Watts((self.max.0 - self.idle.0).max(0.0))
    }

    /// The energy of an answer that was computed for so many seconds as one of `at_once` concurrent
    /// requests. Idle power is not attributed to answers: it is drawn without any.
    #[must_use]
    pub fn answer_energy(self, seconds: f32, at_once: u32) -> Joules {
        self.dynamic_power()
            .energy_over(seconds / at_once.max(1) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_takes_the_power_on_top_of_idle() {
        let power = PowerRange {
            idle: Watts(10.0),
            max: Watts(60.0),
            configured: true,
        };
        assert_eq!(power.answer_energy(2.0, 1), Joules(100.0));
        assert_eq!(power.answer_energy(2.0, 4), Joules(25.0));
        let guess = PowerRange::estimate(4);
        assert!((guess.dynamic_power().0 - 11.04).abs() < 1e-4);
        let broken = PowerRange {
            max: Watts(1.0),
            ..power
        };
        assert_eq!(broken.answer_energy(2.0, 1), Joules(0.0));
    }
}
