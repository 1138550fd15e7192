//! The objective of a task: weights and limits of its answers, and the score of each candidate.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{HumanDuration, Joules};

/// The weights by which candidates are compared where several models can answer a task. Only their
/// proportions matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = require_positive_weight)]
pub struct ObjectiveWeights {
    /// The weight of measured quality, 0 or more.
    #[schemars(range(min = 0.0))]
    pub quality: f32,
    /// The weight of the predicted time, 0 or more.
    #[schemars(range(min = 0.0))]
    pub latency: f32,
    /// The weight of the predicted energy, 0 or more.
    #[schemars(range(min = 0.0))]
    pub energy: f32,
}

/// Adds the rule that the weights are not all 0.
fn require_positive_weight(schema: &mut Schema) {
    let rules = ["quality", "latency", "energy"].map(|weight| {
        json!({ "required": [weight], "properties": { weight: { "exclusiveMinimum": 0 } } })
    });
    schema.insert("anyOf".into(), rules.to_vec().into());
}

/// Limits that each answer has to keep. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnswerLimits {
    /// The least measured quality for the task, 0 to 1. A model that was not measured fails it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_quality: Option<f32>,
    /// The longest predicted time to the end of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<HumanDuration>,
    /// The most predicted energy of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_joules: Option<Joules>,
}

/// The answer that is expected of a candidate. `None` is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpectedAnswer {
    /// The model's measured quality, 0 to 1.
    pub quality: Option<f32>,
    /// Seconds to the end of the answer.
    pub seconds: Option<f32>,
    /// The energy of the answer.
    pub joules: Option<Joules>,
}

/// How well a candidate meets an objective, compared with the other candidates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveScore {
    /// The weighted mean of the parts, 0 to 1.
    pub total: f32,
    /// Its quality divided by the best candidate's.
    pub quality: f32,
    /// The fastest candidate's time divided by its own.
    pub latency: f32,
    /// The least energy of the candidates divided by its own.
    pub energy: f32,
}

impl AnswerLimits {
    /// The stricter one of each limit.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        fn strictest<T: PartialOrd>(
            a: Option<T>,
            b: Option<T>,
            is_stricter: fn(&T, &T) -> bool,
        ) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(if is_stricter(&a, &b) { a } else { b }),
                (a, b) => a.or(b),
            }
        }
        Self {
            min_quality: strictest(self.min_quality, other.min_quality, |a, b| a > b),
            max_latency: strictest(self.max_latency, other.max_latency, |a, b| a < b),
            max_joules: strictest(self.max_joules, other.max_joules, |a, b| a < b),
        }
    }
}

/// The scores of candidates, in the order of the candidates. An unknown quality counts as the worst
/// known one of the others, so that measured models come first; unknown time and energy count as the
/// best known, so that the candidate is tried and becomes known.
#[must_use]
pub fn score_candidates(
    weights: ObjectiveWeights,
    candidates: &[ExpectedAnswer],
) -> Vec<ObjectiveScore> {
    let known = |value: fn(&ExpectedAnswer) -> Option<f32>| candidates.iter().filter_map(value);
    let seconds = |e: &ExpectedAnswer| e.seconds.map(|s| s.max(f32::MIN_POSITIVE));
    let joules = |e: &ExpectedAnswer| e.joules.map(|Joules(j)| j.max(f32::MIN_POSITIVE));
    let best_quality = known(|e| e.quality).fold(0.0, f32::max);
    let worst_quality = known(|e| e.quality).fold(f32::INFINITY, f32::min);
    let least_seconds = known(seconds).fold(f32::INFINITY, f32::min);
    let least_joules = known(joules).fold(f32::INFINITY, f32::min);
    let sum = weights.quality + weights.latency + weights.energy;
    let score = |candidate: &ExpectedAnswer| {
        let quality = candidate.quality.unwrap_or(worst_quality);
        let quality = if best_quality > 0.0 {
            quality / best_quality
        } else {
            1.0
        };
        let latency = seconds(candidate).map_or(1.0, |s| least_seconds / s);
        let energy = joules(candidate).map_or(1.0, |j| least_joules / j);
        let total = weights.quality * quality + weights.latency * latency + weights.energy * energy;
        ObjectiveScore {
            total: if sum > 0.0 { total / sum } else { 1.0 },
            quality,
            latency,
            energy,
        }
    };
    candidates.iter().map(score).collect()
}

/// The index of the best score, the first one of equal ones. Returns `None` without scores.
#[must_use]
pub fn best_score(scores: &[ObjectiveScore]) -> Option<usize> {
    // `max_by` returns the last of equal elements, which from behind is the first.
    let scores = scores.iter().enumerate().rev();
    let best = scores.max_by(|(_, a), (_, b)| a.total.total_cmp(&b.total));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn expected(quality: f32, seconds: f32, joules: f32) -> ExpectedAnswer {
        ExpectedAnswer {
            quality: Some(quality),
            seconds: Some(seconds),
            joules: Some(Joules(joules)),
        }
    }

    fn first(weights: ObjectiveWeights, candidates: &[ExpectedAnswer]) -> usize {
        best_score(&score_candidates(weights, candidates)).unwrap()
    }

    fn weights(quality: f32, latency: f32, energy: f32) -> ObjectiveWeights {
        ObjectiveWeights {
            quality,
            latency,
            energy,
        }
    }

    #[test]
    fn weights_decide() {
        let small = expected(0.90, 0.1, 1.0);
        let large = expected(0.95, 0.5, 9.0);
        assert_eq!(first(weights(1.0, 0.0, 0.0), &[small, large]), 1);
        assert_eq!(first(weights(0.0, 1.0, 0.0), &[small, large]), 0);
        assert_eq!(first(weights(0.0, 0.0, 1.0), &[small, large]), 0);
        assert_eq!(first(weights(1.0, 0.01, 0.01), &[small, large]), 1);
        let scores = score_candidates(weights(1.0, 1.0, 0.0), &[small, large]);
        assert!((scores[1].latency - 0.2).abs() < 1e-6, "{scores:?}");
        assert!((scores[1].total - 0.6).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn first_of_equal_scores_is_best() {
        let one = expected(0.9, 0.1, 1.0);
        assert_eq!(first(weights(1.0, 1.0, 1.0), &[one, one, one]), 0);
        assert_eq!(best_score(&[]), None);
    }

    #[test]
    fn measured_models_come_first_and_unknown_times_are_tried() {
        let measured = expected(0.9, 0.1, 1.0);
        let unmeasured = ExpectedAnswer::default();
        let scores = score_candidates(
            weights(1.0, 0.0, 0.0),
            &[unmeasured, expected(0.5, 1.0, 1.0), measured],
        );
        assert!(scores[0].total < scores[2].total);
        let scores = score_candidates(weights(0.0, 1.0, 0.0), &[unmeasured, measured]);
        assert_eq!(scores[0].total, 1.0);
    }

    #[test]
    fn stricter_limits_are_enforced() {
        let limits = AnswerLimits {
            min_quality: Some(0.9),
            max_latency: Some(HumanDuration(Duration::from_millis(500))),
            max_joules: None,
        };
        let both = limits.strictest(AnswerLimits {
            min_quality: Some(0.8),
            max_latency: Some(HumanDuration(Duration::from_millis(100))),
            max_joules: Some(Joules(2.0)),
        });
        assert_eq!(both.min_quality, Some(0.9));
        assert_eq!(
            both.max_latency,
            Some(HumanDuration(Duration::from_millis(100)))
        );
        assert_eq!(both.max_joules, Some(Joules(2.0)));
    }

    proptest! {
        #[test]
        fn candidate_better_in_everything_never_scores_lower(
            quality in 0.1f32..0.9, seconds in 0.01f32..10.0, joules in 0.01f32..100.0,
            w in (0.0f32..1.0, 0.0f32..1.0, 0.01f32..1.0),
        ) {
            let worse = expected(quality, seconds, joules);
            let better = expected(quality + 0.05, seconds * 0.9, joules * 0.9);
            let scores = score_candidates(weights(w.0, w.1, w.2), &[worse, better]);
            prop_assert!(scores[1].total >= scores[0].total);
            prop_assert!(scores.iter().all(|s| (0.0..=1.0001).contains(&s.total)));
        }
    }
}
