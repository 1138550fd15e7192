//! The carbon intensity and price of electricity, by privacy zone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer, de};
use serde_json::json;

use crate::{Joules, ZoneName};

/// Joules in a kilowatt hour.
const KWH: f64 = 3.6e6;

/// Carbon intensity and price of a fleet's electricity: the `grid` of the router resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = add_currency_rule)]
pub struct GridSpec {
    /// Carbon intensity, 0 to 5000. Default: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 5000.0), extend("x-unit" = "g CO2e per kWh"))]
    pub carbon_intensity: Option<f64>,
    /// The price of a kilowatt hour, in `currency`. Default: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1e6), extend("x-unit" = "currency per kWh"))]
    pub price_per_kwh: Option<f64>,
    /// The currency by its ISO 4217 code, such as `EUR`. Required with a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// Carbon intensity and price of single privacy zones, where they differ. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<ZoneName, ZoneGridSpec>,
}

/// Adds the rule that a price of the fleet has a currency.
fn add_currency_rule(schema: &mut Schema) {
    let rule = json!({
        "if": { "required": ["pricePerKwh"], "properties": { "pricePerKwh": { "type": "number" } } },
        "then": { "required": ["currency"], "properties": { "currency": { "type": "string" } } },
    });
    schema.insert("allOf".into(), json!([rule]));
}

/// Carbon intensity and price in a privacy zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneGridSpec {
    /// Carbon intensity in the zone, 0 to 5000. Default: that of the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 5000.0), extend("x-unit" = "g CO2e per kWh"))]
    pub carbon_intensity: Option<f64>,
    /// The price of a kilowatt hour, in the currency of the fleet. Default: that of the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1e6), extend("x-unit" = "currency per kWh"))]
    pub price_per_kwh: Option<f64>,
}

/// A currency by the three capital letters of its ISO 4217 code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

/// An amount of money.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnergyCost {
    /// The amount, in units of the currency.
    pub amount: f64,
    /// The currency.
    pub currency: Currency,
}

/// Carbon intensity and price of the electricity of a node. `None` is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GridRates {
    /// Grams of CO2 equivalent per kilowatt hour.
    pub co2_grams_per_kwh: Option<f64>,
    /// The price of a kilowatt hour.
    pub price_per_kwh: Option<EnergyCost>,
}

impl GridRates {
    /// Grams of CO2 equivalent of this energy.
    #[must_use]
    pub fn co2_grams(self, Joules(joules): Joules) -> Option<f64> {
        Some(self.co2_grams_per_kwh? * f64::from(joules) / KWH)
    }

    /// The price of this energy.
    #[must_use]
    pub fn cost(self, Joules(joules): Joules) -> Option<EnergyCost> {
        let rate = self.price_per_kwh?;
        Some(EnergyCost {
            amount: rate.amount * f64::from(joules) / KWH,
            currency: rate.currency,
        })
    }
}

/// Carbon intensity and prices by privacy zone, ready for look-ups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// The rates of nodes whose zone has no rates of its own.
    default: GridRates,
    zones: BTreeMap<ZoneName, GridRates>,
}

impl Grid {
    /// The rates that a spec states.
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
            default: zone(&ZoneGridSpec::default()),
            zones: zones
                .map(|(name, spec)| (name.clone(), zone(spec)))
                .collect(),
        }
    }

    /// The rates for nodes in these zones: those of the first zone, by name, that has rates of its own.
    #[must_use]
    pub fn rates(&self, zones: &BTreeSet<ZoneName>) -> GridRates {
        let own = zones.iter().find_map(|zone| self.zones.get(zone));
        own.copied().unwrap_or(self.default)
    }

    /// The currency of the prices. `None` without prices.
    #[must_use]
    pub fn currency(&self) -> Option<Currency> {
        let all = std::iter::once(&self.default).chain(self.zones.values());
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
    /// The ISO 4217 code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes are ASCII letters only.
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

impl JsonSchema for Currency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Currency".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z]{3}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_overrides_the_rates_of_the_fleet() {
        let spec: GridSpec = serde_json::from_value(serde_json::json!({
            "carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR",
            "zones": {"clinic": {"carbonIntensity": 36.0}},
        }))
        .unwrap();
        assert!(spec.faults().is_empty());
        let grid = Grid::new(&spec);
        let zone = |name| ZoneName::new(name).unwrap();
        let clinic = [zone("clinic")].into();
        let none = BTreeSet::new();
        let joules = Joules(10_000.0);
        assert!((grid.rates(&none).co2_grams(joules).unwrap() - 1.0).abs() < 1e-9);
        assert!((grid.rates(&clinic).co2_grams(joules).unwrap() - 0.1).abs() < 1e-9);
        // A zone without rates of its own changes nothing.
        let several = [zone("a"), zone("clinic")].into();
        assert_eq!(grid.rates(&several), grid.rates(&clinic));
        let price = grid.rates(&clinic).cost(joules).unwrap();
        assert!((price.amount - 0.001).abs() < 1e-12);
        assert_eq!(price.currency.as_str(), "EUR");
        assert_eq!(Grid::default().rates(&none).cost(joules), None);
    }

    #[test]
    fn invalid_fields_are_reported() {
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
