//! Follows the grammar of an answer while its tokens are sampled.
//!
//! mistral.rs could do this by itself. It is done here so that a grammar is compiled before the engine
//! sees the request: the engine computes nothing else while it compiles, and what a client sent wrong
//! must not look like a failure of the engine. It also ends an answer with any of the model's end
//! tokens, where mistral.rs allows only one that is guessed from the names of tokens.

use std::sync::Arc;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Logger, Matcher, ParserFactory};

/// The state of a grammar after the tokens so far.
#[derive(Clone)]
pub(crate) struct AnswerMatcher {
    matcher: Matcher,
    /// The tokens that end an answer.
    end_tokens: Arc<[u32]>,
    /// The token that the matcher allows where an answer may end.
    end_mark: u32,
}

impl AnswerMatcher {
    /// Compiles a grammar. This takes long for a complex one.
    ///
    /// # Errors
    /// Why the grammar cannot be enforced, as a sentence.
    pub(crate) fn compile(
        factory: &ParserFactory,
        grammar: TopLevelGrammar,
        end_tokens: Arc<[u32]>,
    ) -> Result<Self, String> {
        let limits = ParserLimits {
            verbose_errors: false,
            ..factory.limits().clone()
        };
        let parser = factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            limits,
        );
        let parser = parser.map_err(|error| problem(&error.to_string()))?;
        let mut matcher = Matcher::new(Ok(parser));
        // What is too complex to be enforced often shows only here.
        matcher
            .compute_mask()
            .map_err(|error| problem(&error.to_string()))?;
        Ok(Self {
            matcher,
            end_tokens,
            end_mark: factory.tok_env().tok_trie().eos_token(),
        })
    }

    /// Sets the logits of the tokens that must not come next to minus infinity.
    ///
    /// # Errors
    /// When the grammar turns out to be too complex, or allows no token. The logits are unchanged then.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
        if let Some(error) = self.matcher.get_error() {
            return Err(problem(&error));
        }
        let failed = |error: anyhow::Error| problem(&error.to_string());
        let allowed = if self.matcher.is_stopped() {
            None
        } else {
            Some(self.matcher.compute_mask().map_err(failed)?)
        };
        let may_end = match allowed {
            None => true,
            Some(_) => self.matcher.is_accepting().map_err(failed)?,
        };
        let is_allowed = |token: usize| {
            if self.end_tokens.contains(&(token as u32)) {
                return may_end;
            }
            if token as u32 == self.end_mark {
                return false;
            }
            allowed
                .as_ref()
                .is_some_and(|allowed| token < allowed.len() && allowed.get(token))
        };
        if !(0..logits.len()).any(is_allowed) {
            return Err("the grammar allows no token of the model here".to_owned());
        }
        for (token, logit) in logits.iter_mut().enumerate() {
            if !is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes note of the token that was chosen.
    pub(crate) fn consume(&mut self, token: u32) -> Result<(), String> {
        if self.end_tokens.contains(&token) {
            return Ok(());
        }
        let consumed = self.matcher.consume_token(token);
        consumed.map_err(|error| problem(&error.to_string()))
    }

    /// A token that ends an answer.
    pub(crate) fn end_token(&self) -> Option<u32> {
        self.end_tokens.first().copied()
    }
}

/// Turns an error of the grammar compiler into words for clients: its first line, and nothing of a
/// panic's text or backtrace.
fn problem(error: &str) -> String {
    const MAX_CHARS: usize = 300;
    let line = error.lines().map(str::trim).find(|line| !line.is_empty());
    match line {
        Some(line) if !error.contains("panic") => line.chars().take(MAX_CHARS).collect(),
        _ => "the grammar compiler cannot process it".to_owned(),
    }
}

#[cfg(test)]
mod tests;
