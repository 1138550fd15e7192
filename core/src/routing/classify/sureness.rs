//! Whether the classifier is sure of its best task: how probable it is that it is right, by how far the score of the best
//! task is above that of the second. Of a request of the tasks this says more about an error than the confidence does,
//! which is as low for a request that belongs to no task: of CLINC150's domains with 20 examples each, an encoder that
//! classifies 30 % of the requests corrects 4.9 of 100 by this measure, and 3.5 by the confidence.

use super::calibrate::{MIN_HELD_OUT, WeighedExample, fit_logistic, mean_and_spread};
use super::hold_out::HeldOutExample;
use super::train::logistic;

/// The probability below which the classifier is unsure. With it an encoder classifies 29 % of CLINC150's requests with 20
/// examples of each domain, and hardly any with 1,500.
const SURE: f32 = 0.67;

/// Converts the margin between the best two scores to the probability that the best task is right, for requests of the
/// tasks: `logistic(slope * margin + offset)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sureness {
    slope: f32,
    offset: f32,
}

impl Sureness {
    /// Fits the probability to held-out examples. With too few of them no request is sure.
    pub(super) fn fit(held: &[HeldOutExample]) -> Self {
        let in_scope: Vec<_> = held.iter().filter(|one| one.in_scope).collect();
        if in_scope.len() < MIN_HELD_OUT {
            return Self {
                slope: 0.0,
                offset: f32::NEG_INFINITY,
            };
        }
        let margins = || in_scope.iter().map(|one| margin(&one.scores));
        if margins().any(|margin| !margin.is_finite()) {
            // There is one task only.
            return Self {
                slope: 0.0,
                offset: f32::INFINITY,
            };
        }
        let (mean, spread) = mean_and_spread(margins());
        let spread = spread.max(1e-3);
        let examples: Vec<_> = in_scope
            .iter()
            .map(|one| WeighedExample {
                value: f64::from((margin(&one.scores) - mean) / spread),
                right: one.correct,
                weight: 1.0,
            })
            .collect();
        let (slope, offset) = fit_logistic(&examples);
        let slope = slope.max(0.0) as f32 / spread;
        Self {
            slope,
            offset: offset as f32 - slope * mean,
        }
    }

    /// Whether a text with these scores of the tasks is likely enough to be classified wrongly.
    pub(super) fn is_unsure(self, scores: &[f32]) -> bool {
        let margin = margin(scores);
        margin.is_finite() && logistic(self.slope * margin + self.offset) < SURE
    }
}

/// How far the highest score is above the second. Infinite for a single task.
fn margin(scores: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &score in scores {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    first - second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(margin: f32, correct: bool) -> HeldOutExample {
        HeldOutExample {
            index: 0,
            best: 0,
            score: margin,
            scores: vec![margin, 0.0],
            familiarity: 0.0,
            correct,
            in_scope: true,
        }
    }

    #[test]
    fn small_margins_are_unsure_where_they_are_often_wrong() {
        let held: Vec<_> = (0..400)
            .map(|i| held((i / 100) as f32, i % 4 < i / 100 + 1))
            .collect();
        let sureness = Sureness::fit(&held);
        assert!(sureness.is_unsure(&[0.5, 0.4, 0.0]));
        assert!(!sureness.is_unsure(&[3.0, 0.0, -1.0]));
    }

    #[test]
    fn nothing_is_sure_without_held_out_examples_and_a_single_task_always_is() {
        assert!(Sureness::fit(&[]).is_unsure(&[9.0, 0.0]));
        assert!(!Sureness::fit(&[]).is_unsure(&[9.0]));
        let held: Vec<_> = (0..20).map(|i| held(1.0, i % 2 == 0)).collect();
        assert!(Sureness::fit(&held).is_unsure(&[1.0, 0.0]));
    }
}
