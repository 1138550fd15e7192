//! What a score is worth: the probability that the task is right, and from which one on it is
//! acted upon. Both are read off examples that were held out of training.

use super::train::logistic;

/// A held-out example: the score of the task that came out first, whether that was right, and
/// whether the example belongs to any task.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldOutExample {
    pub(super) score: f32,
    pub(super) right: bool,
    pub(super) in_scope: bool,
}

/// Turns scores into probabilities: `logistic(slope * score + offset)` (Platt, "Probabilistic
/// Outputs for Support Vector Machines", 1999).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PlattCalibration {
    slope: f32,
    offset: f32,
}

impl Default for PlattCalibration {
    /// The score as logistic regression means it.
    fn default() -> Self {
        Self {
            slope: 1.0,
            offset: 0.0,
        }
    }
}

/// Held-out examples that are needed at least. What fewer say of requests in scope would make
/// much too sure of the others, of which there is then no example.
const ENOUGH: usize = 300;
/// Right and wrong ones that are needed at least to tell anything.
const NEEDED: usize = 10;
/// Newton steps; five are enough where it converges.
const STEPS: usize = 30;
/// A slope outside says that the sample was odd, not that scores mean nothing or all.
const SLOPES: std::ops::RangeInclusive<f64> = 0.2..=5.0;

impl PlattCalibration {
    /// The one under which `held` is most probable.
    pub(super) fn fit(held: &[HeldOutExample]) -> Self {
        let right = held.iter().filter(|one| one.right).count();
        let wrong = held.len() - right;
        if held.len() < ENOUGH || right < NEEDED || wrong < NEEDED {
            return Self::default();
        }
        // Platt's targets, which keep off 0 and 1.
        let high = (right as f64 + 1.0) / (right as f64 + 2.0);
        let low = 1.0 / (wrong as f64 + 2.0);
        let (mut slope, mut offset) = (1.0_f64, 0.0_f64);
        for _ in 0..STEPS {
            // The gradient, and the second derivatives with a little on the diagonal.
            let (mut g, mut h) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
            for one in held {
                let score = f64::from(one.score);
                let p = 1.0 / (1.0 + (-(slope * score + offset)).exp());
                let miss = p - if one.right { high } else { low };
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
        if !offset.is_finite() || !SLOPES.contains(&slope) {
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

    /// The highest confidence that at most `cost` of the examples in scope fall below.
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

    /// Of those with score s, the part `logistic(2 s - 1)` is right.
    fn held() -> Vec<HeldOutExample> {
        let mut held = Vec::new();
        for step in -20..20 {
            let score = step as f32 / 5.0;
            let right = (logistic(2.0 * score - 1.0) * 100.0).round() as usize;
            held.extend((0..100).map(|i| HeldOutExample {
                score,
                right: i < right,
                in_scope: true,
            }));
        }
        held
    }

    #[test]
    fn confidence_is_the_part_that_is_right() {
        let fitted = PlattCalibration::fit(&held());
        assert!((fitted.slope - 2.0).abs() < 0.1, "{fitted:?}");
        assert!((fitted.offset + 1.0).abs() < 0.1, "{fitted:?}");
        assert!((fitted.confidence(0.5) - 0.5).abs() < 0.02);
    }

    #[test]
    fn too_few_mistakes_teach_nothing() {
        let all_right: Vec<_> = held().into_iter().filter(|one| one.right).collect();
        assert_eq!(
            PlattCalibration::fit(&all_right),
            PlattCalibration::default()
        );
        assert_eq!(PlattCalibration::fit(&[]), PlattCalibration::default());
    }

    #[test]
    fn the_threshold_costs_no_more_than_it_may() {
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
