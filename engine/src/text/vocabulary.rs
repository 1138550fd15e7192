//! What is known of a model's tokens without its engine thread.

use std::sync::Arc;

use flotilla_core::generate::{TokenLogprob, TopLogprob};
use llguidance::ParserFactory;
use llguidance::toktrie::TokTrie;

use super::token_sampler::SampledToken;
use crate::chat::control_tokens::ControlTokens;

/// Returns the text of a token. Special tokens have a text too; a token that is only a part of a
/// character has the replacement character.
pub(crate) type TokenText = Box<dyn Fn(u32) -> String + Send + Sync>;

/// Splits a text into tokens, as [`PromptTokenizer`](super::prompt_tokenizer::PromptTokenizer) does. `None` if
/// the text cannot be split.
pub(crate) type TokenIds = Box<dyn Fn(&str, bool) -> Option<Vec<u32>> + Send + Sync>;

/// The tokens of a model.
pub(crate) struct Vocabulary {
    pub(crate) token_text: TokenText,
    pub(crate) token_ids: TokenIds,
    /// The control tokens, which a client's texts must not have.
    pub(crate) controls: ControlTokens,
    /// Compiles grammars over the tokens. `None` if the bytes of the tokens are not known.
    pub(crate) grammars: Option<Arc<ParserFactory>>,
    /// The tokens that end an answer.
    pub(crate) end_tokens: Arc<[u32]>,
    /// Those of them that the engine does not know by itself.
    pub(crate) more_end_tokens: Vec<u32>,
}

/// The text and the bytes of a token. The bytes are empty if they are not known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenContent {
    pub(crate) text: String,
    pub(crate) bytes: Vec<u8>,
}

impl Vocabulary {
    /// Counts the tokens of a text without those that begin a prompt.
    pub(crate) fn count_tokens(&self, text: &str) -> Option<usize> {
        (self.token_ids)(text, false).map(|tokens| tokens.len())
    }

    /// Adds the texts and bytes to a token and its alternatives.
    pub(crate) fn logprob(&self, sampled: SampledToken) -> TokenLogprob {
        let alternative = |(token, logprob)| {
            let content = self.content(token);
            TopLogprob {
                token: content.text,
                bytes: content.bytes,
                logprob,
            }
        };
        let content = self.content(sampled.token);
        TokenLogprob {
            token: content.text,
            bytes: content.bytes,
            logprob: sampled.logprob,
            top: sampled.top.into_iter().map(alternative).collect(),
        }
    }

    /// Returns the content of a token.
    pub(crate) fn content(&self, token: u32) -> TokenContent {
        let grammars = self.grammars.as_ref();
        let bytes = grammars.map_or_else(Vec::new, |grammars| {
            let tokens = grammars.tok_env().tok_trie();
            let is_known = (token as usize) < tokens.vocab_size();
            visible_bytes(if is_known { tokens.token(token) } else { &[] })
        });
        match bytes.is_empty() {
            false => TokenContent {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                bytes,
            },
            true => TokenContent {
                text: (self.token_text)(token),
                bytes: Vec::new(),
            },
        }
    }
}

/// The bytes of a token without the mark that special tokens have.
fn visible_bytes(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [TokTrie::SPECIAL_TOKEN_MARKER, name @ ..] if !name.is_empty() => name.to_vec(),
        bytes => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_have_the_bytes_of_their_name() {
        assert_eq!(visible_bytes(b"\xff<|end|>"), b"<|end|>");
        // A token of the single byte 0xff is not special.
        assert_eq!(visible_bytes(b"\xff"), b"\xff");
        assert_eq!(visible_bytes(b" a"), b" a");
    }

    #[test]
    fn token_whose_bytes_are_not_known_has_its_text() {
        let vocabulary = Vocabulary {
            token_text: Box::new(|token| token.to_string()),
            token_ids: Box::new(|_, _| None),
            controls: ControlTokens::new(&[]),
            grammars: None,
            end_tokens: Arc::new([]),
            more_end_tokens: Vec::new(),
        };
        let content = TokenContent {
            text: "7".into(),
            bytes: Vec::new(),
        };
        assert_eq!(vocabulary.content(7), content);
    }
}
