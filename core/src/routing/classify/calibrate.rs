//! Calibrates a classifier by examples that were held out of training: which probability the score of a task and the
//! familiarity of the text stand for, and the threshold from which on the classification is used.

use super::hold_out::{HeldOutExample, ScoredText};
use super::train::logistic;
use crate::spec::AbstainRule;

/// Converts the score of a task and the familiarity of the text to the probability that the task is right:
/// `logistic(slope * (score + familiarity_weight * familiarity) + offset)` (Platt, "Probabilistic Outputs for Support
/// Vector Machines", 1999).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Calibration {
    familiarity_weight: f32,
    slope: f32,
    offset: f32,
}

/// The calibration of a classifier of which too few examples can be held out: that of the median of twenty draws of two
/// examples of each of CLINC150's domains.
const DEFAULT: Calibration = Calibration {
    familiarity_weight: 3.2,
    slope: 1.0,
    offset: 0.0,
};

/// The threshold where none can be estimated: what it is with 5 to 20 examples of each of CLINC150's domains.
const TYPICAL_THRESHOLD: f32 = 0.15;
/// The least number of held-out examples in scope that a calibration is estimated from. Our own choice.
pub(super) const MIN_HELD_OUT: usize = 8;
/// The spread of the familiarity, relative to that of the score, in their sum. With 2, requests that belong to no task are
/// recognised best where tasks have few examples; with 0.5, requests that are classified wrongly (CLINC150).
const FAMILIARITY_SPREAD: f32 = 1.25;
/// The least spread of the familiarity that is assumed. It has none where no example is in English.
const MIN_FAMILIARITY_SPREAD: f32 = 0.05;
/// The number of texts of no task that are assumed for each held-out example: as many again, as in training.
const TOPIC_SHARE: f64 = 1.0;
/// The prior of the slope for a sum that is standardised: its mean, and the variance of slope and offset. It keeps the
/// fit finite where all examples are right. Our own choice.
const PRIOR_SLOPE: f64 = 1.5;
const PRIOR_VARIANCE: f64 = 4.0;
/// Newton steps; five are enough.
const NEWTON_STEPS: usize = 30;
/// The number of standard errors in the bound of an abstention rate: 99 % in one direction.
const BOUND: f32 = 2.33;
/// The largest bound of an abstention rate that is used. Our own choice.
const MAX_BOUND: f32 = 0.15;

impl Calibration {
    /// The calibration with the maximum posterior probability for the held-out examples. `None` if they are too few.
    /// `topics` are texts of no task.
    pub(super) fn fit(held: &[HeldOutExample], topics: &[ScoredText]) -> Option<Self> {
        let in_scope = || held.iter().filter(|one| one.in_scope);
        if in_scope().count() < MIN_HELD_OUT {
            return None;
        }
        let (_, score_spread) = mean_and_spread(in_scope().map(|one| one.score));
        let (_, familiarity_spread) = mean_and_spread(in_scope().map(|one| one.familiarity));
        let familiarity_weight =
            FAMILIARITY_SPREAD * score_spread / familiarity_spread.max(MIN_FAMILIARITY_SPREAD);
        let unfitted = Self {
            familiarity_weight,
            ..DEFAULT
        };
        let (mean, spread) =
            mean_and_spread(in_scope().map(|one| unfitted.sum(one.score, one.familiarity)));
        let spread = spread.max(1e-3);
        let weighed = |score, familiarity, right, weight| WeighedExample {
            value: f64::from((unfitted.sum(score, familiarity) - mean) / spread),
            right,
            weight,
        };
        let examples = held
            .iter()
            .map(|one| weighed(one.score, one.familiarity, one.correct, 1.0));
        let topic_weight = TOPIC_SHARE * held.len() as f64 / topics.len().max(1) as f64;
        let topics = topics
            .iter()
            .map(|one| weighed(one.score, one.familiarity, false, topic_weight));
        let (slope, offset) = fit_logistic(&examples.chain(topics).collect::<Vec<_>>());
        let slope = (slope as f32).max(0.1) / spread;
        Some(Self {
            familiarity_weight,
            slope,
            offset: offset as f32 - slope * mean,
        })
    }

    /// The calibration where none can be estimated.
    pub(super) fn typical() -> Self {
        DEFAULT
    }

    /// The probability that a task with this score for a text of this familiarity is right.
    pub(super) fn confidence(self, score: f32, familiarity: f32) -> f32 {
        logistic(self.slope * self.sum(score, familiarity) + self.offset)
    }

    fn sum(self, score: f32, familiarity: f32) -> f32 {
        score + self.familiarity_weight * familiarity
    }

    /// The confidence below which the classifier abstains.
    pub(super) fn threshold(self, rule: AbstainRule, held: &[HeldOutExample]) -> f32 {
        let in_scope = held.iter().filter(|one| one.in_scope);
        let confidences = in_scope.map(|one| self.confidence(one.score, one.familiarity));
        threshold(rule, confidences.collect())
    }
}

/// The confidence below which a classifier abstains that has these confidences in held-out examples of tasks.
pub(super) fn threshold(rule: AbstainRule, mut confidences: Vec<f32>) -> f32 {
    match rule {
        AbstainRule::MinConfidence(threshold) => threshold,
        AbstainRule::FalseAbstentionRate(rate) => {
            if confidences.len() < MIN_HELD_OUT && rate > 0.0 {
                return TYPICAL_THRESHOLD;
            }
            confidences.sort_by(f32::total_cmp);
            let bound = upper_bound(rate.clamp(0.0, 1.0), confidences.len());
            let below = (confidences.len() as f32 * bound) as usize;
            confidences.get(below).copied().unwrap_or(0.0)
        }
    }
}

/// The share of held-out examples from which the classifier may abstain: the upper bound of the confidence interval of
/// `rate` after `examples` trials (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927).
/// With few examples the threshold for a rate is known only roughly, and a request that is sent to a wrong task costs
/// more than one that is held back.
fn upper_bound(rate: f32, examples: usize) -> f32 {
    if rate == 0.0 || examples == 0 {
        return rate;
    }
    let n = examples as f32;
    let square = BOUND * BOUND;
    let error = (rate * (1.0 - rate) / n + square / (4.0 * n * n)).sqrt();
    let bound = (rate + square / (2.0 * n) + BOUND * error) / (1.0 + square / n);
    bound.min(MAX_BOUND.max(rate))
}

/// The mean and the standard deviation of values.
pub(super) fn mean_and_spread(values: impl Iterator<Item = f32> + Clone) -> (f32, f32) {
    let n = values.clone().count().max(1) as f32;
    let mean = values.clone().sum::<f32>() / n;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f32>() / n;
    (mean, variance.sqrt())
}

/// An example that the logistic function is fitted to.
pub(super) struct WeighedExample {
    pub(super) value: f64,
    pub(super) right: bool,
    /// As how many examples it counts.
    pub(super) weight: f64,
}

/// The slope and offset of the logistic function with the maximum posterior probability for examples.
pub(super) fn fit_logistic(examples: &[WeighedExample]) -> (f64, f64) {
    let weight_of = |which: bool| -> f64 {
        let examples = examples.iter().filter(|one| one.right == which);
        examples.map(|one| one.weight).sum()
    };
    let (right, wrong) = (weight_of(true), weight_of(false));
    // Platt's targets, which avoid 0 and 1.
    let (high, low) = ((right + 1.0) / (right + 2.0), 1.0 / (wrong + 2.0));
    let target = |one: &WeighedExample| if one.right { high } else { low };
    let loss = |slope: f64, offset: f64| -> f64 {
        let prior = (slope - PRIOR_SLOPE).powi(2) + offset.powi(2);
        let losses = examples.iter().map(|one| {
            let score = slope * one.value + offset;
            // ln(1 + e^score), without overflow.
            let softplus = score.max(0.0) + (-score.abs()).exp().ln_1p();
            one.weight * (softplus - target(one) * score)
        });
        losses.sum::<f64>() + prior / (2.0 * PRIOR_VARIANCE)
    };
    let (mut slope, mut offset) = (PRIOR_SLOPE, 0.0_f64);
    for _ in 0..NEWTON_STEPS {
        // The gradient and the second derivatives, those of the prior first.
        let mut g = [
            (slope - PRIOR_SLOPE) / PRIOR_VARIANCE,
            offset / PRIOR_VARIANCE,
        ];
        let mut h = [1.0 / PRIOR_VARIANCE, 0.0, 1.0 / PRIOR_VARIANCE];
        for one in examples {
            let p = 1.0 / (1.0 + (-(slope * one.value + offset)).exp());
            let miss = one.weight * (p - target(one));
            let curve = one.weight * p * (1.0 - p);
            g[0] += miss * one.value;
            g[1] += miss;
            h[0] += curve * one.value * one.value;
            h[1] += curve * one.value;
            h[2] += curve;
        }
        let determinant = h[0] * h[2] - h[1] * h[1];
        let step = [
            (h[2] * g[0] - h[1] * g[1]) / determinant,
            (h[0] * g[1] - h[1] * g[0]) / determinant,
        ];
        // Far from the optimum a whole step may lead away from it.
        let before = loss(slope, offset);
        let shares = std::iter::successors(Some(1.0), |share| Some(share / 2.0)).take(20);
        let better = shares
            .map(|share| (slope - share * step[0], offset - share * step[1]))
            .find(|(slope, offset)| loss(*slope, *offset) < before);
        let Some(better) = better else { break };
        (slope, offset) = better;
    }
    (slope, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of which the share `logistic(2 s - 1)` is right at the sum s of score and familiarity.
    fn held() -> Vec<HeldOutExample> {
        let mut held = Vec::new();
        for step in -20..20 {
            let score = step as f32 / 5.0;
            let right = (logistic(2.0 * score - 1.0) * 100.0).round() as usize;
            held.extend((0..100).map(|i| HeldOutExample {
                index: 0,
                best: 0,
                score,
                scores: vec![score],
                familiarity: 0.0,
                correct: i < right,
                in_scope: true,
            }));
        }
        held
    }

    #[test]
    fn confidence_is_the_share_of_correct_examples() {
        let fitted = Calibration::fit(&held(), &[]).unwrap();
        for score in [-1.0, 0.0, 0.5, 1.0, 2.0] {
            let expected = logistic(2.0 * score - 1.0);
            let confidence = fitted.confidence(score, 0.0);
            assert!(
                (confidence - expected).abs() < 0.03,
                "{score}: {confidence}"
            );
        }
    }

    #[test]
    fn fit_without_a_mistake_is_finite_and_one_to_few_examples_is_refused() {
        let mut held: Vec<_> = held().into_iter().filter(|one| one.correct).collect();
        let fitted = Calibration::fit(&held, &[]).unwrap();
        assert!(fitted.confidence(3.0, 0.0) > fitted.confidence(-3.0, 0.0));
        assert!(fitted.slope.is_finite() && fitted.offset.is_finite());
        held.truncate(MIN_HELD_OUT - 1);
        assert_eq!(Calibration::fit(&held, &[]), None);
    }

    #[test]
    fn familiar_texts_raise_the_confidence() {
        let mut held = held();
        for (number, one) in held.iter_mut().enumerate() {
            one.familiarity = (number % 10) as f32 / 10.0;
        }
        let fitted = Calibration::fit(&held, &[]).unwrap();
        assert!(fitted.confidence(1.0, 0.9) > fitted.confidence(1.0, 0.1));
    }

    #[test]
    fn threshold_abstains_from_no_more_than_the_bound_of_its_rate() {
        let held = held();
        let calibration = Calibration::fit(&held, &[]).unwrap();
        for rate in [0.0, 0.02, 0.1, 0.5] {
            let rule = AbstainRule::FalseAbstentionRate(rate);
            let threshold = calibration.threshold(rule, &held);
            let below = held.iter();
            let below = below.filter(|one| calibration.confidence(one.score, 0.0) < threshold);
            let below = below.count() as f32 / held.len() as f32;
            let bound = upper_bound(rate, held.len());
            assert!(below <= bound && below > rate - 0.03, "{rate}: {below}");
        }
        let rule = AbstainRule::FalseAbstentionRate(0.1);
        assert_eq!(calibration.threshold(rule, &[]), TYPICAL_THRESHOLD);
        let never = AbstainRule::FalseAbstentionRate(0.0);
        assert_eq!(calibration.threshold(never, &[]), 0.0);
        assert_eq!(
            calibration.threshold(AbstainRule::MinConfidence(0.7), &held),
            0.7
        );
    }

    #[test]
    fn bound_of_a_rate_is_near_it_with_many_examples_and_wide_with_few() {
        for (examples, bound) in [(15_000, 0.0228), (500, 0.0406), (200, 0.0590), (50, 0.1312)] {
            let found = upper_bound(0.02, examples);
            assert!((found - bound).abs() < 0.001, "{examples}: {found}");
        }
        assert_eq!(upper_bound(0.02, 10), MAX_BOUND);
        assert_eq!(upper_bound(0.3, 10), 0.3);
        assert_eq!(upper_bound(0.0, 10), 0.0);
    }
}
