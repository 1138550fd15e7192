//! Chooses tokens as a logits processor of mistral.rs.
//!
//! The engine calls it with the logits of the next token, and takes the largest of the values that it returns. So
//! this is where the token is chosen, and where its log-probability is recorded if it was requested.

use std::sync::Arc;

use mistralrs::{Device, Tensor};
use mistralrs_core::{CustomLogitsProcessor, ResponseLogprob};
use parking_lot::Mutex;

use super::engine_permit::SequenceGuard;
use super::journal::TokenJournal;
use crate::text::token_sampler::TokenSampler;

/// Chooses the tokens of one choice. The sequence in the engine owns it.
pub(super) struct LogitsProcessor {
    sampler: Mutex<TokenSampler>,
    journal: Arc<TokenJournal>,
    /// Learns of each token, and is dropped together with the sequence.
    guard: SequenceGuard,
}

impl LogitsProcessor {
    pub(super) fn new(sampler: TokenSampler, guard: SequenceGuard) -> Self {
        Self {
            sampler: Mutex::new(sampler),
            journal: Arc::default(),
            guard,
        }
    }

    /// The journal in which the tokens are recorded.
    pub(super) fn journal(&self) -> Arc<TokenJournal> {
        self.journal.clone()
    }
}

impl CustomLogitsProcessor for LogitsProcessor {
    fn apply(&self, logits: &Tensor, _: &[u32]) -> mistralrs::Result<Tensor> {
        self.journal.count();
        let mut values: Vec<f32> = logits.to_vec1()?;
        if !values.is_empty() {
            let mut sampler = self.sampler.lock();
            match sampler.choose(&mut values) {
                Ok((token, sampled)) => self.journal.record(token, sampled),
                // The answer ends, and the journal says why.
                Err(error) => {
                    self.journal.set_grammar_error(error);
                    let end = sampler.end_token();
                    if let Some(logit) = end.and_then(|end| values.get_mut(end as usize)) {
                        *logit = f32::INFINITY;
                    }
                }
            }
        }
        self.guard.token_sampled();
        let length = values.len();
        Tensor::from_vec(values, length, &Device::Cpu)
    }
}

/// The text of the token that mistral.rs reports. Special tokens have a text too.
pub(super) fn token_text(reported: &ResponseLogprob) -> Option<&str> {
    reported.top_logprobs.first()?.bytes.as_deref()
}

/// The id of the token that mistral.rs reports.
pub(super) fn token(reported: &ResponseLogprob) -> Option<u32> {
    Some(reported.top_logprobs.first()?.token)
}
