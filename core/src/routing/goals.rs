//! What a task wants of its answers, and how near each candidate comes to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{HumanDuration, Joules};

/// What counts how much where several models can answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectiveWeights {
    pub quality: f32,
    pub latency: f32,
    pub energy: f32,
}

/// What no answer may fall short of or exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnswerLimits {
    /// Measured quality for the task, 0 to 1. A model that was not measured falls short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_quality: Option<f32>,
    /// Longest predicted time to the end of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<HumanDuration>,
    /// Most energy that the answer is predicted to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_joules: Option<Joules>,
}

/// What is expected of a candidate. What is not known is left open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpectedAnswer {
    /// Measured quality, 0 to 1.
    pub quality: Option<f32>,
    /// To the end of the answer, in seconds.
    pub seconds: Option<f32>,
    pub joules: Option<Joules>,
}

/// How near a candidate comes to what is wanted: each part is 1 for the best of the candidates and
/// less in proportion for others; `total` is their weighted mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveScore {
    pub total: f32,
    pub quality: f32,
    pub latency: f32,
    pub energy: f32,
}

/// Which limit a candidate does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitViolation {
    /// It was never measured, or another revision of it was.
    NotMeasured,
    Quality,
    Latency,
    Energy,
}

impl AnswerLimits {
    /// Both limits, the stricter of each.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        fn stricter<T: PartialOrd>(
            a: Option<T>,
            b: Option<T>,
            first: fn(&T, &T) -> bool,
        ) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(if first(&a, &b) { a } else { b }),
                (a, b) => a.or(b),
            }
        }
        Self {
            min_quality: stricter(self.min_quality, other.min_quality, |a, b| a > b),
            max_latency: stricter(self.max_latency, other.max_latency, |a, b| a < b),
            max_joules: stricter(self.max_joules, other.max_joules, |a, b| a < b),
        }
    }

    /// Whether a model of this measured quality may not answer.
    #[must_use]
    pub fn quality_breach(self, quality: Option<f32>) -> Option<LimitViolation> {
        let least = self.min_quality?;
        match quality {
            None => Some(LimitViolation::NotMeasured),
            Some(quality) => (quality < least).then_some(LimitViolation::Quality),
        }
    }

    /// Whether a replica may not answer. One of which nothing is known yet may: it could never
    /// become known otherwise.
    #[must_use]
    pub fn replica_breach(self, expected: ExpectedAnswer) -> Option<LimitViolation> {
        let longest = self.max_latency.map(|HumanDuration(longest)| longest);
        let late = |seconds: f32| longest.is_some_and(|longest| is_longer(seconds, longest));
        if expected.seconds.is_some_and(late) {
            return Some(LimitViolation::Latency);
        }
        let over = matches!((expected.joules, self.max_joules), (Some(j), Some(most)) if j > most);
        over.then_some(LimitViolation::Energy)
    }
}

/// Whether so many predicted seconds are longer than a limit.
#[must_use]
pub fn is_longer(seconds: f32, limit: Duration) -> bool {
    seconds > limit.as_secs_f32()
}

/// The scores of candidates, in their order. What is not known of one counts, for quality, as the
/// worst that is known of the others, so that what was measured goes first; for time and energy
/// as the best, so that it is tried and becomes known.
#[must_use]
pub fn score(weights: ObjectiveWeights, candidates: &[ExpectedAnswer]) -> Vec<ObjectiveScore> {
    let known = |of: fn(&ExpectedAnswer) -> Option<f32>| candidates.iter().filter_map(of);
    let seconds = |e: &ExpectedAnswer| e.seconds.map(|s| s.max(f32::MIN_POSITIVE));
    let joules = |e: &ExpectedAnswer| e.joules.map(|Joules(j)| j.max(f32::MIN_POSITIVE));
    let best = known(|e| e.quality).fold(0.0, f32::max);
    let worst = known(|e| e.quality).fold(f32::INFINITY, f32::min);
    let soonest = known(seconds).fold(f32::INFINITY, f32::min);
    let least = known(joules).fold(f32::INFINITY, f32::min);
    let sum = weights.quality + weights.latency + weights.energy;
    let of_one = |candidate: &ExpectedAnswer| {
        let quality = candidate.quality.unwrap_or(worst);
        let quality = if best > 0.0 { quality / best } else { 1.0 };
        let latency = seconds(candidate).map_or(1.0, |s| soonest / s);
        let energy = joules(candidate).map_or(1.0, |j| least / j);
        let total = weights.quality * quality + weights.latency * latency + weights.energy * energy;
        ObjectiveScore {
            total: if sum > 0.0 { total / sum } else { 1.0 },
            quality,
            latency,
            energy,
        }
    };
    candidates.iter().map(of_one).collect()
}

/// The first of the candidates that come nearest to what is wanted.
#[must_use]
pub fn nearest(scores: &[ObjectiveScore]) -> Option<usize> {
    // Of equal ones the last is taken, so that from behind it is the first.
    let scores = scores.iter().enumerate().rev();
    let best = scores.max_by(|(_, a), (_, b)| a.total.total_cmp(&b.total));
    best.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expected(quality: f32, seconds: f32, joules: f32) -> ExpectedAnswer {
        ExpectedAnswer {
            quality: Some(quality),
            seconds: Some(seconds),
            joules: Some(Joules(joules)),
        }
    }

    fn first(weights: ObjectiveWeights, candidates: &[ExpectedAnswer]) -> usize {
        nearest(&score(weights, candidates)).unwrap()
    }

    fn weights(quality: f32, latency: f32, energy: f32) -> ObjectiveWeights {
        ObjectiveWeights {
            quality,
            latency,
            energy,
        }
    }

    #[test]
    fn what_counts_decides() {
        let small = expected(0.90, 0.1, 1.0);
        let large = expected(0.95, 0.5, 9.0);
        assert_eq!(first(weights(1.0, 0.0, 0.0), &[small, large]), 1);
        assert_eq!(first(weights(0.0, 1.0, 0.0), &[small, large]), 0);
        assert_eq!(first(weights(0.0, 0.0, 1.0), &[small, large]), 0);
        assert_eq!(first(weights(1.0, 0.01, 0.01), &[small, large]), 1);
        let scores = score(weights(1.0, 1.0, 0.0), &[small, large]);
        assert!((scores[1].latency - 0.2).abs() < 1e-6, "{scores:?}");
        assert!((scores[1].total - 0.6).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn of_equal_ones_the_first_is_nearest() {
        let one = expected(0.9, 0.1, 1.0);
        assert_eq!(first(weights(1.0, 1.0, 1.0), &[one, one, one]), 0);
        assert_eq!(nearest(&[]), None);
    }

    #[test]
    fn the_measured_go_before_the_unmeasured_and_the_untimed_are_tried() {
        let measured = expected(0.9, 0.1, 1.0);
        let unmeasured = ExpectedAnswer::default();
        let scores = score(
            weights(1.0, 0.0, 0.0),
            &[unmeasured, expected(0.5, 1.0, 1.0), measured],
        );
        assert!(scores[0].total < scores[2].total);
        let scores = score(weights(0.0, 1.0, 0.0), &[unmeasured, measured]);
        assert_eq!(scores[0].total, 1.0);
    }

    #[test]
    fn limits_are_kept_and_the_stricter_one_holds() {
        let limits = AnswerLimits {
            min_quality: Some(0.9),
            max_latency: Some(HumanDuration(Duration::from_millis(500))),
            max_joules: None,
        };
        let both = limits.and(AnswerLimits {
            min_quality: Some(0.8),
            max_latency: Some(HumanDuration(Duration::from_millis(100))),
            max_joules: Some(Joules(2.0)),
        });
        assert_eq!(both.min_quality, Some(0.9));
        assert_eq!(both.quality_breach(None), Some(LimitViolation::NotMeasured));
        assert_eq!(
            both.quality_breach(Some(0.85)),
            Some(LimitViolation::Quality)
        );
        assert_eq!(both.quality_breach(Some(0.9)), None);
        let breach = |seconds, joules| both.replica_breach(expected(1.0, seconds, joules));
        assert_eq!(breach(0.2, 1.0), Some(LimitViolation::Latency));
        assert_eq!(breach(0.05, 3.0), Some(LimitViolation::Energy));
        assert_eq!(breach(0.05, 1.0), None);
        assert_eq!(both.replica_breach(ExpectedAnswer::default()), None);
        assert_eq!(AnswerLimits::default().quality_breach(None), None);
    }

    proptest! {
        #[test]
        fn one_that_is_better_in_everything_is_never_behind(
            quality in 0.1f32..0.9, seconds in 0.01f32..10.0, joules in 0.01f32..100.0,
            w in (0.0f32..1.0, 0.0f32..1.0, 0.01f32..1.0),
        ) {
            let worse = expected(quality, seconds, joules);
            let better = expected(quality + 0.05, seconds * 0.9, joules * 0.9);
            let scores = score(weights(w.0, w.1, w.2), &[worse, better]);
            prop_assert!(scores[1].total >= scores[0].total);
            prop_assert!(scores.iter().all(|s| (0.0..=1.0001).contains(&s.total)));
        }
    }
}
