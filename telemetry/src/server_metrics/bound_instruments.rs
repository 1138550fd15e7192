//! The instruments of one combination of labels.

use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram};

use super::{RequestLabels, RequestStats, ServerMetrics};
use crate::names::{OTHER, attr};

/// Instruments that are bound to one combination of labels. Recording with them skips the SDK's
/// lookup of the labels.
#[derive(Debug)]
pub(super) struct BoundInstruments {
    duration: BoundHistogram<f64>,
    time_to_first_token: BoundHistogram<f64>,
    time_per_output_token: BoundHistogram<f64>,
    input_tokens: BoundHistogram<u64>,
    output_tokens: BoundHistogram<u64>,
    energy: BoundHistogram<f64>,
    /// Bound on first use, because a bound counter is exported even when it is 0.
    emissions: OnceLock<BoundCounter<f64>>,
    cost: OnceLock<BoundCounter<f64>>,
    emissions_attributes: Vec<KeyValue>,
    cost_attributes: Vec<KeyValue>,
}

impl BoundInstruments {
    pub(super) fn new(metrics: &ServerMetrics, labels: RequestLabels<'_>) -> Self {
        let gen_ai = labels.gen_ai_attributes();
        let with_token_type = |token_type: &'static str| {
            let mut attributes = gen_ai.clone();
            attributes.push(KeyValue::new(attr::TOKEN_TYPE, token_type));
            attributes
        };
        let emissions_attributes = vec![
            KeyValue::new(attr::MODEL, labels.model.unwrap_or(OTHER).to_owned()),
            KeyValue::new(attr::TASK, labels.task.unwrap_or_default().to_owned()),
        ];
        let mut cost_attributes = emissions_attributes.clone();
        let currency = labels.currency.unwrap_or_default().to_owned();
        cost_attributes.push(KeyValue::new(attr::CURRENCY, currency));
        let mut energy_attributes = emissions_attributes.clone();
        energy_attributes.push(KeyValue::new(
            attr::ENERGY_SOURCE,
            labels.energy_source.to_owned(),
        ));
        Self {
            duration: metrics.duration.bind(&gen_ai),
            time_to_first_token: metrics.time_to_first_token.bind(&gen_ai),
            time_per_output_token: metrics.time_per_output_token.bind(&gen_ai),
            input_tokens: metrics.tokens.bind(&with_token_type("input")),
            output_tokens: metrics.tokens.bind(&with_token_type("output")),
            energy: metrics.energy.bind(&energy_attributes),
            emissions: OnceLock::new(),
            cost: OnceLock::new(),
            emissions_attributes,
            cost_attributes,
        }
    }

    /// Records a request that succeeded.
    pub(super) fn record(&self, metrics: &ServerMetrics, stats: &RequestStats) {
        self.duration.record(stats.duration.as_secs_f64());
        if let Some(time) = stats.time_to_first_token {
            self.time_to_first_token.record(time.as_secs_f64());
        }
        if let Some(time) = stats.time_per_output_token() {
            self.time_per_output_token.record(time.as_secs_f64());
        }
        self.input_tokens.record(stats.input_tokens);
        if stats.output_tokens > 0 {
            self.output_tokens.record(stats.output_tokens);
        }
        self.record_energy(metrics, stats);
    }

    /// Records the energy, emissions and cost of a request, whether it succeeded or not.
    pub(super) fn record_energy(&self, metrics: &ServerMetrics, stats: &RequestStats) {
        self.energy.record(stats.joules);
        if let Some(grams) = stats.co2_grams {
            let bind = || metrics.emissions.bind(&self.emissions_attributes);
            self.emissions.get_or_init(bind).add(grams);
        }
        if let Some(cost) = stats.cost {
            let bind = || metrics.cost.bind(&self.cost_attributes);
            self.cost.get_or_init(bind).add(cost);
        }
    }
}
