//! Where joules come from: the source travels with the number.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer, de};

use super::{EnergyCost, GridRates};
use crate::Joules;

/// Where joules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnergySource {
    /// Counters of Intel's and AMD's processors (Linux powercap).
    Rapl,
    /// NVIDIA's management library.
    Nvml,
    /// Sensors of the board (Linux hwmon).
    Hwmon,
    /// The battery's discharge.
    Battery,
    /// Computed time and what the node is known or guessed to draw.
    Estimate,
}

impl EnergySource {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Rapl,
        Self::Nvml,
        Self::Hwmon,
        Self::Battery,
        Self::Estimate,
    ];

    /// As it is told.
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

/// All that a number of joules comes from: `rapl+nvml`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EnergySources(u8);

impl EnergySources {
    /// What was estimated as a whole.
    pub const ESTIMATE: Self = Self(1 << EnergySource::Estimate as u8);

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no part is estimated.
    #[must_use]
    pub const fn is_measured(self) -> bool {
        self.0 != 0 && self.0 & Self::ESTIMATE.0 == 0
    }

    /// As it travels.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// As it has travelled: sources that are not known here are left out.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self((bits & 0b1_1111) as u8)
    }

    /// As it is told. The texts of all combinations are made once.
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
            known.ok_or_else(|| de::Error::custom(format!("'{name}' is no source of joules")))
        };
        text.split('+')
            .filter(|name| !name.is_empty())
            .map(one)
            .collect()
    }
}

/// The energy that something took, with what follows from it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EnergyUsage {
    pub joules: Joules,
    pub sources: EnergySources,
    /// Grams of CO2 equivalent, where the grid's intensity is known.
    pub co2_grams: Option<f64>,
    /// Where the cost of energy is known.
    pub cost: Option<EnergyCost>,
}

impl EnergyUsage {
    /// Joules that were counted so.
    #[must_use]
    pub fn new(joules: Joules, sources: EnergySources) -> Self {
        Self {
            joules,
            sources,
            co2_grams: None,
            cost: None,
        }
    }

    /// The same, at the rates of the grid that it was drawn from.
    #[must_use]
    pub fn with_rates(self, rates: GridRates) -> Self {
        Self {
            co2_grams: rates.co2_grams(self.joules),
            cost: rates.cost(self.joules),
            ..self
        }
    }

    /// Both together. Where one was drawn at a rate that is not known, neither is the sum.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_together_and_read_again() {
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
    fn a_sum_knows_no_more_than_its_parts() {
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
}
