//! What an answer took, as clients are told it.

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::Usage;
use serde::Serialize;

/// Token counts as in OpenAI's API, and the energy.
#[derive(Serialize)]
pub(crate) struct UsageJson {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<EnergyJson>,
}

/// The energy of an answer, beyond what its nodes draw idle: `usage.energy`.
#[derive(Serialize)]
pub(crate) struct EnergyJson {
    joules: f32,
    /// Where they come from: `rapl+nvml`, `estimate`.
    source: &'static str,
    /// Whether no part is estimated.
    measured: bool,
    /// Grams of CO2 equivalent, where the grid's intensity is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    co2_grams: Option<f64>,
    /// Where the price of energy is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
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
    fn from(spent: EnergyUsage) -> Self {
        Self {
            joules: spent.joules.0,
            source: spent.sources.as_str(),
            measured: spent.sources.is_measured(),
            co2_grams: spent.co2_grams,
            cost: spent.cost.map(|price| price.amount),
            currency: spent.cost.map(|price| price.currency.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::Joules;
    use flotilla_core::energy::{EnergySource, Grid, GridSpec};
    use serde_json::json;

    #[test]
    fn energy_is_told_with_its_source_and_what_it_costs() {
        let grid: GridSpec = serde_json::from_value(json!({
            "carbonIntensity": 360.0, "pricePerKwh": 0.36, "currency": "EUR",
        }))
        .unwrap();
        let rates = Grid::new(&grid).rates(None);
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            energy: Some(
                EnergyUsage::new(Joules(2.5), EnergySource::Rapl.into()).with_rates(rates),
            ),
            ..Usage::default()
        };
        let told = serde_json::to_value(UsageJson::from(usage)).unwrap();
        assert_eq!(told["total_tokens"], 7);
        let energy = &told["energy"];
        assert_eq!(
            (&energy["joules"], &energy["source"]),
            (&json!(2.5), &json!("rapl"))
        );
        assert_eq!(
            (&energy["measured"], &energy["currency"]),
            (&json!(true), &json!("EUR"))
        );
        assert!(energy["co2_grams"].as_f64().unwrap() > 0.0);
        let none = serde_json::to_value(UsageJson::from(Usage::default())).unwrap();
        assert!(none.get("energy").is_none(), "{none}");
    }
}
