//! Samples tokens, as a logits processor of mistral.rs.
//!
//! The engine calls it with the logits of the next token, after applying penalties, and takes the
//! largest of the values that it returns. So this is where the token is chosen, and where its
//! log-probability is recorded if it was requested. If the answer has a grammar, the token is chosen
//! among those that it allows.

use std::sync::Arc;

use flotilla_core::generate::SamplingParams;
use mistralrs::{Device, Tensor};
use mistralrs_core::{CustomLogitsProcessor, ResponseLogprob};
use parking_lot::Mutex;

use super::answer_matcher::AnswerMatcher;
use super::engine_permit::SequenceGuard;
use super::journal::{SampledToken, TokenJournal};

/// Below this temperature the most probable token is always taken.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// Samples the tokens of one choice. The sequence in the engine owns it.
pub(super) struct TokenSampler {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    logit_bias: Vec<(u32, f32)>,
    /// The number of alternatives to record with each log-probability. `None` records no
    /// log-probabilities, which saves a pass over the vocabulary.
    alternatives: Option<usize>,
    random: Mutex<fastrand::Rng>,
    journal: Arc<TokenJournal>,
    /// The grammar of the answer.
    grammar: Option<Mutex<AnswerMatcher>>,
    /// The tokens that are taken first, whatever their probability.
    forced: Vec<u32>,
    /// Learns of each token, and is dropped together with the sequence.
    guard: Option<SequenceGuard>,
}

impl TokenSampler {
    /// Creates a sampler. `alternatives` is the number of alternatives to record with each log-probability;
    /// `None` records none.
    pub(super) fn new(sampling: &SamplingParams, alternatives: Option<u32>) -> Self {
        let random = match sampling.seed {
            Some(seed) => fastrand::Rng::with_seed(seed as u64),
            None => fastrand::Rng::new(),
        };
        Self {
            temperature: sampling.temperature.unwrap_or(1.0) as f32,
            top_p: sampling.top_p.unwrap_or(1.0) as f32,
            top_k: match sampling.top_k {
                None | Some(0) => usize::MAX,
                Some(k) => k as usize,
            },
            min_p: sampling.min_p.unwrap_or(0.0) as f32,
            logit_bias: sampling.logit_bias.iter().map(|(t, b)| (*t, *b)).collect(),
            alternatives: alternatives.map(|count| count as usize),
            random: Mutex::new(random),
            journal: Arc::default(),
            grammar: None,
            forced: Vec::new(),
            guard: None,
        }
    }

    /// Makes the sampler follow `grammar`.
    pub(super) fn with_grammar(mut self, grammar: Option<AnswerMatcher>) -> Self {
        self.grammar = grammar.map(Mutex::new);
        self
    }

    /// Makes the sampler take these tokens first. Their log-probabilities are recorded as those of others.
    pub(super) fn with_forced_tokens(mut self, tokens: Vec<u32>) -> Self {
        self.forced = tokens;
        self
    }

    /// Makes the sampler own `guard`.
    pub(super) fn with_guard(mut self, guard: SequenceGuard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The journal in which the tokens are recorded.
    pub(super) fn journal(&self) -> Arc<TokenJournal> {
        self.journal.clone()
    }

    /// Chooses a token that the grammar allows, as [`choose`](Self::choose) does. If the grammar cannot be
    /// followed, the answer ends, and the journal says why.
    fn choose_by_grammar(&self, logits: &mut [f32]) -> Option<(u32, Option<SampledToken>)> {
        let Some(grammar) = &self.grammar else {
            return Some(self.choose(logits));
        };
        let mut grammar = grammar.lock();
        let followed = grammar.mask(logits).and_then(|()| {
            let chosen = self.choose(logits);
            grammar.consume(chosen.0).map(|()| chosen)
        });
        match followed {
            Ok(chosen) => Some(chosen),
            Err(error) => {
                self.journal.set_grammar_error(error);
                if let Some(end) = grammar.end_token()
                    && let Some(logit) = logits.get_mut(end as usize)
                {
                    *logit = f32::INFINITY;
                }
                None
            }
        }
    }

    /// Chooses a token and makes it the largest value of `logits`. Returns the token, and the record of
    /// its log-probability if that was requested.
    fn choose(&self, logits: &mut [f32]) -> (u32, Option<SampledToken>) {
        for (token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let best = argmax(logits);
        let chosen = match self.forced_token(logits.len()) {
            Some(token) => token,
            None if self.temperature < GREEDY_TEMPERATURE => best,
            None => self.sample(logits, best),
        };
        let sampled = self.alternatives.map(|alternatives| {
            let largest = logits[best];
            softmax(logits, largest, 1.0);
            SampledToken {
                token: chosen as u32,
                logprob: logits[chosen].ln(),
                top: most_probable(logits, alternatives),
            }
        });
        logits[chosen] = f32::MAX;
        (chosen as u32, sampled)
    }

    /// The token that is taken next whatever its probability, if it is one of the vocabulary.
    fn forced_token(&self, vocabulary: usize) -> Option<usize> {
        let position = self.journal.sampled().checked_sub(1)?;
        let token = *self.forced.get(position)? as usize;
        (token < vocabulary).then_some(token)
    }

    /// Samples a token by temperature, then min-p, top-k and top-p. `best` is the most probable token.
    fn sample(&self, logits: &[f32], best: usize) -> usize {
        let mut probs = logits.to_vec();
        softmax(&mut probs, logits[best], self.temperature);
        let min_probability = probs[best] * self.min_p;
        let mut order: Vec<u32> = (0..probs.len() as u32)
            .filter(|token| {
                probs[*token as usize] > 0.0 && probs[*token as usize] >= min_probability
            })
            .collect();
        let by_probability = |a: &u32, b: &u32| {
            let (a, b) = (probs[*a as usize], probs[*b as usize]);
            b.total_cmp(&a)
        };
        // Sorting a large vocabulary costs more than everything else, so it is done only if needed.
        if self.top_k < order.len() {
            order.select_nth_unstable_by(self.top_k, by_probability);
            order.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            order.sort_unstable_by(by_probability);
            let mut sum = 0.0;
            let last = order.iter().position(|token| {
                sum += probs[*token as usize];
                sum >= self.top_p
            });
            order.truncate(last.map_or(order.len(), |last| last + 1));
        }
        let total: f32 = order.iter().map(|token| probs[*token as usize]).sum();
        let mut random = self.random.lock();
        let mut remaining = random.f32() * total;
        for token in &order {
            remaining -= probs[*token as usize];
            if remaining < 0.0 {
                return *token as usize;
            }
        }
        // Rounding errors left a rest, which goes to the most probable token.
        best
    }
}

impl CustomLogitsProcessor for TokenSampler {
    fn apply(&self, logits: &Tensor, _: &[u32]) -> mistralrs::Result<Tensor> {
        self.journal.count();
        let mut values: Vec<f32> = logits.to_vec1()?;
        if !values.is_empty()
            && let Some((token, sampled)) = self.choose_by_grammar(&mut values)
        {
            self.journal.record(token, sampled);
        }
        if let Some(guard) = &self.guard {
            guard.token_sampled();
        }
        let length = values.len();
        Tensor::from_vec(values, length, &Device::Cpu)
    }
}

/// Returns the index of the largest value. NaN counts as the smallest.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] || values[best].is_nan() {
            best = index;
        }
    }
    best
}

/// Turns logits into probabilities. `largest` is the largest logit; subtracting it keeps the exponentials
/// in range.
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

/// Returns the `count` most probable tokens with the natural logarithms of their probabilities, most
/// probable first.
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

/// The text of the token that mistral.rs reports. Special tokens have a text too.
pub(super) fn token_text(reported: &ResponseLogprob) -> Option<&str> {
    reported.top_logprobs.first()?.bytes.as_deref()
}

/// The id of the token that mistral.rs reports.
pub(super) fn token(reported: &ResponseLogprob) -> Option<u32> {
    Some(reported.top_logprobs.first()?.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, f32::NEG_INFINITY];

    fn sampling(temperature: f64) -> SamplingParams {
        SamplingParams {
            temperature: Some(temperature),
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
    fn temperature_zero_takes_the_most_probable_token() {
        for logprobs in [None, Some(2)] {
            let sampler = TokenSampler::new(&sampling(0.0), logprobs);
            assert_eq!(chosen(&sampler), 1);
        }
    }

    #[test]
    fn same_seed_repeats_and_the_next_one_differs() {
        let tokens = |seed| {
            let sampling = SamplingParams {
                seed: Some(seed),
                ..sampling(2.0)
            };
            let sampler = TokenSampler::new(&sampling, None);
            (0..20).map(|_| chosen(&sampler)).collect::<Vec<_>>()
        };
        assert_eq!(tokens(0), tokens(0));
        assert_ne!(tokens(0), tokens(1));
    }

    #[test]
    fn sampled_tokens_follow_the_probabilities() {
        let sampler = TokenSampler::new(&sampling(1.0), None);
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
    fn narrow_top_p_top_k_and_min_p_leave_only_the_most_probable_token() {
        let narrow = [
            SamplingParams {
                top_p: Some(0.5),
                ..sampling(2.0)
            },
            SamplingParams {
                top_p: Some(0.0),
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
            let sampler = TokenSampler::new(&sampling, None);
            // At temperature 2 the most probable token has just over half of the probability.
            assert!((0..50).all(|_| chosen(&sampler) == 1), "{sampling:?}");
        }
    }

    #[test]
    fn bias_moves_the_choice_but_a_forbidden_token_stays_forbidden() {
        let biased = |token, bias| SamplingParams {
            logit_bias: [(token, bias)].into(),
            ..sampling(0.0)
        };
        let choose = |sampling: &SamplingParams| chosen(&TokenSampler::new(sampling, None));
        assert_eq!(choose(&biased(1, -100.0)), 2);
        assert_eq!(choose(&biased(0, 100.0)), 0);
        assert_eq!(choose(&biased(3, 100.0)), 1);
        assert_eq!(choose(&biased(77, 100.0)), 1);
    }

    #[test]
    fn log_probabilities_do_not_depend_on_the_temperature() {
        for temperature in [0.0, 2.0] {
            let sampler = TokenSampler::new(&sampling(temperature), Some(2));
            let mut values = LOGITS;
            let (_, sampled) = sampler.choose(&mut values);
            let sampled = sampled.unwrap();
            assert_eq!(argmax(&values), sampled.token as usize);
            let probs = [0.090_03f32, 0.665_24, 0.244_73, 0.0];
            assert!((sampled.logprob - probs[sampled.token as usize].ln()).abs() < 1e-3);
            let tokens: Vec<u32> = sampled.top.iter().map(|(token, _)| *token).collect();
            assert_eq!(tokens, [1, 2]);
            assert!(
                (sampled.top[1].1 - probs[2].ln()).abs() < 1e-3,
                "{sampled:?}"
            );
        }
    }
}
