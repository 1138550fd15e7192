//! The trade-off of a cascade's threshold, computed from evaluated answers: how many of the small
//! model's answers are accepted, how many of all answers are correct, and what they cost.

use super::{ConfidenceMeasure, ConfidenceThreshold};

/// An evaluated answer of the model whose threshold is sought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredAnswer {
    /// The confidence by the measure in question. `None` if it is not known: such an answer is never
    /// accepted.
    pub confidence: Option<f32>,
    /// Whether the answer is correct.
    pub correct: bool,
    /// The cost of the answer, in any unit, such as joules.
    pub cost: f32,
}

/// The answer that a request ends with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FinalAnswer {
    /// Whether the answer is correct.
    pub correct: bool,
    /// The cost of the attempts with all models for it.
    pub cost: f32,
}

/// A threshold with its effects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThresholdPoint {
    /// The threshold.
    pub threshold: ConfidenceThreshold,
    /// The share of the small model's answers that are accepted, 0 to 1.
    pub accepted: f32,
    /// The share of all answers that are correct, 0 to 1.
    pub quality: f32,
    /// The mean cost of an answer.
    pub cost: f32,
}

/// The final answer to each request if `small` answers first and `rest` answers where that answer is
/// not accepted.
#[must_use]
pub fn apply_threshold(
    threshold: ConfidenceThreshold,
    small: &[ScoredAnswer],
    rest: &[FinalAnswer],
) -> Vec<FinalAnswer> {
    let both = small.iter().zip(rest);
    let final_answer = |(small, rest): (&ScoredAnswer, &FinalAnswer)| {
        if threshold.accepts(small.confidence) {
            return FinalAnswer {
                correct: small.correct,
                cost: small.cost,
            };
        }
        FinalAnswer {
            correct: rest.correct,
            cost: small.cost + rest.cost,
        }
    };
    both.map(final_answer).collect()
}

/// The quality and cost of several answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerSummary {
    /// The share of the answers that are correct, 0 to 1.
    pub quality: f32,
    /// The mean cost of an answer.
    pub cost: f32,
}

impl AnswerSummary {
    /// Summarizes answers.
    #[must_use]
    pub fn new(answers: &[FinalAnswer]) -> Self {
        let total = answers.len().max(1) as f32;
        Self {
            quality: answers.iter().filter(|answer| answer.correct).count() as f32 / total,
            cost: answers.iter().map(|answer| answer.cost).sum::<f32>() / total,
        }
    }
}

/// The number of answers that a threshold accepts.
#[must_use]
pub fn count_accepted(threshold: ConfidenceThreshold, small: &[ScoredAnswer]) -> usize {
    let accepted = small
        .iter()
        .filter(|small| threshold.accepts(small.confidence));
    accepted.count()
}

/// The effects of all thresholds that differ in what they accept, from the one that accepts every
/// answer to the one that accepts none. Takes O(n log n) for n answers.
#[must_use]
pub fn threshold_curve(
    measure: ConfidenceMeasure,
    small: &[ScoredAnswer],
    rest: &[FinalAnswer],
) -> Vec<ThresholdPoint> {
    let total = small.len().min(rest.len());
    let mut order: Vec<usize> = (0..total).collect();
    let confidence = |i: usize| small[i].confidence.unwrap_or(-1.0);
    order.sort_by(|a, b| confidence(*a).total_cmp(&confidence(*b)));
    // The first point accepts every answer of a known confidence.
    let known = order.partition_point(|i| small[*i].confidence.is_none());
    let correct_if = |i: usize, accepted: bool| {
        i32::from(if accepted {
            small[i].correct
        } else {
            rest[i].correct
        })
    };
    let mut correct: i32 = order
        .iter()
        .enumerate()
        .map(|(n, i)| correct_if(*i, n >= known))
        .sum();
    let mut cost: f64 = small[..total].iter().map(|s| f64::from(s.cost)).sum();
    cost += order[..known]
        .iter()
        .map(|i| f64::from(rest[*i].cost))
        .sum::<f64>();
    let mut points = Vec::new();
    let mut first_accepted = known;
    let all = total.max(1) as f32;
    loop {
        // The last threshold is above every confidence.
        let at_least = order
            .get(first_accepted)
            .map_or(1.000_001, |i| confidence(*i));
        points.push(ThresholdPoint {
            threshold: ConfidenceThreshold { measure, at_least },
            accepted: (total - first_accepted) as f32 / all,
            quality: correct as f32 / all,
            cost: (cost / f64::from(all)) as f32,
        });
        if first_accepted == total {
            return points;
        }
        // Answers of equal confidence are accepted or not together.
        while first_accepted < total && confidence(order[first_accepted]) <= at_least {
            let i = order[first_accepted];
            correct += correct_if(i, false) - correct_if(i, true);
            cost += f64::from(rest[i].cost);
            first_accepted += 1;
        }
    }
}

/// The cheapest point of at least the `target` quality, or else the one of the best quality. Returns
/// `None` without points.
#[must_use]
pub fn choose_threshold(points: &[ThresholdPoint], target: f32) -> Option<ThresholdPoint> {
    let enough = points.iter().filter(|point| point.quality >= target);
    let cheapest = enough.min_by(|a, b| a.cost.total_cmp(&b.cost));
    let best = || points.iter().max_by(|a, b| a.quality.total_cmp(&b.quality));
    cheapest.or_else(best).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(confidence: f32, correct: bool) -> ScoredAnswer {
        ScoredAnswer {
            confidence: Some(confidence),
            correct,
            cost: 1.0,
        }
    }

    fn rest(correct: bool) -> FinalAnswer {
        FinalAnswer {
            correct,
            cost: 10.0,
        }
    }

    #[test]
    fn cheapest_threshold_of_sufficient_quality_is_chosen() {
        let small = [
            scored(0.9, true),
            scored(0.8, true),
            scored(0.4, false),
            scored(0.2, false),
        ];
        let large = [rest(true), rest(true), rest(true), rest(false)];
        let points = threshold_curve(ConfidenceMeasure::Min, &small, &large);
        assert_eq!(points.len(), 5);
        assert_eq!(
            (points[0].accepted, points[0].quality, points[0].cost),
            (1.0, 0.5, 1.0)
        );
        assert_eq!(
            (points[4].accepted, points[4].quality, points[4].cost),
            (0.0, 0.75, 11.0)
        );
        let chosen = choose_threshold(&points, 0.75).unwrap();
        assert_eq!((chosen.threshold.at_least, chosen.accepted), (0.8, 0.5));
        assert_eq!(chosen.cost, 6.0);
        assert_eq!(choose_threshold(&points, 0.99).unwrap().quality, 0.75);
        assert_eq!(choose_threshold(&[], 0.5), None);
    }

    #[test]
    fn answer_of_unknown_confidence_is_never_accepted() {
        let unknown = ScoredAnswer {
            confidence: None,
            ..scored(0.0, true)
        };
        let points = threshold_curve(
            ConfidenceMeasure::Min,
            &[unknown, scored(0.0, true)],
            &[rest(false), rest(true)],
        );
        assert_eq!(points[0].accepted, 0.5);
        assert_eq!(points[0].quality, 0.5);
    }

    proptest! {
        #[test]
        fn curve_agrees_with_applying_each_threshold(
            items in proptest::collection::vec((0u8..8, any::<bool>(), any::<bool>(), 1u8..9), 1..60),
        ) {
            let small: Vec<_> = items
                .iter()
                .map(|(c, correct, ..)| scored(f32::from(*c) / 8.0, *correct))
                .collect();
            let large: Vec<_> = items
                .iter()
                .map(|(.., correct, cost)| FinalAnswer { correct: *correct, cost: f32::from(*cost) })
                .collect();
            for point in threshold_curve(ConfidenceMeasure::Margin, &small, &large) {
                let found = AnswerSummary::new(&apply_threshold(point.threshold, &small, &large));
                let accepted = count_accepted(point.threshold, &small) as f32 / small.len() as f32;
                prop_assert!((point.accepted - accepted).abs() < 1e-5);
                prop_assert!((point.quality - found.quality).abs() < 1e-5);
                prop_assert!((point.cost - found.cost).abs() < 1e-3);
            }
        }
    }
}
