//! Drawing tokens, as a logits processor of mistral.rs.
//!
//! The engine calls it after penalties with the logits of the next token (a second time,
//! with forbidden tokens at minus infinity, where a grammar refused the first choice) and
//! then takes the largest value of what it returns. So the choice is made here, and what is
//! returned is made for being read: the chosen token holds `2 - ln p`, the largest value,
//! and every other token its probability. mistral.rs reports both as decimal logarithms of
//! those values, next to the tokens' texts, which [`read`] turns back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_core::generate::{Sampling, TokenAlternative, TokenLogprob};
use mistralrs::{Device, Tensor};
use mistralrs_core::{CustomLogitsProcessor, ResponseLogprob};

/// Larger than any probability, so that the chosen token is the largest value.
const CHOSEN: f32 = 2.0;

/// Draws the tokens of one choice of one request.
pub(super) struct Sampler {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    logit_bias: Vec<(u32, f32)>,
    /// Whether log-probabilities are wanted: they cost a pass over the vocabulary.
    logprobs: bool,
    random: Mutex<fastrand::Rng>,
    counts: Arc<Counts>,
}

/// How many tokens an answer has taken, counted where they are drawn: mistral.rs tells only
/// at the end of a chat, and not at all where a stop text ends it or of a completion.
#[derive(Default)]
pub(super) struct Counts {
    /// Tokens drawn.
    drawn: AtomicUsize,
    /// Prompt and answer, before the last token drawn.
    context: AtomicUsize,
}

impl Counts {
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

    /// A token is drawn after `context` tokens. A grammar has one drawn twice.
    fn count(&self, context: usize) {
        if self.context.swap(context, Ordering::Relaxed) != context {
            self.drawn.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sampler {
    /// A sampler for the choice of this number; each choice draws differently.
    pub(super) fn new(sampling: &Sampling, logprobs: Option<u32>, choice: u32) -> Self {
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
            logprobs: logprobs.is_some(),
            random: Mutex::new(random),
            counts: Arc::default(),
        }
    }

    /// Where the tokens are counted.
    pub(super) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Chooses a token and rewrites `logits` for being read.
    fn choose(&self, logits: &mut [f32]) {
        for (token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let best = argmax(logits);
        let greedy = self.temperature < 1e-5;
        if greedy && !self.logprobs {
            logits[best] = f32::MAX;
            return;
        }
        let chosen = if greedy {
            best
        } else {
            self.draw(logits, best)
        };
        softmax(logits, logits[best], 1.0);
        logits[chosen] = CHOSEN - logits[chosen].ln();
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
        // Nothing panics while it is held.
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
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

impl CustomLogitsProcessor for Sampler {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> mistralrs::Result<Tensor> {
        self.counts.count(context.len());
        let mut values: Vec<f32> = logits.to_vec1()?;
        if !values.is_empty() {
            self.choose(&mut values);
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

/// Turns what mistral.rs reports of a token back into log-probabilities. `alternatives` is
/// how many are wanted.
pub(super) fn read(reported: &ResponseLogprob, alternatives: usize) -> TokenLogprob {
    let value = 10f64.powf(f64::from(reported.logprob));
    let logprob = (f64::from(CHOSEN) - value).min(0.0) as f32;
    let chosen = reported.top_logprobs.first();
    let token = chosen.and_then(|top| top.bytes.clone()).unwrap_or_default();
    let mut top: Vec<_> = reported
        .top_logprobs
        .iter()
        .enumerate()
        .map(|(place, top)| TokenAlternative {
            token: top.bytes.clone().unwrap_or_default(),
            logprob: if place == 0 {
                logprob
            } else {
                // From decimal to natural.
                top.logprob * std::f32::consts::LN_10
            },
        })
        .collect();
    // The chosen token came first whatever its probability.
    top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    top.truncate(alternatives);
    TokenLogprob {
        token,
        logprob,
        top,
    }
}

/// The text of the token that mistral.rs reports, special tokens included.
pub(super) fn token_text(reported: &ResponseLogprob) -> Option<&str> {
    reported.top_logprobs.first()?.bytes.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mistralrs_core::TopLogprob;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, f32::NEG_INFINITY];

    fn sampling(temperature: f64) -> Sampling {
        Sampling {
            temperature,
            seed: Some(1),
            ..Sampling::default()
        }
    }

    fn chosen(sampler: &Sampler) -> usize {
        let mut logits = LOGITS;
        sampler.choose(&mut logits);
        argmax(&logits)
    }

    #[test]
    fn temperature_zero_takes_the_best() {
        for logprobs in [None, Some(2)] {
            let sampler = Sampler::new(&sampling(0.0), logprobs, 0);
            assert_eq!(chosen(&sampler), 1);
        }
    }

    #[test]
    fn tokens_are_counted_where_they_are_drawn() {
        let counts = Counts::default();
        // Of a prompt of 10 tokens 7 were cached; a grammar had the second token drawn twice.
        counts.count(3);
        assert_eq!((counts.drawn(), counts.prompt()), (1, None));
        counts.count(11);
        counts.count(11);
        assert_eq!((counts.drawn(), counts.prompt()), (2, Some(10)));
    }

    #[test]
    fn a_seed_repeats_and_choices_differ() {
        let draws = |choice| {
            let sampler = Sampler::new(&sampling(2.0), None, choice);
            (0..20).map(|_| chosen(&sampler)).collect::<Vec<_>>()
        };
        assert_eq!(draws(0), draws(0));
        assert_ne!(draws(0), draws(1));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampler = Sampler::new(&sampling(1.0), None, 0);
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
            Sampling {
                top_p: 0.5,
                ..sampling(2.0)
            },
            Sampling {
                top_p: 0.0,
                ..sampling(2.0)
            },
            Sampling {
                top_k: Some(1),
                ..sampling(2.0)
            },
            Sampling {
                min_p: Some(1.0),
                ..sampling(2.0)
            },
        ];
        for sampling in narrow {
            let sampler = Sampler::new(&sampling, None, 0);
            // At temperature 2 the best has just over half of the probability.
            assert!((0..50).all(|_| chosen(&sampler) == 1), "{sampling:?}");
        }
    }

    #[test]
    fn a_bias_moves_the_choice_and_a_forbidden_token_stays_forbidden() {
        let biased = |token, bias| Sampling {
            logit_bias: [(token, bias)].into(),
            ..sampling(0.0)
        };
        let choose = |sampling: &Sampling| chosen(&Sampler::new(sampling, None, 0));
        assert_eq!(choose(&biased(1, -100.0)), 2);
        assert_eq!(choose(&biased(0, 100.0)), 0);
        assert_eq!(choose(&biased(3, 100.0)), 1);
        assert_eq!(choose(&biased(77, 100.0)), 1);
    }

    #[test]
    fn log_probabilities_survive_the_way_through_the_engine() {
        let sampler = Sampler::new(&sampling(0.0), Some(2), 0);
        let mut values = LOGITS;
        sampler.choose(&mut values);
        let top = |token: u32| TopLogprob {
            token,
            logprob: values[token as usize].log10(),
            bytes: Some(token.to_string()),
        };
        let reported = ResponseLogprob {
            token: String::new(),
            logprob: values[1].log10(),
            bytes: None,
            top_logprobs: vec![top(1), top(2), top(0)],
        };
        let read = read(&reported, 2);
        assert_eq!(read.token, "1");
        assert!((read.logprob - 0.665_24f32.ln()).abs() < 1e-4, "{read:?}");
        assert_eq!(read.top.len(), 2);
        assert!(
            (read.top[1].logprob - 0.244_73f32.ln()).abs() < 1e-4,
            "{read:?}"
        );
    }
}
