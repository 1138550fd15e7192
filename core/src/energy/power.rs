//! What a node draws, idle and at work.

use serde::{Deserialize, Serialize};

use crate::{Joules, Watts};

/// What a node draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerRange {
    /// With nothing to do.
    pub idle: Watts,
    /// With all it computes with at work.
    pub max: Watts,
    /// Whether somebody who knows the node said so; else it is guessed from its cores.
    pub configured: bool,
}

/// Watts of a core of a server with nothing to do and at work: the means for AWS of Cloud Carbon
/// Footprint's methodology (cloudcarbonfootprint.org, "Energy Estimate (Watt-Hours)").
const CORE: (f32, f32) = (0.74, 3.5);

impl PowerRange {
    /// What a node of so many cores may draw, where nobody knows.
    #[must_use]
    pub fn estimate(cores: u32) -> Self {
        let cores = cores.max(1) as f32;
        Self {
            idle: Watts(CORE.0 * cores),
            max: Watts(CORE.1 * cores),
            configured: false,
        }
    }

    /// What working takes on top of being there.
    #[must_use]
    pub fn dynamic_power(self) -> Watts {
        Watts((self.max.0 - self.idle.0).max(0.0))
    }

    /// The energy of an answer that was computed for so many seconds, one of `at_once`. Being there is
    /// no answer's: it is drawn without any.
    #[must_use]
    pub fn answer_energy(self, seconds: f32, at_once: u32) -> Joules {
        self.dynamic_power().energy_over(seconds / at_once.max(1) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_takes_what_working_takes_on_top() {
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
