//! Calibrates a classifier: which probability a score stands for, and the threshold from which on the
//! classification is used. Both are computed from examples that were held out of training.

use super::train::logistic;

/// A held-out example, classified by a classifier that was not trained on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldOutExample {
    /// The score of the best task.
    pub(super) score: f32,
    /// Whether the best task is the right one.
    pub(super) correct: bool,
    /// Whether the example belongs to any task.
    pub(super) in_scope: bool,
}

/// Converts scores to probabilities: `logistic(slope * score + offset)` (Platt, "Probabilistic
/// Outputs for Support Vector Machines", 1999).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PlattCalibration {
    slope: f32,
    offset: f32,
}

impl Default for PlattCalibration {
    /// The identity: the score as the log-odds that logistic regression estimates.
    fn default() -> Self {
        Self {
            slope: 1.0,
            offset: 0.0,
        }
    }
}

/// The least number of held-out examples. A fit to fewer would be far too confident about requests out
/// of scope, of which there are then no examples. Our own choice.
const MIN_EXAMPLES: usize = 300;
/// The least number of correct and of wrong examples. Our own choice.
const MIN_PER_CLASS: usize = 10;
/// Newton steps; five are enough if the fit converges.
const NEWTON_STEPS: usize = 30;
/// Plausible slopes: one outside shows an unusual sample rather than useless or perfect scores.
const PLAUSIBLE_SLOPES: std::ops::RangeInclusive<f64> = 0.2..=5.0;

impl PlattCalibration {
    /// The calibration with the maximum likelihood for the held-out examples.
    pub(super) fn fit(held: &[HeldOutExample]) -> Self {
        let correct = held.iter().filter(|one| one.correct).count();
        let wrong = held.len() - correct;
        if held.len() < MIN_EXAMPLES || correct < MIN_PER_CLASS || wrong < MIN_PER_CLASS {
            return Self::default();
        }
        // Platt's targets, which avoid 0 and 1.
        let high = (correct as f64 + 1.0) / (correct as f64 + 2.0);
        let low = 1.0 / (wrong as f64 + 2.0);
        let (mut slope, mut offset) = (1.0_f64, 0.0_f64);
        for _ in 0..NEWTON_STEPS {
            // The gradient, and the second derivatives with a little on the diagonal.
            let (mut g, mut h) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
            for one in held {
                let score = f64::from(one.score);
                let p = 1.0 / (1.0 + (-(slope * score + offset)).exp());
                let miss = p - if one.correct { high } else { low };
                let curve = p * (1.0 - p);
                g[0] += miss * score;
                g[1] += miss;
                h[0] += curve * score * score;
                h[1] += curve * score;
                h[2] += curve;
            }
            let determinant = h[0] * h[2] - h[1] * h[1];
            let step = [
                (h[2] * g[0] - h[1] * g[1]) / determinant,
                (h[0] * g[1] - h[1] * g[0]) / determinant,
            ];
            slope -= step[0];
            offset -= step[1];
        }
        if !offset.is_finite() || !PLAUSIBLE_SLOPES.contains(&slope) {
            return Self::default();
        }
        Self {
            slope: slope as f32,
            offset: offset as f32,
        }
    }

    /// The probability that a task with this score is right.
    pub(super) fn confidence(self, score: f32) -> f32 {
        logistic(self.slope * score + self.offset)
    }

    /// The highest threshold below which at most the share `cost` of the examples in scope falls.
    pub(super) fn threshold(self, held: &[HeldOutExample], cost: f32) -> f32 {
        let in_scope = held.iter().filter(|one| one.in_scope);
        let mut confidences: Vec<f32> = in_scope.map(|one| self.confidence(one.score)).collect();
        confidences.sort_by(f32::total_cmp);
        let below = (confidences.len() as f32 * cost.clamp(0.0, 1.0)) as usize;
        confidences.get(below).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of which the share `logistic(2 s - 1)` is correct at the score s.
    fn held() -> Vec<HeldOutExample> {
        let mut held = Vec::new();
        for step in -20..20 {
            let score = step as f32 / 5.0;
            let correct = (logistic(2.0 * score - 1.0) * 100.0).round() as usize;
            held.extend((0..100).map(|i| HeldOutExample {
                score,
                correct: i < correct,
                in_scope: true,
            }));
        }
        held
    }

    #[test]
    fn confidence_is_the_share_of_correct_examples() {
        let fitted = PlattCalibration::fit(&held());
        assert!((fitted.slope - 2.0).abs() < 0.1, "{fitted:?}");
        assert!((fitted.offset + 1.0).abs() < 0.1, "{fitted:?}");
        assert!((fitted.confidence(0.5) - 0.5).abs() < 0.02);
    }

    #[test]
    fn too_few_mistakes_leave_the_default() {
        let all_correct: Vec<_> = held().into_iter().filter(|one| one.correct).collect();
        assert_eq!(
            PlattCalibration::fit(&all_correct),
            PlattCalibration::default()
        );
        assert_eq!(PlattCalibration::fit(&[]), PlattCalibration::default());
    }

    #[test]
    fn threshold_abstains_from_no_more_than_its_cost() {
        let (held, calibration) = (held(), PlattCalibration::default());
        for cost in [0.0, 0.02, 0.1, 0.5] {
            let threshold = calibration.threshold(&held, cost);
            let lost = held
                .iter()
                .filter(|one| calibration.confidence(one.score) < threshold);
            let lost = lost.count() as f32 / held.len() as f32;
            assert!(lost <= cost && lost > cost - 0.03, "{cost}: {lost}");
        }
        assert_eq!(calibration.threshold(&[], 0.1), 0.0);
    }
}
