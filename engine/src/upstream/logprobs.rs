//! Log-probabilities in OpenAI's two formats. Every field may be missing or null.

use std::collections::BTreeMap;

use flotilla_core::generate::{TokenLogprob, TopLogprob};
use serde::Deserialize;

/// Log-probabilities. A chat completion has `content`, a text completion the parallel lists.
#[derive(Deserialize)]
pub(super) struct LogprobsField {
    content: Option<Vec<TokenField>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<Alternatives>>>,
}

/// The log-probabilities of alternatives, by their text.
type Alternatives = BTreeMap<String, Option<f32>>;

/// A token with its alternatives, or an alternative.
#[derive(Deserialize)]
struct TokenField {
    token: Option<String>,
    logprob: Option<f32>,
    bytes: Option<Vec<u8>>,
    top_logprobs: Option<Vec<TokenField>>,
}

impl LogprobsField {
    pub(super) fn into_tokens(self) -> Vec<TokenLogprob> {
        if let Some(content) = self.content {
            return content.into_iter().map(TokenField::into_token).collect();
        }
        let mut logprobs = self.token_logprobs.unwrap_or_default().into_iter();
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let tokens = self.tokens.unwrap_or_default().into_iter();
        let tokens = tokens.map(|token| {
            let top = tops.next().flatten().unwrap_or_default().into_iter();
            TokenLogprob {
                token,
                logprob: logprobs.next().flatten().unwrap_or_default(),
                top: top
                    .map(|(token, logprob)| TopLogprob {
                        token,
                        logprob: logprob.unwrap_or_default(),
                        bytes: Vec::new(),
                    })
                    .collect(),
                bytes: Vec::new(),
            }
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
            top: top.map(Self::into_alternative).collect(),
            bytes: self.bytes.unwrap_or_default(),
        }
    }

    fn into_alternative(self) -> TopLogprob {
        TopLogprob {
            token: self.token.unwrap_or_default(),
            logprob: self.logprob.unwrap_or_default(),
            bytes: self.bytes.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_tokens_are_kept_and_nulls_are_none() {
        let field: LogprobsField = serde_json::from_str(
            r#"{"refusal": null, "tokens": null, "content": [
                {"token": "�", "logprob": -0.5, "bytes": [226, 130], "top_logprobs": [
                    {"token": "�", "logprob": -0.5, "bytes": [226, 130]},
                    {"token": "a", "logprob": null, "bytes": null}]},
                {"token": "b", "logprob": -1, "bytes": null, "top_logprobs": null}]}"#,
        )
        .unwrap();
        let tokens = field.into_tokens();
        assert_eq!(
            (&*tokens[0].bytes, tokens[0].logprob),
            (&[226, 130][..], -0.5)
        );
        assert_eq!(tokens[0].top[0].bytes, [226, 130]);
        assert!(tokens[0].top[1].bytes.is_empty() && tokens[1].top.is_empty());
    }

    #[test]
    fn lists_of_a_text_completion_may_have_different_lengths() {
        let field: LogprobsField = serde_json::from_str(
            r#"{"tokens": ["a", "b"], "token_logprobs": [null], "top_logprobs": [null, {"b": -1.0}]}"#,
        )
        .unwrap();
        let tokens = field.into_tokens();
        assert_eq!((tokens[0].logprob, tokens[1].logprob), (0.0, 0.0));
        assert_eq!((tokens[0].top.len(), tokens[1].top.len()), (0, 1));
    }
}
