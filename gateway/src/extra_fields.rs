//! Fields of a request that only upstream servers know.
//!
//! Flotilla does not read them, and a server gets them as the client sent them. Only the fields of
//! [`EXTRA_FIELDS`] are passed on: a server may refuse what it does not know, and some fields would let a
//! client reach past the fleet, such as vLLM's `priority`, llama.cpp's `n_predict` and `id_slot`, or a
//! `chat_template` of its own.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The fields that are passed on to upstream servers, in the order of their names.
const EXTRA_FIELDS: [&str; 59] = [
    "add_generation_prompt",
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "cache_prompt",
    "cache_salt",
    "continue_final_message",
    "documents",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "json_schema",
    "length_penalty",
    "metadata",
    "min_keep",
    "min_tokens",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "n_indent",
    "n_keep",
    "parse_tool_calls",
    "post_sampling_probs",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning",
    "reasoning_format",
    "repeat_last_n",
    "repeat_penalty",
    "safety_identifier",
    "samplers",
    "service_tier",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop_token_ids",
    "store",
    "structured_outputs",
    "t_max_predict_ms",
    "top_n_sigma",
    "truncate_prompt_tokens",
    "typical_p",
    "verbosity",
    "vllm_xargs",
    "web_search_options",
    "xtc_probability",
    "xtc_threshold",
];

/// The fields of a request that are passed on to upstream servers.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ExtraFields(Map<String, Value>);

impl ExtraFields {
    /// Returns the fields as the text of a JSON object. `None` if there are none.
    pub(crate) fn into_text(self) -> Option<String> {
        (!self.0.is_empty()).then(|| Value::Object(self.0).to_string())
    }
}

impl<'de> Deserialize<'de> for ExtraFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ExtraFieldsVisitor)
    }
}

struct ExtraFieldsVisitor;

impl<'de> Visitor<'de> for ExtraFieldsVisitor {
    type Value = ExtraFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some(FieldName(name)) = map.next_key()? {
            if EXTRA_FIELDS.binary_search(&&*name).is_err() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value: Value = map.next_value()?;
            if !value.is_null() {
                fields.insert(name.into_owned(), value);
            }
        }
        Ok(ExtraFields(fields))
    }
}

/// The name of a field, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_fields_are_passed_on() {
        let fields = |json: &str| {
            let fields: ExtraFields = serde_json::from_str(json).unwrap();
            fields.into_text()
        };
        let json = r#"{"model": "m", "grammar": "root ::= x", "min_tokens": 3, "priority": 1,
            "n_predict": 9, "metadata": {"a": [1.5]}, "store": null, "mirostat\u005ftau": 5.0}"#;
        let text = fields(json).unwrap();
        let passed: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "grammar": "root ::= x", "min_tokens": 3, "metadata": {"a": [1.5]}, "mirostat_tau": 5.0,
        });
        assert_eq!(passed, expected);
        assert_eq!(fields(r#"{"model": "m", "store": null}"#), None);
    }

    #[test]
    fn list_is_sorted_and_documented() {
        assert!(EXTRA_FIELDS.is_sorted());
        let reference = include_str!("../../docs/reference/http-api.md");
        let missing = EXTRA_FIELDS.map(|field| format!("`{field}`"));
        let missing: Vec<_> = missing
            .into_iter()
            .filter(|field| !reference.contains(field))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
