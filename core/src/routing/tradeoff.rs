//! What a cascade's threshold costs and brings, from answers that were judged: how many of the
//! small model's answers are kept, how many of all are right, what they take.

use super::{ConfidenceMeasure, ConfidenceThreshold};

/// An answer of the model whose threshold is sought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredAnswer {
    /// How sure it was, by the measure looked at. `None`: it is not known, and never kept.
    pub confidence: Option<f32>,
    pub right: bool,
    /// What it took: joules, say.
    pub cost: f32,
}

/// The answer that a request ends with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FinalAnswer {
    pub right: bool,
    pub cost: f32,
}

/// A threshold and what comes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThresholdPoint {
    pub accept: ConfidenceThreshold,
    /// The part of the answers that is kept, 0 to 1.
    pub kept: f32,
    /// The part of all answers that is right, 0 to 1.
    pub quality: f32,
    /// The mean of what an answer takes.
    pub cost: f32,
}

/// What comes of each request where `small` answers first and the answers that are not kept are
/// those of the `rest`.
#[must_use]
pub fn with(
    accept: ConfidenceThreshold,
    small: &[ScoredAnswer],
    rest: &[FinalAnswer],
) -> Vec<FinalAnswer> {
    let both = small.iter().zip(rest);
    let of_one = |(small, rest): (&ScoredAnswer, &FinalAnswer)| {
        if accept.keeps(small.confidence) {
            return FinalAnswer {
                right: small.right,
                cost: small.cost,
            };
        }
        FinalAnswer {
            right: rest.right,
            cost: small.cost + rest.cost,
        }
    };
    both.map(of_one).collect()
}

/// What some answers are like as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerSummary {
    /// The part of them that is right, 0 to 1.
    pub quality: f32,
    /// The mean of what one takes.
    pub cost: f32,
}

impl AnswerSummary {
    /// What these are like.
    #[must_use]
    pub fn of(given: &[FinalAnswer]) -> Self {
        let total = given.len().max(1) as f32;
        Self {
            quality: given.iter().filter(|given| given.right).count() as f32 / total,
            cost: given.iter().map(|given| given.cost).sum::<f32>() / total,
        }
    }
}

/// How many of a model's answers are kept.
#[must_use]
pub fn kept(accept: ConfidenceThreshold, small: &[ScoredAnswer]) -> usize {
    let kept = small.iter().filter(|small| accept.keeps(small.confidence));
    kept.count()
}

/// The points of all thresholds that differ in what is kept, from keeping everything to keeping
/// nothing. Costs the logarithm of their number for each.
#[must_use]
pub fn curve(
    measure: ConfidenceMeasure,
    small: &[ScoredAnswer],
    rest: &[FinalAnswer],
) -> Vec<ThresholdPoint> {
    let total = small.len().min(rest.len());
    let mut order: Vec<usize> = (0..total).collect();
    let sure = |i: usize| small[i].confidence.unwrap_or(-1.0);
    order.sort_by(|a, b| sure(*a).total_cmp(&sure(*b)));
    // Beginning with all that can be kept.
    let known = order.partition_point(|i| small[*i].confidence.is_none());
    let right_if_kept =
        |i: usize, kept: bool| i32::from(if kept { small[i].right } else { rest[i].right });
    let mut right: i32 = order
        .iter()
        .enumerate()
        .map(|(n, i)| right_if_kept(*i, n >= known))
        .sum();
    let mut cost: f64 = small[..total].iter().map(|s| f64::from(s.cost)).sum();
    cost += order[..known]
        .iter()
        .map(|i| f64::from(rest[*i].cost))
        .sum::<f64>();
    let mut points = Vec::new();
    let mut from = known;
    let all = total.max(1) as f32;
    loop {
        let at_least = order.get(from).map_or(1.000_001, |i| sure(*i));
        points.push(ThresholdPoint {
            accept: ConfidenceThreshold { measure, at_least },
            kept: (total - from) as f32 / all,
            quality: right as f32 / all,
            cost: (cost / f64::from(all)) as f32,
        });
        if from == total {
            return points;
        }
        // All that are as sure as this one go together.
        while from < total && sure(order[from]) <= at_least {
            let i = order[from];
            right += right_if_kept(i, false) - right_if_kept(i, true);
            cost += f64::from(rest[i].cost);
            from += 1;
        }
    }
}

/// The cheapest point of at least this quality; where there is none, the best one.
#[must_use]
pub fn choose(points: &[ThresholdPoint], target: f32) -> Option<ThresholdPoint> {
    let enough = points.iter().filter(|point| point.quality >= target);
    let cheapest = enough.min_by(|a, b| a.cost.total_cmp(&b.cost));
    let best = || points.iter().max_by(|a, b| a.quality.total_cmp(&b.quality));
    cheapest.or_else(best).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(confidence: f32, right: bool) -> ScoredAnswer {
        ScoredAnswer {
            confidence: Some(confidence),
            right,
            cost: 1.0,
        }
    }

    fn rest(right: bool) -> FinalAnswer {
        FinalAnswer { right, cost: 10.0 }
    }

    #[test]
    fn the_cheapest_threshold_that_is_good_enough_is_chosen() {
        let small = [
            judged(0.9, true),
            judged(0.8, true),
            judged(0.4, false),
            judged(0.2, false),
        ];
        let large = [rest(true), rest(true), rest(true), rest(false)];
        let points = curve(ConfidenceMeasure::Min, &small, &large);
        assert_eq!(points.len(), 5);
        assert_eq!(
            (points[0].kept, points[0].quality, points[0].cost),
            (1.0, 0.5, 1.0)
        );
        assert_eq!(
            (points[4].kept, points[4].quality, points[4].cost),
            (0.0, 0.75, 11.0)
        );
        let chosen = choose(&points, 0.75).unwrap();
        assert_eq!((chosen.accept.at_least, chosen.kept), (0.8, 0.5));
        assert_eq!(chosen.cost, 6.0);
        assert_eq!(choose(&points, 0.99).unwrap().quality, 0.75);
        assert_eq!(choose(&[], 0.5), None);
    }

    #[test]
    fn what_is_not_known_is_never_kept() {
        let unknown = ScoredAnswer {
            confidence: None,
            ..judged(0.0, true)
        };
        let points = curve(
            ConfidenceMeasure::Min,
            &[unknown, judged(0.0, true)],
            &[rest(false), rest(true)],
        );
        assert_eq!(points[0].kept, 0.5);
        assert_eq!(points[0].quality, 0.5);
    }

    proptest! {
        #[test]
        fn the_curve_says_what_each_threshold_does(
            items in proptest::collection::vec((0u8..8, any::<bool>(), any::<bool>(), 1u8..9), 1..60),
        ) {
            let small: Vec<_> = items
                .iter()
                .map(|(c, right, ..)| judged(f32::from(*c) / 8.0, *right))
                .collect();
            let large: Vec<_> = items
                .iter()
                .map(|(.., right, cost)| FinalAnswer { right: *right, cost: f32::from(*cost) })
                .collect();
            for told in curve(ConfidenceMeasure::Margin, &small, &large) {
                let found = AnswerSummary::of(&with(told.accept, &small, &large));
                let kept = kept(told.accept, &small) as f32 / small.len() as f32;
                prop_assert!((told.kept - kept).abs() < 1e-5);
                prop_assert!((told.quality - found.quality).abs() < 1e-5);
                prop_assert!((told.cost - found.cost).abs() < 1e-3);
            }
        }
    }
}
