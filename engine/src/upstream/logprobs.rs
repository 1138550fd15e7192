//! Log-probabilities in OpenAI's two formats. Every field may be missing or null.

use std::fmt;

use flotilla_core::generate::{RequestError, TokenLogprob, TopLogprob};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::bounded_list::{BoundedList, too_long};
use super::error;

/// The most tokens with log-probabilities in one chunk: a chunk usually has one, a whole answer all.
const MAX_TOKENS: usize = 32 << 10;
/// The most alternatives of a token. Requests ask for up to 20; some servers add the token itself.
const MAX_ALTERNATIVES: usize = 32;

/// A list with an element for each token.
type TokenList<T> = BoundedList<T, MAX_TOKENS>;

/// Log-probabilities. A chat completion has `content`, a text completion the parallel lists.
#[derive(Deserialize)]
struct LogprobsField {
    content: Option<TokenList<TokenField>>,
    tokens: Option<TokenList<String>>,
    token_logprobs: Option<TokenList<Option<f32>>>,
    top_logprobs: Option<TokenList<Option<AlternativesField>>>,
}

/// A token with its alternatives.
#[derive(Deserialize)]
struct TokenField {
    token: Option<String>,
    logprob: Option<f32>,
    bytes: Option<Vec<u8>>,
    top_logprobs: Option<BoundedList<AlternativeField, MAX_ALTERNATIVES>>,
}

/// An alternative of a token.
#[derive(Deserialize)]
struct AlternativeField {
    token: Option<String>,
    logprob: Option<f32>,
    bytes: Option<Vec<u8>>,
}

/// The alternatives of a token of a text completion: an object of log-probabilities by their texts.
#[derive(Default)]
struct AlternativesField(Vec<TopLogprob>);

/// Parses the log-probabilities of a chunk.
///
/// # Errors
/// When they are invalid, or more than a chunk may have.
pub(super) fn parse(json: &RawValue) -> Result<Vec<TokenLogprob>, RequestError> {
    let field: LogprobsField = serde_json::from_str(json.get()).map_err(|e| {
        error::invalid(&format!("has log-probabilities that cannot be parsed: {e}"))
    })?;
    Ok(field.into_tokens())
}

/// The memory that log-probabilities take, in bytes.
pub(super) fn memory(tokens: &[TokenLogprob]) -> usize {
    let alternative = |top: &TopLogprob| size_of_val(top) + top.token.len() + top.bytes.len();
    let token = |token: &TokenLogprob| {
        let top: usize = token.top.iter().map(alternative).sum();
        size_of_val(token) + token.token.len() + token.bytes.len() + top
    };
    tokens.iter().map(token).sum()
}

impl LogprobsField {
    fn into_tokens(self) -> Vec<TokenLogprob> {
        if let Some(content) = self.content {
            return content.into_iter().map(TokenField::into_token).collect();
        }
        let mut logprobs = self.token_logprobs.unwrap_or_default().into_iter();
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let tokens = self.tokens.unwrap_or_default().into_iter();
        let tokens = tokens.map(|token| TokenLogprob {
            token,
            logprob: logprobs.next().flatten().unwrap_or_default(),
            top: tops.next().flatten().unwrap_or_default().0,
            bytes: Vec::new(),
        });
        tokens.collect()
    }
}

impl TokenField {
    fn into_token(self) -> TokenLogprob {
        let top = self.top_logprobs.unwrap_or_default().into_iter();
        TokenLogprob {
            token: self.token.unwrap_or_default(),
            logprob: self.logprob.unwrap_or_default(),
            top: top.map(AlternativeField::into_alternative).collect(),
            bytes: self.bytes.unwrap_or_default(),
        }
    }
}

impl AlternativeField {
    fn into_alternative(self) -> TopLogprob {
        TopLogprob {
            token: self.token.unwrap_or_default(),
            logprob: self.logprob.unwrap_or_default(),
            bytes: self.bytes.unwrap_or_default(),
        }
    }
}

impl<'de> Deserialize<'de> for AlternativesField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AlternativesVisitor)
    }
}

struct AlternativesVisitor;

impl<'de> Visitor<'de> for AlternativesVisitor {
    type Value = AlternativesField;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of log-probabilities by their texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<AlternativesField, A::Error> {
        let mut alternatives = Vec::new();
        while let Some((token, logprob)) = entries.next_entry::<String, Option<f32>>()? {
            if alternatives.len() >= MAX_ALTERNATIVES {
                return Err(too_long(MAX_ALTERNATIVES));
            }
            alternatives.push(TopLogprob {
                token,
                logprob: logprob.unwrap_or_default(),
                bytes: Vec::new(),
            });
        }
        Ok(AlternativesField(alternatives))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<TokenLogprob>, RequestError> {
        parse(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn bytes_of_tokens_are_kept_and_nulls_are_none() {
        let tokens = parsed(
            r#"{"refusal": null, "tokens": null, "content": [
                {"token": "�", "logprob": -0.5, "bytes": [226, 130], "top_logprobs": [
                    {"token": "�", "logprob": -0.5, "bytes": [226, 130]},
                    {"token": "a", "logprob": null, "bytes": null}]},
                {"token": "b", "logprob": -1, "bytes": null, "top_logprobs": null}]}"#,
        )
        .unwrap();
        assert_eq!(
            (&*tokens[0].bytes, tokens[0].logprob),
            (&[226, 130][..], -0.5)
        );
        assert_eq!(tokens[0].top[0].bytes, [226, 130]);
        assert!(tokens[0].top[1].bytes.is_empty() && tokens[1].top.is_empty());
    }

    #[test]
    fn lists_of_a_text_completion_may_have_different_lengths() {
        let tokens = parsed(
            r#"{"tokens": ["a", "b"], "token_logprobs": [null], "top_logprobs": [null, {"b": -1.0}]}"#,
        )
        .unwrap();
        assert_eq!((tokens[0].logprob, tokens[1].logprob), (0.0, 0.0));
        assert_eq!((tokens[0].top.len(), tokens[1].top.len()), (0, 1));
    }

    #[test]
    fn numbers_of_tokens_and_alternatives_are_bounded() {
        let list = |element: &str, count| vec![element; count].join(",");
        let fields = |max_tokens, max_alternatives| {
            let (empty, null) = (list("{}", max_tokens), list("null", max_tokens));
            let texts = list("\"\"", max_tokens);
            let alternatives = list("{}", max_alternatives);
            let by_text = list("\"\":0", max_alternatives);
            [
                format!(r#"{{"content": [{empty}]}}"#),
                format!(r#"{{"content": [{{"top_logprobs": [{alternatives}]}}]}}"#),
                format!(r#"{{"tokens": [{texts}]}}"#),
                format!(r#"{{"tokens": [], "token_logprobs": [{null}]}}"#),
                format!(r#"{{"tokens": [], "top_logprobs": [{empty}]}}"#),
                format!(r#"{{"tokens": [""], "top_logprobs": [{{{by_text}}}]}}"#),
            ]
        };
        for field in fields(MAX_TOKENS, MAX_ALTERNATIVES) {
            assert!(parsed(&field).is_ok(), "{}", &field[..30]);
        }
        for field in fields(MAX_TOKENS + 1, MAX_ALTERNATIVES + 1) {
            let error = parsed(&field).unwrap_err().to_string();
            assert!(error.contains("a list has more than"), "{error}");
        }
    }
}
