//! The tokens that were sampled for one answer.
//!
//! mistral.rs reports the number of tokens only at the end of a chat completion, and not at all for a
//! text completion or if a stop text ends the answer. It sends nothing for a token that ends inside a
//! character. So the sampler records every token here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::text::token_sampler::SampledToken;

/// Records the tokens that were sampled for one answer.
#[derive(Default)]
pub(super) struct TokenJournal {
    /// The number of sampled tokens.
    sampled: AtomicUsize,
    /// The tokens that were sampled since they were last taken.
    tokens: Mutex<Vec<u32>>,
    /// The tokens that no chunk has reported yet. Empty without log-probabilities.
    unreported: Mutex<VecDeque<SampledToken>>,
    /// Why the grammar of the answer could not be followed any further.
    grammar_error: Mutex<Option<String>>,
}

impl TokenJournal {
    /// The number of tokens sampled so far.
    pub(super) fn sampled(&self) -> usize {
        self.sampled.load(Ordering::Relaxed)
    }

    /// Takes the tokens that were sampled since the last call.
    pub(super) fn take_tokens(&self) -> Vec<u32> {
        std::mem::take(&mut self.tokens.lock())
    }

    /// Takes the unreported tokens through the first one with this id, or all of them if there is no
    /// such token.
    pub(super) fn take_through(&self, token: Option<u32>) -> Vec<SampledToken> {
        let mut unreported = self.unreported.lock();
        let index = unreported.iter().position(|t| Some(t.token) == token);
        let end = index.map_or(unreported.len(), |last| last + 1);
        unreported.drain(..end).collect()
    }

    /// Counts a token that is about to be sampled.
    pub(super) fn count(&self) {
        self.sampled.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a token, and its log-probability if that was requested.
    pub(super) fn record(&self, token: u32, sampled: Option<SampledToken>) {
        self.tokens.lock().push(token);
        self.unreported.lock().extend(sampled);
    }

    /// Records why the grammar of the answer could not be followed any further.
    pub(super) fn set_grammar_error(&self, error: String) {
        *self.grammar_error.lock() = Some(error);
    }

    /// Why the grammar of the answer could not be followed any further. `None` if it could.
    pub(super) fn grammar_error(&self) -> Option<String> {
        self.grammar_error.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_without_a_chunk_are_reported_with_the_next_one() {
        let journal = TokenJournal::default();
        let sampled = |token| SampledToken {
            token,
            logprob: 0.0,
            top: Vec::new(),
        };
        for token in [4, 5, 6, 7] {
            journal.record(token, Some(sampled(token)));
        }
        assert_eq!(journal.take_tokens(), [4, 5, 6, 7]);
        assert!(journal.take_tokens().is_empty());
        let take = |token| {
            let tokens = journal.take_through(token);
            tokens.into_iter().map(|t| t.token).collect::<Vec<_>>()
        };
        assert_eq!(take(Some(6)), [4, 5, 6]);
        assert_eq!(take(None), [7]);
    }
}
