//! The tokens that were sampled for one answer.
//!
//! mistral.rs reports the number of tokens only at the end of a chat completion, and not at all for a
//! text completion or if a stop text ends the answer. It sends nothing for a token that ends inside a
//! character. So the sampler records every token here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// Records the tokens that were sampled for one answer.
#[derive(Default)]
pub(super) struct TokenJournal {
    /// The number of sampled tokens.
    sampled: AtomicUsize,
    /// The number of tokens in the prompt and the answer before the last sampled token.
    context: AtomicUsize,
    /// The tokens that no chunk has reported yet. Empty without log-probabilities.
    unreported: Mutex<VecDeque<SampledToken>>,
    /// Why the grammar of the answer could not be followed any further.
    grammar_error: Mutex<Option<String>>,
}

/// A token that was sampled.
#[derive(Debug, PartialEq)]
pub(super) struct SampledToken {
    pub(super) token: u32,
    /// The natural logarithm of its probability at temperature 1.
    pub(super) logprob: f32,
    /// The most probable tokens and the logarithms of their probabilities, most probable first.
    pub(super) top: Vec<(u32, f32)>,
}

impl TokenJournal {
    /// The number of tokens sampled so far.
    pub(super) fn sampled(&self) -> usize {
        self.sampled.load(Ordering::Relaxed)
    }

    /// The number of tokens in the prompt. `None` before the second token: at the first one, the engine
    /// passes only the part of the prompt that its prefix cache does not hold.
    pub(super) fn prompt(&self) -> Option<usize> {
        let sampled = self.sampled();
        (sampled > 1).then(|| (self.context.load(Ordering::Relaxed) + 1).saturating_sub(sampled))
    }

    /// Takes the unreported tokens through the first one with this id, or all of them if there is no
    /// such token.
    pub(super) fn take_through(&self, token: Option<u32>) -> Vec<SampledToken> {
        let mut unreported = self.unreported.lock();
        let index = unreported.iter().position(|t| Some(t.token) == token);
        let end = index.map_or(unreported.len(), |last| last + 1);
        unreported.drain(..end).collect()
    }

    /// Counts a token that is sampled after `context` tokens.
    pub(super) fn count(&self, context: usize) {
        self.context.store(context, Ordering::Relaxed);
        self.sampled.fetch_add(1, Ordering::Relaxed);
    }

    /// Records why the grammar of the answer could not be followed any further.
    pub(super) fn set_grammar_error(&self, error: String) {
        *self.grammar_error.lock() = Some(error);
    }

    /// Why the grammar of the answer could not be followed any further. `None` if it could.
    pub(super) fn grammar_error(&self) -> Option<String> {
        self.grammar_error.lock().clone()
    }

    /// The tokens that no chunk has reported yet, in order.
    pub(super) fn unreported(&self) -> MutexGuard<'_, VecDeque<SampledToken>> {
        self.unreported.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_is_known_from_the_second_token_on() {
        let journal = TokenJournal::default();
        // Of a prompt of 10 tokens 7 were cached.
        journal.count(3);
        assert_eq!((journal.sampled(), journal.prompt()), (1, None));
        journal.count(11);
        assert_eq!((journal.sampled(), journal.prompt()), (2, Some(10)));
    }

    #[test]
    fn tokens_without_a_chunk_are_reported_with_the_next_one() {
        let journal = TokenJournal::default();
        let sampled = |token| SampledToken {
            token,
            logprob: 0.0,
            top: Vec::new(),
        };
        journal.unreported().extend([4, 5, 6, 7].map(sampled));
        let take = |token| {
            let tokens = journal.take_through(token);
            tokens.into_iter().map(|t| t.token).collect::<Vec<_>>()
        };
        assert_eq!(take(Some(6)), [4, 5, 6]);
        assert_eq!(take(None), [7]);
    }
}
