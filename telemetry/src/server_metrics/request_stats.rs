//! The labels and the statistics of one request.

use std::time::Duration;

use opentelemetry::KeyValue;

use crate::names::{OTHER, PROVIDER, attr};

/// The attributes that the metrics of a request are recorded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestLabels<'a> {
    /// `chat`, `text_completion` or `embeddings`.
    pub operation: &'static str,
    /// The value of the request's `model` field. `None` when the fleet does not know it, so that
    /// clients cannot create time series.
    pub requested_model: Option<&'a str>,
    /// The model that answered. `None` when no model did.
    pub model: Option<&'a str>,
    /// The task of the request. `None` when it has none.
    pub task: Option<&'a str>,
    /// Sources of the energy, for example `rapl+nvml` or `estimate`.
    pub energy_source: &'a str,
    /// ISO 4217 code of the price. `None` when no price is configured.
    pub currency: Option<&'a str>,
}

impl RequestLabels<'_> {
    /// Returns the attributes of the `gen_ai.*` metrics.
    pub(super) fn gen_ai_attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(attr::OPERATION, self.operation),
            KeyValue::new(attr::PROVIDER, PROVIDER),
            KeyValue::new(
                attr::REQUEST_MODEL,
                self.requested_model.unwrap_or(OTHER).to_owned(),
            ),
        ];
        if let Some(model) = self.model {
            attributes.push(KeyValue::new(attr::RESPONSE_MODEL, model.to_owned()));
        }
        attributes
    }
}

/// Time, tokens, energy and cost of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestStats {
    /// Time from the request's arrival to the end of its answer.
    pub duration: Duration,
    /// Value of `error.type`. `None` for a request that succeeded.
    pub error_type: Option<&'static str>,
    /// Time from the request's arrival to its first token. `None` when there was no token.
    pub time_to_first_token: Option<Duration>,
    /// Time the node spent generating after the first token. `None` when the node did not report
    /// it.
    pub decode_time: Option<Duration>,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Energy above what the nodes draw at idle, in joules.
    pub joules: f64,
    /// Emissions in grams of CO2 equivalent. `None` when no carbon intensity is configured.
    pub co2_grams: Option<f64>,
    /// Price of the energy in the labels' currency. `None` when no price is configured.
    pub cost: Option<f64>,
}

impl RequestStats {
    /// Returns the mean time per token after the first one. `None` with fewer than two tokens, or
    /// when the time of the first token is not known.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let tokens = self.output_tokens.checked_sub(1).filter(|n| *n > 0)?;
        let since_first = || self.duration.checked_sub(self.time_to_first_token?);
        let decode_time = self.decode_time.or_else(since_first)?;
        Some(decode_time.div_f64(tokens as f64))
    }
}
