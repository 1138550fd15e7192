//! Sampling parameters as clients send them, shared by chat and text completions.

use std::collections::BTreeMap;

use flotilla_core::generate::{RequestError, SamplingParams};
use serde::Deserialize;

use crate::number::within;

/// Most stop texts of one request.
const MAX_STOPS: usize = 16;
/// Most choices of one request.
const MAX_CHOICES: u32 = 128;

/// The fields of OpenAI's API that steer sampling, and three that vLLM, llama.cpp server and
/// others added: `top_k`, `min_p`, `repetition_penalty`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct SamplingFields {
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    n: Option<u32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
}

/// One stop text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string or an array of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl SamplingFields {
    /// How many answers are wanted.
    pub(crate) fn choices(&self) -> Result<u32, RequestError> {
        within("n", self.n.unwrap_or(1), 1..=MAX_CHOICES)
    }

    /// Checks the fields. `max_tokens` comes with the name of the field it was in.
    pub(crate) fn check(
        self,
        max_tokens: Option<(&str, u32)>,
    ) -> Result<SamplingParams, RequestError> {
        let defaults = SamplingParams::default();
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        if stop.len() > MAX_STOPS {
            let message = format!("'stop' takes at most {MAX_STOPS} texts.");
            return Err(RequestError::invalid("stop", message));
        }
        if stop.iter().any(String::is_empty) {
            return Err(RequestError::invalid(
                "stop",
                "A stop text must not be empty.",
            ));
        }
        let mut logit_bias = BTreeMap::new();
        for (token, bias) in self.logit_bias.unwrap_or_default() {
            let id: u32 = token.parse().map_err(|_| {
                let message = format!("'logit_bias' takes token ids as keys, '{token}' is none.");
                RequestError::invalid("logit_bias", message)
            })?;
            logit_bias.insert(id, within("logit_bias", bias, -100.0..=100.0)?);
        }
        let top_k = match self.top_k {
            // -1 and 0 are the field's words for "all".
            None | Some(-1 | 0) => None,
            Some(k) => Some(within("top_k", k, 1..=i64::from(u32::MAX))? as u32),
        };
        Ok(SamplingParams {
            temperature: self.temperature.map_or(Ok(defaults.temperature), |t| {
                within("temperature", t, 0.0..=2.0)
            })?,
            top_p: self
                .top_p
                .map_or(Ok(defaults.top_p), |p| within("top_p", p, 0.0..=1.0))?,
            top_k,
            min_p: self
                .min_p
                .map(|p| within("min_p", p, 0.0..=1.0))
                .transpose()?,
            // Any integer is a seed; its bits are.
            seed: self.seed.map(|seed| seed as u64),
            max_tokens: max_tokens
                .map(|(field, tokens)| within(field, tokens, 1..=u32::MAX))
                .transpose()?,
            stop,
            frequency_penalty: within(
                "frequency_penalty",
                self.frequency_penalty.unwrap_or_default(),
                -2.0..=2.0,
            )?,
            presence_penalty: within(
                "presence_penalty",
                self.presence_penalty.unwrap_or_default(),
                -2.0..=2.0,
            )?,
            repetition_penalty: self
                .repetition_penalty
                .map(|penalty| within("repetition_penalty", penalty, 0.01..=100.0))
                .transpose()?,
            logit_bias,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<SamplingParams, String> {
        let fields: SamplingFields = serde_json::from_str(json).unwrap();
        fields.check(None).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_given_is_the_default() {
        assert_eq!(check("{}"), Ok(SamplingParams::default()));
        assert_eq!(
            check(r#"{"temperature": null, "top_k": -1}"#),
            Ok(SamplingParams::default())
        );
    }

    #[test]
    fn each_field_out_of_range_is_named() {
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
                .check(None)
                .unwrap_err();
            let RequestError::Invalid { param, .. } = error else {
                panic!("{json}: {error:?}");
            };
            assert_eq!(param.as_deref(), Some(field), "{json}");
        }
    }

    #[test]
    fn a_stop_text_may_stand_alone() {
        assert_eq!(check(r#"{"stop": "x"}"#).unwrap().stop, ["x"]);
    }
}
