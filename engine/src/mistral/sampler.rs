//! Drawing tokens, as a logits processor of mistral.rs.
//!
//! The engine calls it after penalties with the logits of the next token (a second time,
//! with forbidden tokens at minus infinity, where a grammar refused the first choice) and
//! then takes the largest value of what it returns. So the choice is made here, and with it
//! its log-probability is written down where it is wanted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_core::generate::SamplingParams;
use mistralrs::{Device, Tensor};
use mistralrs_core::{CustomLogitsProcessor, ResponseLogprob};
use parking_lot::Mutex;

/// Draws the tokens of one choice of one request.
pub(super) struct TokenSampler {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    logit_bias: Vec<(u32, f32)>,
    /// How many alternatives are wanted, if log-probabilities are: they cost a pass over the
    /// vocabulary.
    logprobs: Option<usize>,
    random: Mutex<fastrand::Rng>,
    journal: Arc<TokenJournal>,
}

/// What was drawn for one answer, written down where it is drawn: mistral.rs tells how many
/// tokens there were only at the end of a chat, not at all of a completion or where a stop
/// text ends it, and says nothing of a token that ends inside a character.
#[derive(Default)]
pub(super) struct TokenJournal {
    /// Tokens drawn.
    drawn: AtomicUsize,
    /// Prompt and answer, before the last token drawn.
    context: AtomicUsize,
    /// The tokens not yet told of, where log-probabilities are wanted.
    tokens: Mutex<VecDeque<SampledToken>>,
}

/// A token that was drawn.
#[derive(Debug, PartialEq)]
pub(super) struct SampledToken {
    pub(super) token: u32,
    /// Natural logarithm of its probability, whatever the temperature.
    pub(super) logprob: f32,
    /// The most probable tokens with theirs, best first.
    pub(super) top: Vec<(u32, f32)>,
}

impl TokenJournal {
    /// Tokens drawn so far.
    pub(super) fn drawn(&self) -> usize {
        self.drawn.load(Ordering::Relaxed)
    }

    /// Tokens of the prompt. Unknown before the second token: for the first one the engine
    /// leaves out what it still had from an earlier request.
    pub(super) fn prompt(&self) -> Option<usize> {
        let drawn = self.drawn();
        (drawn > 1).then(|| (self.context.load(Ordering::Relaxed) + 1).saturating_sub(drawn))
    }

    /// The tokens not yet told of, through the first one of this number; all of them without
    /// one.
    pub(super) fn take_through(&self, token: Option<u32>) -> Vec<SampledToken> {
        let mut tokens = self.tokens();
        let found = tokens.iter().position(|t| Some(t.token) == token);
        let end = found.map_or(tokens.len(), |last| last + 1);
        tokens.drain(..end).collect()
    }

    /// A token is drawn after `context` tokens. A grammar has one drawn twice; then this says
    /// so.
    fn count(&self, context: usize) -> bool {
        let again = self.context.swap(context, Ordering::Relaxed) == context;
        if !again {
            self.drawn.fetch_add(1, Ordering::Relaxed);
        }
        again
    }

    fn tokens(&self) -> parking_lot::MutexGuard<'_, VecDeque<SampledToken>> {
        self.tokens.lock()
    }
}

impl TokenSampler {
    /// A sampler for the choice of this number; each choice draws differently.
    pub(super) fn new(sampling: &SamplingParams, logprobs: Option<u32>, choice: u32) -> Self {
        let random = match sampling.seed {
            Some(seed) => fastrand::Rng::with_seed(seed.wrapping_add(u64::from(choice))),
            None => fastrand::Rng::new(),
        };
        Self {
            temperature: sampling.temperature as f32,
            top_p: sampling.top_p as f32,
            top_k: sampling.top_k.map_or(usize::MAX, |k| k as usize),
            min_p: sampling.min_p.unwrap_or(0.0) as f32,
            logit_bias: sampling.logit_bias.iter().map(|(t, b)| (*t, *b)).collect(),
            logprobs: logprobs.map(|alternatives| alternatives as usize),
            random: Mutex::new(random),
            journal: Arc::default(),
        }
    }

    /// Where the tokens are written down.
    pub(super) fn journal(&self) -> Arc<TokenJournal> {
        self.journal.clone()
    }

    /// Chooses a token and makes it the largest value of `logits`. Returns it with its
    /// log-probability where that is wanted.
    fn choose(&self, logits: &mut [f32]) -> Option<SampledToken> {
        for (token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let best = argmax(logits);
        let chosen = if self.temperature < 1e-5 {
            best
        } else {
            self.draw(logits, best)
        };
        let drawn = self.logprobs.map(|alternatives| {
            let largest = logits[best];
            softmax(logits, largest, 1.0);
            SampledToken {
                token: chosen as u32,
                logprob: logits[chosen].ln(),
                top: most_probable(logits, alternatives),
            }
        });
        logits[chosen] = f32::MAX;
        drawn
    }

    /// Draws a token by temperature, then top-k, top-p and min-p.
    fn draw(&self, logits: &[f32], best: usize) -> usize {
        let mut probs = logits.to_vec();
        softmax(&mut probs, logits[best], self.temperature);
        let least = probs[best] * self.min_p;
        let mut order: Vec<u32> = (0..probs.len() as u32)
            .filter(|token| probs[*token as usize] > 0.0 && probs[*token as usize] >= least)
            .collect();
        let by_probability = |a: &u32, b: &u32| {
            let (a, b) = (probs[*a as usize], probs[*b as usize]);
            b.total_cmp(&a)
        };
        // Sorting a large vocabulary costs more than all else, so only where it is needed.
        if self.top_k < order.len() {
            order.select_nth_unstable_by(self.top_k, by_probability);
            order.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            order.sort_unstable_by(by_probability);
            let mut sum = 0.0;
            let kept = order.iter().position(|token| {
                sum += probs[*token as usize];
                sum >= self.top_p
            });
            order.truncate(kept.map_or(order.len(), |last| last + 1));
        }
        let total: f32 = order.iter().map(|token| probs[*token as usize]).sum();
        let mut random = self.random.lock();
        let mut left = random.f32() * total;
        for token in &order {
            left -= probs[*token as usize];
            if left < 0.0 {
                return *token as usize;
            }
        }
        // Rounding left a rest: it belongs to the most probable token.
        best
    }
}

impl CustomLogitsProcessor for TokenSampler {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> mistralrs::Result<Tensor> {
        let again = self.journal.count(context.len());
        let mut values: Vec<f32> = logits.to_vec1()?;
        if !values.is_empty()
            && let Some(drawn) = self.choose(&mut values)
        {
            let mut tokens = self.journal.tokens();
            if again {
                tokens.pop_back();
            }
            tokens.push_back(drawn);
        }
        let length = values.len();
        Tensor::from_vec(values, length, &Device::Cpu)
    }
}

/// The place of the largest value; NaN counts as the smallest.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] || values[best].is_nan() {
            best = place;
        }
    }
    best
}

/// Turns logits into probabilities. `largest` keeps the exponentials in range.
fn softmax(values: &mut [f32], largest: f32, temperature: f32) {
    let mut sum = 0.0;
    for value in values.iter_mut() {
        let weight = ((*value - largest) / temperature).exp();
        *value = if weight.is_nan() { 0.0 } else { weight };
        sum += *value;
    }
    for value in values.iter_mut() {
        *value /= sum;
    }
}

/// The `count` most probable tokens with the natural logarithms of their probabilities, best
/// first.
fn most_probable(probs: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut order: Vec<u32> = (0..probs.len() as u32).collect();
    let by_probability = |a: &u32, b: &u32| {
        probs[*b as usize]
            .total_cmp(&probs[*a as usize])
            .then(a.cmp(b))
    };
    if count < order.len() {
        order.select_nth_unstable_by(count, by_probability);
        order.truncate(count);
    }
    order.sort_unstable_by(by_probability);
    let logprob = |token: u32| (token, probs[token as usize].ln());
    order.into_iter().map(logprob).collect()
}

/// The text of the token that mistral.rs reports, special tokens included.
pub(super) fn token_text(reported: &ResponseLogprob) -> Option<&str> {
    reported.top_logprobs.first()?.bytes.as_deref()
}

/// The token that mistral.rs reports.
pub(super) fn token(reported: &ResponseLogprob) -> Option<u32> {
    Some(reported.top_logprobs.first()?.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, f32::NEG_INFINITY];

    fn sampling(temperature: f64) -> SamplingParams {
        SamplingParams {
            temperature,
            seed: Some(1),
            ..SamplingParams::default()
        }
    }

    fn chosen(sampler: &TokenSampler) -> usize {
        let mut logits = LOGITS;
        sampler.choose(&mut logits);
        argmax(&logits)
    }

    #[test]
    fn temperature_zero_takes_the_best() {
        for logprobs in [None, Some(2)] {
            let sampler = TokenSampler::new(&sampling(0.0), logprobs, 0);
            assert_eq!(chosen(&sampler), 1);
        }
    }

    #[test]
    fn tokens_are_counted_where_they_are_drawn() {
        let counts = TokenJournal::default();
        // Of a prompt of 10 tokens 7 were cached; a grammar had the second token drawn twice.
        assert!(!counts.count(3));
        assert_eq!((counts.drawn(), counts.prompt()), (1, None));
        assert!(!counts.count(11));
        assert!(counts.count(11));
        assert_eq!((counts.drawn(), counts.prompt()), (2, Some(10)));
    }

    #[test]
    fn a_seed_repeats_and_choices_differ() {
        let draws = |choice| {
            let sampler = TokenSampler::new(&sampling(2.0), None, choice);
            (0..20).map(|_| chosen(&sampler)).collect::<Vec<_>>()
        };
        assert_eq!(draws(0), draws(0));
        assert_ne!(draws(0), draws(1));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampler = TokenSampler::new(&sampling(1.0), None, 0);
        let mut hits = [0u32; 4];
        for _ in 0..10_000 {
            hits[chosen(&sampler)] += 1;
        }
        // Softmax of 1, 3, 2: 9.0 %, 66.5 %, 24.5 %.
        for (hits, expected) in hits.iter().zip([900, 6_652, 2_447, 0]) {
            assert!(
                hits.abs_diff(expected) < 200,
                "{hits} is far from {expected}"
            );
        }
    }

    #[test]
    fn top_p_top_k_and_min_p_leave_only_the_best() {
        let narrow = [
            SamplingParams {
                top_p: 0.5,
                ..sampling(2.0)
            },
            SamplingParams {
                top_p: 0.0,
                ..sampling(2.0)
            },
            SamplingParams {
                top_k: Some(1),
                ..sampling(2.0)
            },
            SamplingParams {
                min_p: Some(1.0),
                ..sampling(2.0)
            },
        ];
        for sampling in narrow {
            let sampler = TokenSampler::new(&sampling, None, 0);
            // At temperature 2 the best has just over half of the probability.
            assert!((0..50).all(|_| chosen(&sampler) == 1), "{sampling:?}");
        }
    }

    #[test]
    fn a_bias_moves_the_choice_and_a_forbidden_token_stays_forbidden() {
        let biased = |token, bias| SamplingParams {
            logit_bias: [(token, bias)].into(),
            ..sampling(0.0)
        };
        let choose = |sampling: &SamplingParams| chosen(&TokenSampler::new(sampling, None, 0));
        assert_eq!(choose(&biased(1, -100.0)), 2);
        assert_eq!(choose(&biased(0, 100.0)), 0);
        assert_eq!(choose(&biased(3, 100.0)), 1);
        assert_eq!(choose(&biased(77, 100.0)), 1);
    }

    #[test]
    fn log_probabilities_are_those_of_the_model() {
        for temperature in [0.0, 2.0] {
            let sampler = TokenSampler::new(&sampling(temperature), Some(2), 0);
            let mut values = LOGITS;
            let drawn = sampler.choose(&mut values).unwrap();
            assert_eq!(argmax(&values), drawn.token as usize);
            let probs = [0.090_03f32, 0.665_24, 0.244_73, 0.0];
            assert!((drawn.logprob - probs[drawn.token as usize].ln()).abs() < 1e-3);
            let tokens: Vec<u32> = drawn.top.iter().map(|(token, _)| *token).collect();
            assert_eq!(tokens, [1, 2]);
            assert!((drawn.top[1].1 - probs[2].ln()).abs() < 1e-3, "{drawn:?}");
        }
    }

    #[test]
    fn tokens_without_a_chunk_are_told_of_with_the_next() {
        let journal = TokenJournal::default();
        let drawn = |token| SampledToken {
            token,
            logprob: 0.0,
            top: Vec::new(),
        };
        journal.tokens().extend([4, 5, 6, 7].map(drawn));
        let taken = |token| {
            let tokens = journal.take_through(token);
            tokens.into_iter().map(|t| t.token).collect::<Vec<_>>()
        };
        assert_eq!(taken(Some(6)), [4, 5, 6]);
        assert_eq!(taken(None), [7]);
    }
}
