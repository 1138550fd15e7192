//! Sources of energy readings. A source always accompanies the joules that it measured.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer, de};

use super::{EnergyCost, GridRates};
use crate::Joules;

/// A source of energy readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnergySource {
    /// Counters of Intel's and AMD's processors (Linux powercap).
    Rapl,
    /// NVIDIA's management library (NVML).
    Nvml,
    /// Sensors of the board (Linux hwmon).
    Hwmon,
    /// The battery's discharge.
    Battery,
    /// Estimated from compute time and the power range of the node.
    Estimate,
}

impl EnergySource {
    /// All sources.
    pub const ALL: [Self; 5] = [
        Self::Rapl,
        Self::Nvml,
        Self::Hwmon,
        Self::Battery,
        Self::Estimate,
    ];

    /// The name in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rapl => "rapl",
            Self::Nvml => "nvml",
            Self::Hwmon => "hwmon",
            Self::Battery => "battery",
            Self::Estimate => "estimate",
        }
    }
}

/// The set of sources of a number of joules, such as `rapl+nvml`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EnergySources(u8);

impl EnergySources {
    /// The estimate as the only source.
    pub const ESTIMATE: Self = Self(1 << EnergySource::Estimate as u8);

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is a source and no part is estimated.
    #[must_use]
    pub const fn is_measured(self) -> bool {
        self.0 != 0 && self.0 & Self::ESTIMATE.0 == 0
    }

    /// The set as bits for the wire protocol, bit 0 for the first source.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// The set from the bits of the wire protocol. Unknown sources are ignored.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self((bits & 0b1_1111) as u8)
    }

    /// The names joined by `+`, as in JSON and metrics. The texts of all sets are built once.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        static TEXTS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
            let text = |bits: u8| {
                let named = EnergySource::ALL
                    .into_iter()
                    .filter(|s| bits & (1 << *s as u8) != 0);
                named
                    .map(EnergySource::as_str)
                    .collect::<Vec<_>>()
                    .join("+")
            };
            (0..32).map(text).collect()
        });
        TEXTS.get(usize::from(self.0)).map_or("", String::as_str)
    }
}

impl From<EnergySource> for EnergySources {
    fn from(source: EnergySource) -> Self {
        Self(1 << source as u8)
    }
}

impl FromIterator<EnergySource> for EnergySources {
    fn from_iter<I: IntoIterator<Item = EnergySource>>(sources: I) -> Self {
        let add = |sum: Self, source: EnergySource| sum.union(source.into());
        sources.into_iter().fold(Self::default(), add)
    }
}

impl fmt::Display for EnergySources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for EnergySources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EnergySources {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let one = |name: &str| {
            let known = EnergySource::ALL
                .into_iter()
                .find(|source| source.as_str() == name);
            known.ok_or_else(|| {
                de::Error::custom(format!("'{name}' is not a source of energy readings"))
            })
        };
        text.split('+')
            .filter(|name| !name.is_empty())
            .map(one)
            .collect()
    }
}

/// An amount of energy with its sources, emissions and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EnergyUsage {
    /// The energy.
    pub joules: Joules,
    /// The sources of the joules.
    pub sources: EnergySources,
    /// Grams of CO2 equivalent. `None` if the grid's carbon intensity is not known.
    pub co2_grams: Option<f64>,
    /// Where the cost of energy is known.
    pub cost: Option<EnergyCost>,
}

impl EnergyUsage {
    /// So many joules of these sources, without emissions and cost.
    #[must_use]
    pub fn new(joules: Joules, sources: EnergySources) -> Self {
        Self {
            joules,
            sources,
            co2_grams: None,
            cost: None,
        }
    }

    /// The same energy with emissions and cost by the rates of the grid.
    #[must_use]
    pub fn with_rates(self, rates: GridRates) -> Self {
        Self {
            co2_grams: rates.co2_grams(self.joules),
            cost: rates.cost(self.joules),
            ..self
        }
    }

    /// The sum of both. Emissions and cost of the sum are unknown if one of them is.
    #[must_use]
    pub fn combine(self, other: Self) -> Self {
        if self == Self::default() {
            return other;
        }
        let cost = match (self.cost, other.cost) {
            (Some(a), Some(b)) if a.currency == b.currency => Some(EnergyCost {
                amount: a.amount + b.amount,
                currency: a.currency,
            }),
            _ => None,
        };
        Self {
            joules: self.joules + other.joules,
            sources: self.sources.union(other.sources),
            co2_grams: self.co2_grams.zip(other.co2_grams).map(|(a, b)| a + b),
            cost,
        }
    }

    /// The sum of two energies of which each may be unknown. `None` if both are.
    #[must_use]
    pub fn combine_known(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.combine(other)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_round_trip_through_bits_and_json() {
        let both: EnergySources = [EnergySource::Nvml, EnergySource::Rapl]
            .into_iter()
            .collect();
        assert_eq!(both.as_str(), "rapl+nvml");
        assert!(both.is_measured() && !EnergySources::default().is_measured());
        assert!(!both.union(EnergySources::ESTIMATE).is_measured());
        for bits in 0..32 {
            let sources = EnergySources::from_bits(bits);
            let json = serde_json::to_string(&sources).unwrap();
            assert_eq!(
                serde_json::from_str::<EnergySources>(&json).unwrap(),
                sources
            );
        }
        assert!(serde_json::from_str::<EnergySources>("\"magic\"").is_err());
    }

    #[test]
    fn sum_of_unknown_emissions_is_unknown() {
        let rates = GridRates {
            co2_grams_per_kwh: Some(360.0),
            price_per_kwh: None,
        };
        let known = EnergyUsage::new(Joules(10.0), EnergySource::Rapl.into()).with_rates(rates);
        assert_eq!(known.co2_grams, Some(0.001));
        let both = known.combine(known);
        assert_eq!((both.joules, both.co2_grams), (Joules(20.0), Some(0.002)));
        let unknown = known.combine(EnergyUsage::new(Joules(1.0), EnergySources::ESTIMATE));
        assert_eq!(
            (unknown.co2_grams, unknown.sources.as_str()),
            (None, "rapl+estimate")
        );
        assert_eq!(EnergyUsage::default().combine(known), known);
    }

    #[test]
    fn unknown_energy_adds_nothing() {
        let known = EnergyUsage {
            joules: Joules(2.0),
            ..EnergyUsage::default()
        };
        assert_eq!(EnergyUsage::combine_known(None, None), None);
        assert_eq!(EnergyUsage::combine_known(Some(known), None), Some(known));
        assert_eq!(EnergyUsage::combine_known(None, Some(known)), Some(known));
        let sum = EnergyUsage::combine_known(Some(known), Some(known));
        assert_eq!(sum.unwrap().joules, Joules(4.0));
    }
}
