//! What a joule costs, in grams of CO2 equivalent and in money, by where it is drawn.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer, de};

use crate::{Joules, ZoneName};

/// Joules of a kilowatt hour.
const KWH: f64 = 3.6e6;

/// What a fleet's energy costs, as the router's `grid` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GridSpec {
    /// Grams of CO2 equivalent per kilowatt hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carbon_intensity: Option<f64>,
    /// Price of a kilowatt hour, in `currency`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_kwh: Option<f64>,
    /// ISO 4217: `EUR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// Where it is different, by the node's privacy zone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<ZoneName, ZoneGridSpec>,
}

/// What energy costs in one zone. What is not said is as everywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneGridSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carbon_intensity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_kwh: Option<f64>,
}

/// The three letters of a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

/// What something costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyCost {
    pub amount: f64,
    pub currency: Currency,
}

/// What energy costs at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GridRates {
    pub co2_grams_per_kwh: Option<f64>,
    pub price_per_kwh: Option<EnergyCost>,
}

impl GridRates {
    /// Grams of CO2 equivalent.
    #[must_use]
    pub fn co2_grams(self, Joules(joules): Joules) -> Option<f64> {
        Some(self.co2_grams_per_kwh? * f64::from(joules) / KWH)
    }

    /// What they cost.
    #[must_use]
    pub fn cost(self, Joules(joules): Joules) -> Option<EnergyCost> {
        let rate = self.price_per_kwh?;
        Some(EnergyCost {
            amount: rate.amount * f64::from(joules) / KWH,
            currency: rate.currency,
        })
    }
}

/// What energy costs, ready to be asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    everywhere: GridRates,
    zones: BTreeMap<ZoneName, GridRates>,
}

impl Grid {
    /// What a spec says.
    #[must_use]
    pub fn new(spec: &GridSpec) -> Self {
        let priced = |amount: Option<f64>| {
            let (amount, currency) = amount.zip(spec.currency)?;
            Some(EnergyCost { amount, currency })
        };
        let zone = |zone: &ZoneGridSpec| GridRates {
            co2_grams_per_kwh: zone.carbon_intensity.or(spec.carbon_intensity),
            price_per_kwh: priced(zone.price_per_kwh.or(spec.price_per_kwh)),
        };
        let zones = spec.zones.iter();
        Self {
            everywhere: zone(&ZoneGridSpec::default()),
            zones: zones
                .map(|(name, told)| (name.clone(), zone(told)))
                .collect(),
        }
    }

    /// What it costs where a node of this zone is.
    #[must_use]
    pub fn rates(&self, zone: Option<&ZoneName>) -> GridRates {
        let own = zone.and_then(|zone| self.zones.get(zone));
        own.copied().unwrap_or(self.everywhere)
    }

    /// The currency of its prices, if there are any.
    #[must_use]
    pub fn currency(&self) -> Option<Currency> {
        let all = std::iter::once(&self.everywhere).chain(self.zones.values());
        all.filter_map(|rates| rates.price_per_kwh)
            .map(|price| price.currency)
            .next()
    }
}

impl GridSpec {
    /// What is wrong with it: the field and why.
    pub(crate) fn faults(&self) -> Vec<(String, &'static str)> {
        let mut faults = Vec::new();
        let mut check = |field: String, value: Option<f64>, most: f64| {
            if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
                faults.push((field, "must be 0 or more, and an amount that there is"));
            }
        };
        // Coal, the worst there is, is about 1,000 g/kWh (IPCC AR5, Annex III).
        check("carbonIntensity".into(), self.carbon_intensity, 5000.0);
        check("pricePerKwh".into(), self.price_per_kwh, 1e6);
        for (name, zone) in &self.zones {
            check(
                format!("zones.{name}.carbonIntensity"),
                zone.carbon_intensity,
                5000.0,
            );
            check(format!("zones.{name}.pricePerKwh"), zone.price_per_kwh, 1e6);
        }
        let priced = self.price_per_kwh.is_some()
            || self.zones.values().any(|zone| zone.price_per_kwh.is_some());
        if priced && self.currency.is_none() {
            faults.push((
                "currency".into(),
                "must say what pricePerKwh is in: EUR, say",
            ));
        }
        faults
    }
}

impl Currency {
    /// Its letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It is made of capital letters only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::str::FromStr for Currency {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            [a, b, c] if text.bytes().all(|letter| letter.is_ascii_uppercase()) => {
                Ok(Self([*a, *b, *c]))
            }
            _ => Err("must be the three capital letters of a currency: EUR, USD"),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_its_own_rates_and_the_rest_is_as_everywhere() {
        let spec: GridSpec = serde_json::from_value(serde_json::json!({
            "carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR",
            "zones": {"clinic": {"carbonIntensity": 36.0}},
        }))
        .unwrap();
        assert!(spec.faults().is_empty());
        let grid = Grid::new(&spec);
        let clinic = ZoneName::new("clinic").unwrap();
        let joules = Joules(10_000.0);
        assert!((grid.rates(None).co2_grams(joules).unwrap() - 1.0).abs() < 1e-9);
        assert!((grid.rates(Some(&clinic)).co2_grams(joules).unwrap() - 0.1).abs() < 1e-9);
        let price = grid.rates(Some(&clinic)).cost(joules).unwrap();
        assert!((price.amount - 0.001).abs() < 1e-12);
        assert_eq!(price.currency.as_str(), "EUR");
        assert_eq!(Grid::default().rates(None).cost(joules), None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let spec: GridSpec = serde_json::from_value(serde_json::json!({
            "carbonIntensity": -1.0, "zones": {"z": {"pricePerKwh": 0.1}},
        }))
        .unwrap();
        let fields: Vec<_> = spec.faults().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["carbonIntensity", "currency"]);
        for bad in ["eur", "EURO", "€", "E1R"] {
            assert!(bad.parse::<Currency>().is_err(), "{bad}");
        }
    }
}
