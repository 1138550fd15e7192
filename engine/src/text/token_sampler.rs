//! Chooses the tokens of an answer.
//!
//! Engines give the logits of the next token, as the model computes them. Penalties, the bias of a request, the
//! grammar of its answer, the choice itself and its log-probability are the same for all of them.

use std::collections::HashMap;

use flotilla_core::generate::SamplingParams;

use super::answer_matcher::AnswerMatcher;

/// Below this temperature the most probable token is always taken.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// Samples the tokens of one choice.
pub(crate) struct TokenSampler {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    penalties: Option<Penalties>,
    logit_bias: Vec<(u32, f32)>,
    /// The number of alternatives to record with each log-probability. `None` records no
    /// log-probabilities, which saves a pass over the vocabulary.
    alternatives: Option<usize>,
    random: fastrand::Rng,
    /// The grammar of the answer.
    grammar: Option<AnswerMatcher>,
    /// The tokens that are taken first, whatever their probability.
    forced: Vec<u32>,
    /// The number of tokens that were asked for.
    asked: usize,
}

/// A token that was sampled, with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SampledToken {
    pub(crate) token: u32,
    /// The natural logarithm of its probability at temperature 1.
    pub(crate) logprob: f32,
    /// The most probable tokens and the logarithms of their probabilities, most probable first.
    pub(crate) top: Vec<(u32, f32)>,
}

/// A token, and the record of its log-probability if that was requested.
pub(crate) type Choice = (u32, Option<SampledToken>);

/// Penalties on tokens that the text has already.
struct Penalties {
    /// Subtracted once for each time that the answer has the token.
    frequency: f32,
    /// Subtracted if the answer has the token.
    presence: f32,
    /// A positive logit of a token that prompt or answer have is divided by it, a negative one multiplied:
    /// Keskar et al., CTRL, 2019, section 4.1.
    repetition: f32,
    /// How often the answer has each token; 0 for those that only the prompt has.
    counts: HashMap<u32, u32>,
}

impl Penalties {
    /// `None` if the request asks for none.
    fn new(sampling: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let penalties = Self {
            frequency: sampling.frequency_penalty.unwrap_or(0.0),
            presence: sampling.presence_penalty.unwrap_or(0.0),
            repetition: sampling.repetition_penalty.unwrap_or(1.0),
            counts: prompt.iter().map(|token| (*token, 0)).collect(),
        };
        let is_neutral =
            penalties.frequency == 0.0 && penalties.presence == 0.0 && penalties.repetition == 1.0;
        (!is_neutral).then_some(penalties)
    }

    fn apply(&self, logits: &mut [f32]) {
        for (token, count) in &self.counts {
            let Some(logit) = logits.get_mut(*token as usize) else {
                continue;
            };
            if *count > 0 {
                *logit -= *count as f32 * self.frequency + self.presence;
            }
            if *logit > 0.0 {
                *logit /= self.repetition;
            } else {
                *logit *= self.repetition;
            }
        }
    }
}

impl TokenSampler {
    /// Creates a sampler for the answer to a prompt. `alternatives` is the number of alternatives to record with
    /// each log-probability; `None` records none.
    pub(crate) fn new(
        sampling: &SamplingParams,
        prompt: &[u32],
        alternatives: Option<u32>,
    ) -> Self {
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
            penalties: Penalties::new(sampling, prompt),
            logit_bias: sampling.logit_bias.iter().map(|(t, b)| (*t, *b)).collect(),
            alternatives: alternatives.map(|count| count as usize),
            random,
            grammar: None,
            forced: Vec::new(),
            asked: 0,
        }
    }

    /// Makes the sampler follow `grammar`.
    pub(crate) fn with_grammar(mut self, grammar: Option<AnswerMatcher>) -> Self {
        self.grammar = grammar;
        self
    }

    /// Makes the sampler take these tokens first. Their log-probabilities are recorded as those of others.
    pub(crate) fn with_forced_tokens(mut self, tokens: Vec<u32>) -> Self {
        self.forced = tokens;
        self
    }

    /// A token that ends an answer that has a grammar.
    pub(crate) fn end_token(&self) -> Option<u32> {
        self.grammar.as_ref()?.end_token()
    }

    /// Chooses the next token, given the logits of all tokens of the vocabulary, and makes it the largest value
    /// of `logits`.
    ///
    /// # Errors
    /// Why the grammar of the answer cannot be followed any further.
    pub(crate) fn choose(&mut self, logits: &mut [f32]) -> Result<Choice, String> {
        self.asked += 1;
        if let Some(penalties) = &self.penalties {
            penalties.apply(logits);
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(logits)?;
        }
        let choice = self.choose_any(logits);
        if let Some(grammar) = &mut self.grammar {
            grammar.consume(choice.0)?;
        }
        if let Some(penalties) = &mut self.penalties {
            *penalties.counts.entry(choice.0).or_default() += 1;
        }
        Ok(choice)
    }

    fn choose_any(&mut self, logits: &mut [f32]) -> Choice {
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
        let position = self.asked.checked_sub(1)?;
        let token = *self.forced.get(position)? as usize;
        (token < vocabulary).then_some(token)
    }

    /// Samples a token by temperature, then min-p, top-k and top-p. `best` is the most probable token.
    fn sample(&mut self, logits: &[f32], best: usize) -> usize {
        let mut probs = logits.to_vec();
        softmax(&mut probs, logits[best], self.temperature);
        if self.takes_any() {
            let all = probs.iter().copied().enumerate();
            return self.draw(all, best);
        }
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
        let tokens = order.iter().map(|token| *token as usize);
        self.draw(tokens.map(|token| (token, probs[token])), best)
    }

    /// Whether any token may be sampled: the large vocabulary needs no list of those that may.
    fn takes_any(&self) -> bool {
        self.top_k == usize::MAX && self.top_p >= 1.0 && self.min_p == 0.0
    }

    /// Draws one of these tokens by their probabilities, which need not add up to 1.
    fn draw(&mut self, tokens: impl Iterator<Item = (usize, f32)> + Clone, best: usize) -> usize {
        let total: f32 = tokens.clone().map(|(_, probability)| probability).sum();
        let mut remaining = self.random.f32() * total;
        for (token, probability) in tokens {
            remaining -= probability;
            if remaining < 0.0 {
                return token;
            }
        }
        // Rounding errors left a rest, which goes to the most probable token.
        best
    }
}

/// Returns the index of the largest value, of equal ones the first. NaN counts as the smallest.
///
/// Vocabularies have up to 200,000 tokens, and every answer needs this in each step: the largest values of interleaved
/// parts are found side by side, in the lanes of a vector, and only then where the largest of all is.
fn argmax(values: &[f32]) -> usize {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    let largest = lanes.into_iter().chain(rest.iter().copied());
    let largest = largest.fold(f32::NEG_INFINITY, larger);
    let first = values.iter().position(|value| *value == largest);
    first.unwrap_or(0)
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

    fn sampler(sampling: &SamplingParams) -> TokenSampler {
        TokenSampler::new(sampling, &[], None)
    }

    fn chosen(sampler: &mut TokenSampler) -> usize {
        let mut logits = LOGITS;
        sampler.choose(&mut logits).unwrap();
        argmax(&logits)
    }

    #[test]
    fn limits_that_exclude_no_token_change_nothing() {
        let draws = |top_k: Option<u32>, seed| {
            let sampling = SamplingParams {
                temperature: Some(1.0),
                seed: Some(seed),
                top_k,
                ..SamplingParams::default()
            };
            chosen(&mut sampler(&sampling))
        };
        for seed in 0..50 {
            assert_eq!(draws(None, seed), draws(Some(1_000), seed));
        }
    }

    #[test]
    fn largest_value_is_found_wherever_it_is() {
        for length in [1, 15, 16, 17, 50] {
            for place in 0..length {
                let mut values = vec![f32::NAN; length];
                values[length - 1] = -1.0;
                values[place] = 2.0;
                assert_eq!(argmax(&values), place, "{length}");
                values.fill(f32::NEG_INFINITY);
                values[place] = -3.0;
                assert_eq!(argmax(&values), place, "{length}");
            }
            assert_eq!(argmax(&vec![7.0; length]), 0, "the first of equal ones");
            assert_eq!(argmax(&vec![f32::NAN; length]), 0);
            assert_eq!(argmax(&vec![f32::NEG_INFINITY; length]), 0);
        }
    }

    #[test]
    fn temperature_zero_takes_the_most_probable_token() {
        for logprobs in [None, Some(2)] {
            let mut sampler = TokenSampler::new(&sampling(0.0), &[], logprobs);
            assert_eq!(chosen(&mut sampler), 1);
        }
    }

    #[test]
    fn same_seed_repeats_and_the_next_one_differs() {
        let tokens = |seed| {
            let sampling = SamplingParams {
                seed: Some(seed),
                ..sampling(2.0)
            };
            let mut sampler = sampler(&sampling);
            (0..20).map(|_| chosen(&mut sampler)).collect::<Vec<_>>()
        };
        assert_eq!(tokens(0), tokens(0));
        assert_ne!(tokens(0), tokens(1));
    }

    #[test]
    fn sampled_tokens_follow_the_probabilities() {
        let mut sampler = sampler(&sampling(1.0));
        let mut hits = [0u32; 4];
        for _ in 0..10_000 {
            hits[chosen(&mut sampler)] += 1;
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
            let mut sampler = sampler(&sampling);
            // At temperature 2 the most probable token has just over half of the probability.
            assert!((0..50).all(|_| chosen(&mut sampler) == 1), "{sampling:?}");
        }
    }

    #[test]
    fn bias_moves_the_choice_but_a_forbidden_token_stays_forbidden() {
        let biased = |token, bias| SamplingParams {
            logit_bias: [(token, bias)].into(),
            ..sampling(0.0)
        };
        let choose = |sampling: &SamplingParams| chosen(&mut sampler(sampling));
        assert_eq!(choose(&biased(1, -100.0)), 2);
        assert_eq!(choose(&biased(0, 100.0)), 0);
        assert_eq!(choose(&biased(3, 100.0)), 1);
        assert_eq!(choose(&biased(77, 100.0)), 1);
    }

    #[test]
    fn log_probabilities_do_not_depend_on_the_temperature() {
        for temperature in [0.0, 2.0] {
            let mut sampler = TokenSampler::new(&sampling(temperature), &[], Some(2));
            let mut values = LOGITS;
            let (_, sampled) = sampler.choose(&mut values).unwrap();
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

    #[test]
    fn penalties_count_what_the_answer_has_and_repetition_the_prompt_too() {
        let logits = |sampling: &SamplingParams, prompt: &[u32]| {
            let mut sampler =
                TokenSampler::new(sampling, prompt, None).with_forced_tokens(vec![1, 1]);
            for _ in 0..2 {
                sampler.choose(&mut LOGITS.clone()).unwrap();
            }
            let mut logits = LOGITS;
            sampler.penalties.unwrap().apply(&mut logits);
            logits
        };
        let neutral = sampling(0.0);
        let penalised = SamplingParams {
            frequency_penalty: Some(0.5),
            presence_penalty: Some(0.25),
            ..neutral.clone()
        };
        assert_eq!(
            logits(&penalised, &[2]),
            [1.0, 1.75, 2.0, f32::NEG_INFINITY]
        );
        let repeated = SamplingParams {
            repetition_penalty: Some(2.0),
            ..neutral.clone()
        };
        assert_eq!(logits(&repeated, &[2]), [1.0, 1.5, 1.0, f32::NEG_INFINITY]);
        let negative = SamplingParams {
            presence_penalty: Some(4.0),
            ..repeated
        };
        assert_eq!(logits(&negative, &[]), [1.0, -2.0, 2.0, f32::NEG_INFINITY]);
        assert!(TokenSampler::new(&neutral, &[2], None).penalties.is_none());
    }
}
