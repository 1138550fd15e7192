//! The field `prompt` of completions and `input` of embeddings: one or several texts or arrays of token
//! ids.

use std::borrow::Cow;
use std::fmt;

use flotilla_core::generate::{RequestError, RouteTarget};
use flotilla_core::json::exact_integer;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde_json::json;

const EXPECTED: &str =
    "a string, an array of strings, an array of token ids or an array of such arrays";

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PromptInput {
    Text(String),
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<u32>),
}

/// The inputs of a request, as the client sent them.
#[derive(Debug)]
pub(crate) struct PromptInputs(Vec<PromptInput>);

impl PromptInputs {
    /// Returns the inputs of the request's `field` for `target`.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] without an input, with more than `max_inputs` of them, with an empty one,
    /// or with token ids for a request that does not name its model.
    pub(crate) fn validate(
        self,
        field: &str,
        max_inputs: usize,
        target: &RouteTarget,
    ) -> Result<Vec<PromptInput>, RequestError> {
        let is_empty = |input: &PromptInput| match input {
            PromptInput::Text(text) => text.is_empty(),
            PromptInput::Tokens(tokens) => tokens.is_empty(),
        };
        if self.0.is_empty() || self.0.len() > max_inputs || self.0.iter().any(is_empty) {
            return Err(RequestError::invalid(
                field,
                format!(
                    "'{field}' must be a text or an array of token ids, or 1 to {max_inputs} of them, none of them empty."
                ),
            ));
        }
        let has_tokens = self.0.iter().any(|i| matches!(i, PromptInput::Tokens(_)));
        if has_tokens && !matches!(target, RouteTarget::Model(_)) {
            return Err(RequestError::invalid(
                field,
                format!(
                    "Token ids belong to the vocabulary of one model: name that model instead of '{target}', or send texts."
                ),
            ));
        }
        Ok(self.0)
    }
}

impl JsonSchema for PromptInputs {
    fn schema_name() -> Cow<'static, str> {
        "PromptInputs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json!({"type": "string", "minLength": 1});
        let token = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        let tokens = json!({"type": "array", "items": token, "minItems": 1});
        json_schema!({"anyOf": [
            text,
            {"type": "array", "items": text, "minItems": 1},
            tokens,
            {"type": "array", "items": tokens, "minItems": 1},
        ]})
    }
}

impl<'de> Deserialize<'de> for PromptInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputsVisitor;

        impl<'de> Visitor<'de> for InputsVisitor {
            type Value = PromptInputs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PromptInputs, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: Error>(self, text: String) -> Result<PromptInputs, E> {
                Ok(PromptInputs(vec![PromptInput::Text(text)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptInputs, A::Error> {
                let mixed = || {
                    A::Error::custom(
                        "the elements must all be strings, token ids, or arrays of token ids",
                    )
                };
                let mut inputs = Vec::new();
                let mut tokens = Vec::new();
                while let Some(element) = seq.next_element()? {
                    match element {
                        InputElement::Token(token) if inputs.is_empty() => tokens.push(token),
                        InputElement::Input(input) if tokens.is_empty() => {
                            let same_kind = |first: &PromptInput| {
                                std::mem::discriminant(first) == std::mem::discriminant(&input)
                            };
                            if !inputs.first().is_none_or(same_kind) {
                                return Err(mixed());
                            }
                            inputs.push(input);
                        }
                        _ => return Err(mixed()),
                    }
                }
                if !tokens.is_empty() {
                    inputs.push(PromptInput::Tokens(tokens));
                }
                Ok(PromptInputs(inputs))
            }
        }

        deserializer.deserialize_any(InputsVisitor)
    }
}

/// An element of the outer array.
enum InputElement {
    Token(u32),
    Input(PromptInput),
}

impl<'de> Deserialize<'de> for InputElement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = InputElement;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, a token id or an array of token ids")
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<InputElement, E> {
                let id = u32::try_from(id);
                id.map(InputElement::Token)
                    .map_err(|_| E::custom("a token id must be at most 4294967295"))
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<InputElement, E> {
                match u64::try_from(id) {
                    Ok(id) => self.visit_u64(id),
                    Err(_) => Err(E::custom("a token id must not be negative")),
                }
            }

            fn visit_f64<E: Error>(self, id: f64) -> Result<InputElement, E> {
                match exact_integer(id) {
                    Some(id) => self.visit_i64(id),
                    None => Err(E::invalid_type(Unexpected::Float(id), &self)),
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<InputElement, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: Error>(self, text: String) -> Result<InputElement, E> {
                Ok(InputElement::Input(PromptInput::Text(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<InputElement, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(InputElement::Input(PromptInput::Tokens(tokens)))
            }
        }

        deserializer.deserialize_any(ElementVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::json::ClientJson;
    use flotilla_core::{ModelName, TaskName};

    fn parse(json: &str) -> Result<Vec<PromptInput>, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        PromptInputs::deserialize(ClientJson(&mut deserializer))
            .map(|PromptInputs(inputs)| inputs)
            .map_err(|error| error.to_string())
    }

    fn text(text: &str) -> PromptInput {
        PromptInput::Text(text.into())
    }

    #[test]
    fn inputs_are_texts_or_arrays_of_token_ids() {
        let tokens = |ids: &[u32]| PromptInput::Tokens(ids.to_vec());
        assert_eq!(parse(r#""a""#).unwrap(), [text("a")]);
        assert_eq!(parse(r#"["a", "b"]"#).unwrap(), [text("a"), text("b")]);
        assert_eq!(parse("[1, 2.0]").unwrap(), [tokens(&[1, 2])]);
        assert_eq!(
            parse("[[1, 2], [3.0]]").unwrap(),
            [tokens(&[1, 2]), tokens(&[3])]
        );
        assert_eq!(parse("[]").unwrap(), []);
        for json in [
            "1",
            "null",
            "{}",
            r#"["a", 1]"#,
            r#"[1, "a"]"#,
            r#"["a", [1]]"#,
            r#"[[1], "a"]"#,
            "[[1], 2]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[[[1]]]",
            r#"[["a"]]"#,
            "[null]",
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn inputs_are_bounded_and_tokens_need_their_model() {
        let model = RouteTarget::Model(ModelName::new("m").unwrap());
        let validate = |json: &str, target: &RouteTarget| {
            PromptInputs(parse(json).unwrap())
                .validate("input", 2, target)
                .map(|inputs| inputs.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(validate("[[1], [2]]", &model), Ok(2));
        for json in ["[]", r#""""#, "[[]]", r#"["a", ""]"#, "[[1], [2], [3]]"] {
            assert!(validate(json, &model).is_err(), "{json}");
        }
        let task = RouteTarget::Task(TaskName::new("t").unwrap());
        for target in [RouteTarget::Auto, task] {
            assert!(validate("[1]", &target).is_err());
            assert_eq!(validate(r#""a""#, &target), Ok(1));
        }
    }
}
