//! Explains a [`ReplicaChoice`]: for each candidate, why it was chosen or why not.
//!
//! The explanation reads only the figures that the choice was made by and computes no time, energy
//! or score of its own, so it cannot disagree with the choice.

use super::SelectionReason;
use super::choose::{CandidateFigures, ChoiceRule, ReplicaChoice};

/// Reported ratios stay within this factor of 1: larger ones are of no more use to a reader, and JSON has no
/// infinity.
const MAX_RATIO: f32 = 1_000.0;

impl ReplicaChoice {
    /// The reason of each candidate, in the order of the candidates.
    #[must_use]
    pub fn explain(&self) -> Vec<SelectionReason> {
        if self.figures.len() == 1 {
            return vec![SelectionReason::OnlyReplica];
        }
        (0..self.figures.len())
            .map(|index| match self.rule {
                ChoiceRule::BestScore => self.explain_score(index),
                ChoiceRule::LeastTimeAndEnergy {
                    soonest,
                    max_time_ratio,
                } => self.explain_product(index, soonest, max_time_ratio),
            })
            .collect()
    }

    /// The reason of a candidate where the least time × √joules within the slack was chosen.
    fn explain_product(
        &self,
        index: usize,
        soonest: usize,
        max_time_ratio: f32,
    ) -> SelectionReason {
        let (one, chosen) = (&self.figures[index], &self.figures[self.index]);
        let time_ratio = bounded_ratio(one.time, self.figures[soonest].time);
        if index == self.index && index == soonest {
            let trial = self.explain_trial(|_| true);
            return trial.unwrap_or(SelectionReason::ShortestTime);
        }
        if index == self.index {
            return SelectionReason::LowestEnergy {
                time: time_ratio,
                joules: bounded_ratio(one.joules, self.figures[soonest].joules),
            };
        }
        // By the figures that the choice was made by nobody is sooner than the soonest.
        if self.index == soonest && one.estimated_time < chosen.estimated_time {
            return self.explain_equal(one);
        }
        if one.shortlisted {
            let product = CandidateFigures::time_energy_product;
            let ratio = bounded_ratio(product(one), product(chosen));
            return if ratio > 1.0 {
                SelectionReason::HigherCost { product: ratio }
            } else {
                self.explain_equal(one)
            };
        }
        if !one.has_free_slot {
            return SelectionReason::NoFreeSlot;
        }
        SelectionReason::TooSlow {
            time: time_ratio,
            max_time: max_time_ratio,
        }
    }

    /// The reason of a candidate where the best score was chosen.
    fn explain_score(&self, index: usize) -> SelectionReason {
        let (one, chosen) = (&self.figures[index], &self.figures[self.index]);
        if index == self.index {
            let trial = self.explain_trial(|one| one.shortlisted);
            return trial.unwrap_or(SelectionReason::BestScore);
        }
        if !one.shortlisted {
            return SelectionReason::LowerScore {
                difference: chosen.score - one.score,
            };
        }
        let time = bounded_ratio(one.time, chosen.time);
        if time > 1.0 {
            SelectionReason::Slower { time }
        } else {
            self.explain_equal(one)
        }
    }

    /// The reason of the chosen candidate if one of those that it was `compared` with is sooner by the
    /// estimates: that the chosen one is slower is no longer trusted.
    fn explain_trial(
        &self,
        compared: impl Fn(&CandidateFigures) -> bool,
    ) -> Option<SelectionReason> {
        let estimated = self.figures[self.index].estimated_time;
        let compared = self.figures.iter().filter(|one| compared(one));
        let soonest = compared
            .map(|one| one.estimated_time)
            .fold(f32::INFINITY, f32::min);
        (estimated > soonest).then(|| SelectionReason::TriedAgain {
            time: bounded_ratio(estimated, soonest),
        })
    }

    /// The reason of a candidate that was not chosen though it counts as equal.
    fn explain_equal(&self, one: &CandidateFigures) -> SelectionReason {
        let chosen = self.figures[self.index].estimated_time;
        if chosen > one.estimated_time {
            SelectionReason::OtherTriedAgain {
                time: bounded_ratio(chosen, one.estimated_time),
            }
        } else {
            SelectionReason::Equivalent
        }
    }
}

/// The ratio of two figures as it is reported. Returns 1 when both are zero.
fn bounded_ratio(a: f32, b: f32) -> f32 {
    let ratio = a / b;
    if ratio.is_nan() {
        return 1.0;
    }
    ratio.clamp(1.0 / MAX_RATIO, MAX_RATIO)
}
