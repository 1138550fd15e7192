//! The sampling fields of a request, shared by chat and text completions.

use std::collections::BTreeMap;

use flotilla_core::generate::sampling_ranges::{
    MAX_STOPS, PENALTY, PROBABILITY, REPETITION_PENALTY, TEMPERATURE,
};
use flotilla_core::generate::{RequestError, SamplingParams};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::range::check_range;

/// Maximum number of choices per request.
pub(crate) const MAX_CHOICES: u32 = 128;

/// OpenAI's sampling fields, and three that vLLM, the llama.cpp server and others add: `top_k`,
/// `min_p` and `repetition_penalty`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct SamplingFields {
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    n: Option<u32>,
    seed: Option<i64>,
    stop: Option<StopField>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
}

/// One stop text, or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a string or an array of strings")]
enum StopField {
    One(String),
    Many(Vec<String>),
}

impl SamplingFields {
    /// Returns the number of requested answers.
    pub(crate) fn choices(&self) -> Result<u32, RequestError> {
        check_range("n", self.n.unwrap_or(1), 1..=MAX_CHOICES)
    }

    /// Validates the fields. `max_tokens` is the limit together with the
    /// name of its field, which differs between endpoints.
    pub(crate) fn validate(
        self,
        max_tokens: Option<(&str, u32)>,
    ) -> Result<SamplingParams, RequestError> {
        let stop = self.stop.map(|stop| match stop {
            // As in OpenAI's API, an empty text is no stop text.
            StopField::One(text) if text.is_empty() => Vec::new(),
            StopField::One(text) => vec![text],
            StopField::Many(texts) => texts,
        });
        if stop.as_ref().is_some_and(|texts| texts.len() > MAX_STOPS) {
            let message = format!("'stop' takes at most {MAX_STOPS} texts.");
            return Err(RequestError::invalid("stop", message));
        }
        if stop.iter().flatten().any(String::is_empty) {
            return Err(RequestError::invalid(
                "stop",
                "A stop text must not be empty.",
            ));
        }
        let mut logit_bias = BTreeMap::new();
        for (token, bias) in self.logit_bias.unwrap_or_default() {
            let id: u32 = token.parse().map_err(|_| {
                let message =
                    format!("The keys of 'logit_bias' must be token ids, '{token}' is not one.");
                RequestError::invalid("logit_bias", message)
            })?;
            logit_bias.insert(id, check_range("logit_bias", bias, -100.0..=100.0)?);
        }
        let top_k = match self.top_k {
            None => None,
            // vLLM and llama.cpp use -1 and 0 for "all tokens".
            Some(-1 | 0) => Some(0),
            Some(k) => Some(check_range("top_k", k, 1..=i64::from(u32::MAX))? as u32),
        };
        Ok(SamplingParams {
            temperature: optional("temperature", self.temperature, TEMPERATURE)?,
            top_p: optional("top_p", self.top_p, PROBABILITY)?,
            top_k,
            min_p: optional("min_p", self.min_p, PROBABILITY)?,
            seed: self.seed,
            max_tokens: max_tokens
                .map(|(field, tokens)| check_range(field, tokens, 1..=u32::MAX))
                .transpose()?,
            stop,
            frequency_penalty: optional("frequency_penalty", self.frequency_penalty, PENALTY)?,
            presence_penalty: optional("presence_penalty", self.presence_penalty, PENALTY)?,
            repetition_penalty: optional(
                "repetition_penalty",
                self.repetition_penalty,
                REPETITION_PENALTY,
            )?,
            logit_bias,
        })
    }
}

/// Checks the range of a field that may be missing.
fn optional<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: Option<T>,
    range: std::ops::RangeInclusive<T>,
) -> Result<Option<T>, RequestError> {
    value
        .map(|value| check_range(field, value, range))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(json: &str) -> Result<SamplingParams, String> {
        let fields: SamplingFields = serde_json::from_str(json).unwrap();
        fields.validate(None).map_err(|e| e.to_string())
    }

    #[test]
    fn omitted_fields_are_left_to_the_model() {
        assert_eq!(validate("{}"), Ok(SamplingParams::default()));
        assert_eq!(
            validate(r#"{"temperature": null, "stop": null}"#),
            Ok(SamplingParams::default())
        );
    }

    #[test]
    fn error_names_the_field_out_of_range() {
        for json in [
            r#"{"temperature": 2.1}"#,
            r#"{"top_p": -0.1}"#,
            r#"{"top_k": -7}"#,
            r#"{"min_p": 2}"#,
            r#"{"frequency_penalty": 3}"#,
            r#"{"presence_penalty": -3}"#,
            r#"{"logit_bias": {"x": 1}}"#,
            r#"{"logit_bias": {"1": 101}}"#,
            r#"{"stop": ["a", ""]}"#,
        ] {
            let field = json.split('"').nth(1).unwrap();
            let error = serde_json::from_str::<SamplingFields>(json)
                .unwrap()
                .validate(None)
                .unwrap_err();
            let RequestError::Invalid { param, .. } = error else {
                panic!("{json}: {error:?}");
            };
            assert_eq!(param.as_deref(), Some(field), "{json}");
        }
    }

    #[test]
    fn stop_accepts_a_single_text() {
        assert_eq!(
            validate(r#"{"stop": "x"}"#).unwrap().stop,
            Some(vec!["x".into()])
        );
        assert_eq!(validate(r#"{"stop": ""}"#).unwrap().stop, Some(Vec::new()));
    }
}
