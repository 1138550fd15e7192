//! The `usage` object of an answer.

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::Usage;
use schemars::JsonSchema;
use serde::Serialize;

/// OpenAI's token counts, and the energy of the answer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct UsageJson {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<EnergyJson>,
}

/// `usage.energy`: the energy of an answer above what its nodes draw at idle.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EnergyJson {
    joules: f32,
    /// Sources of the number, for example `rapl+nvml` or `estimate`.
    source: &'static str,
    /// True when every part was measured, false when some part is an estimate.
    measured: bool,
    /// Emissions in grams of CO2 equivalent. Omitted when the carbon intensity is not configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    co2_grams: Option<f64>,
    /// Price of the energy in `currency`. Omitted when no price is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    /// ISO 4217 code of the price.
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            energy: usage.energy.map(Into::into),
        }
    }
}

impl From<EnergyUsage> for EnergyJson {
    fn from(energy: EnergyUsage) -> Self {
        Self {
            joules: energy.joules.0,
            source: energy.sources.as_str(),
            measured: energy.sources.is_measured(),
            co2_grams: energy.co2_grams,
            cost: energy.cost.map(|price| price.amount),
            currency: energy.cost.map(|price| price.currency.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use flotilla_core::Joules;
    use flotilla_core::energy::{EnergySource, Grid, GridSpec};
    use serde_json::json;

    #[test]
    fn usage_has_energy_with_its_source_and_cost() {
        let grid: GridSpec = serde_json::from_value(json!({
            "carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR",
        }))
        .unwrap();
        let rates = Grid::new(&grid).rates(&BTreeSet::new());
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            energy: Some(
                EnergyUsage::new(Joules(2.5), EnergySource::Rapl.into()).with_rates(rates),
            ),
            ..Usage::default()
        };
        let json = serde_json::to_value(UsageJson::from(usage)).unwrap();
        assert_eq!(json["total_tokens"], 7);
        let energy = &json["energy"];
        assert_eq!(
            (&energy["joules"], &energy["source"]),
            (&json!(2.5), &json!("rapl"))
        );
        assert_eq!(
            (&energy["measured"], &energy["currency"]),
            (&json!(true), &json!("EUR"))
        );
        assert!(energy["co2_grams"].as_f64().unwrap() > 0.0);
        let unmeasured = serde_json::to_value(UsageJson::from(Usage::default())).unwrap();
        assert!(unmeasured.get("energy").is_none(), "{unmeasured}");
    }
}
