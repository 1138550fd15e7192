//! Chooses the replica of a model that a request is sent to.
//!
//! Without task weights the rule is: find the replica that answers soonest; of the replicas that
//! have a free slot and take at most [`SLACK`] times as long, choose the one with the least
//! time × √joules. Time is what a person notices, so it is bounded first and weighs twice as much
//! as energy: a quarter of the joules is worth twice the time, as far as the slack allows. Choosing
//! the fewest joules alone would use up the slack for small savings; in the simulated days of
//! `benches/fleet_day` this rule saves about as much energy and answers sooner.
//!
//! With task weights the replica with the best weighted score is chosen, and among scores that
//! differ by less than [`SIMILAR_SCORE`] the fastest one.
//!
//! Candidates are never compared in pairs, because ratios in which similar values count as equal are
//! not transitive. Each candidate gets figures relative to one common reference instead: to find the
//! soonest candidate, its time relative to the fastest replica; then its time and energy relative to
//! the soonest candidate. Figures are ordered totally, so the choice does not depend on the order of
//! the candidates, ties apart. [`ReplicaChoice`] keeps these figures;
//! [`ReplicaChoice::explain`] reads the reasons off them.

use std::cmp::Ordering;

use super::{ExpectedAnswer, ObjectiveWeights, ReplicaLoad, score_candidates};
use crate::Joules;
use crate::estimate::{Exploration, RequestCost, SpeedEstimate, snap_similar, time_ratio};

/// The longest time that a replica may take to be chosen for its energy, as a multiple of the
/// soonest replica's time. Without the limit a slow replica that needs almost no energy could keep
/// people waiting indefinitely. Our own choice.
const SLACK: f32 = 1.5;

/// Scores that differ by less than this count as equal, and time decides: nodes of the same kind
/// then share the load. Our own choice.
const SIMILAR_SCORE: f32 = 0.05;

/// The smallest energy that candidates are compared by, so that ratios stay finite.
const MIN_JOULES: f32 = 1e-6;

/// The load, speed and energy of a replica that could answer a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaCandidate {
    /// How busy the replica is.
    pub load: ReplicaLoad,
    /// How fast the replica answers. `None` if it has not answered yet.
    pub speed: Option<SpeedEstimate>,
    /// The energy that the answer is expected to take. `None` if it is not known.
    pub joules: Option<Joules>,
    /// The share of the answer's time that remains because the replica has a part of the
    /// conversation in memory, 0 to 1; 1 if it has nothing in memory.
    pub remaining_share: f32,
    /// The factor, at least 1, by which time and energy are multiplied because the node is under
    /// power or thermal pressure: [`NodePressure::factor`].
    ///
    /// [`NodePressure::factor`]: crate::energy::NodePressure::factor
    pub pressure_factor: f32,
}

/// The chosen replica, with the figures that the choice was made by.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaChoice {
    /// The index of the chosen candidate.
    pub index: usize,
    /// The rule that was applied.
    pub(super) rule: ChoiceRule,
    /// The figures of the candidates, in their order.
    pub(super) figures: Vec<CandidateFigures>,
}

/// The rule by which a replica was chosen, with the figures that are common to all candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ChoiceRule {
    /// Least time × √joules within the slack of the soonest candidate.
    LeastTimeAndEnergy {
        /// The index of the candidate that answers soonest.
        soonest: usize,
        /// The longest acceptable time, as a multiple of the soonest candidate's time.
        max_time_ratio: f32,
    },
    /// The best score by the task's weights.
    BestScore,
}

/// The figures by which a candidate is compared with the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CandidateFigures {
    /// Expected time, in units common to all candidates. Includes load, memory and node pressure.
    pub(super) time: f32,
    /// The same by the estimates as they stand, however little they are trusted.
    pub(super) estimated_time: f32,
    /// Expected energy, in units common to all candidates. Includes node pressure.
    pub(super) joules: f32,
    /// Whether the replica would compute the request at once.
    pub(super) has_free_slot: bool,
    /// Whether the candidate passed the first step of the rule: it is within the slack of the
    /// soonest candidate, or its score is similar to the best one.
    pub(super) shortlisted: bool,
    /// The score by the task's weights; 0 without weights.
    pub(super) score: f32,
}

impl CandidateFigures {
    /// Time × √joules, which the default rule minimises.
    pub(super) fn time_energy_product(&self) -> f32 {
        self.time * self.joules.sqrt()
    }
}

/// Chooses one of the candidates for a request of this `cost` at the time `now`, in seconds of the
/// caller's clock. The task's `weights` decide where there are any, otherwise the rule described
/// in this module. Among equal candidates the first one is chosen. Returns `None` without
/// candidates.
#[must_use]
pub fn choose_replica(
    candidates: &[ReplicaCandidate],
    weights: Option<ObjectiveWeights>,
    cost: RequestCost,
    now: f32,
) -> Option<ReplicaChoice> {
    let mut comparison = Comparison {
        cost,
        now,
        exploration: Exploration::unhurried(now),
    };
    let fastest = comparison.fastest(candidates)?;
    let mut figures = comparison.figures(candidates, &candidates[fastest]);
    if let Some(load) = comparison.least_load_of_soonest(candidates, &figures)
        && load.requests() > 0
    {
        // The best replica by the estimates is busy: the others may be better than they seem.
        comparison.exploration = Exploration::beside(load, candidates.len(), now);
        figures = comparison.figures(candidates, &candidates[fastest]);
    }
    let (index, rule) = match weights {
        Some(weights) => {
            shortlist_best_scores(&mut figures, candidates, weights);
            let index = first_minimum(&figures, |one| one.shortlisted.then_some(one.time))?;
            (index, ChoiceRule::BestScore)
        }
        None => {
            let soonest = first_minimum(&figures, |one| Some(one.time))?;
            let max_time_ratio = max_time_ratio(&candidates[soonest]);
            figures = comparison.figures(candidates, &candidates[soonest]);
            shortlist_within_slack(&mut figures, soonest, max_time_ratio);
            let product =
                |one: &CandidateFigures| one.shortlisted.then(|| one.time_energy_product());
            let least = first_minimum(&figures, product)?;
            // A candidate that is no better than the soonest one is no reason to wait longer.
            let is_better = product(&figures[least]) < product(&figures[soonest]);
            let index = if is_better { least } else { soonest };
            let rule = ChoiceRule::LeastTimeAndEnergy {
                soonest,
                max_time_ratio,
            };
            (index, rule)
        }
    };
    Some(ReplicaChoice {
        index,
        rule,
        figures,
    })
}

/// The request that candidates are compared for, and the time of the comparison.
#[derive(Clone, Copy)]
struct Comparison {
    cost: RequestCost,
    now: f32,
    exploration: Exploration,
}

impl Comparison {
    /// The index of the candidate that is fastest when idle, of those whose speed is known.
    fn fastest(self, candidates: &[ReplicaCandidate]) -> Option<usize> {
        let key = |candidate: &ReplicaCandidate| {
            let (rank, seconds, trust) = match candidate.speed {
                None => (2, f32::INFINITY, 0.0),
                Some(speed) => (
                    // A lower bound is no reference while there is a complete estimate.
                    u8::from(speed.is_lower_bound()),
                    speed.unloaded_seconds(self.cost),
                    speed.exploration_bonus(self.now),
                ),
            };
            // Of equal ones the one that is trusted most, and then whatever else tells them apart, so that
            // the figures do not depend on their order.
            let load = candidate.load.utilization();
            let joules = candidate.joules.map_or(f32::INFINITY, |joules| joules.0);
            let figures = [seconds, -trust, load, candidate.pressure_factor, joules];
            (rank, figures)
        };
        let keys = candidates.iter().map(key).enumerate();
        keys.min_by(|(_, a), (_, b)| {
            let figures = a.1.iter().zip(&b.1).map(|(a, b)| a.total_cmp(b));
            let by_figures = figures.fold(Ordering::Equal, Ordering::then);
            a.0.cmp(&b.0).then(by_figures)
        })
        .map(|(index, _)| index)
    }

    /// The figures of all candidates relative to the `reference`.
    fn figures(
        self,
        candidates: &[ReplicaCandidate],
        reference: &ReplicaCandidate,
    ) -> Vec<CandidateFigures> {
        let replica = |candidate: &ReplicaCandidate| (candidate.load, candidate.speed);
        let reference_replica = replica(reference);
        let figures = |candidate: &ReplicaCandidate| {
            let ratio = time_ratio(
                replica(candidate),
                reference_replica,
                self.cost,
                self.exploration,
            );
            let share = candidate.remaining_share * candidate.pressure_factor;
            CandidateFigures {
                time: ratio.trusted * share,
                estimated_time: ratio.estimated * share,
                joules: self.joules_ratio(candidate, reference),
                has_free_slot: candidate.load.has_free_slot(),
                shortlisted: false,
                score: 0.0,
            }
        };
        candidates.iter().map(figures).collect()
    }

    /// The load of the candidate that answers soonest, the least one where several do.
    fn least_load_of_soonest(
        self,
        candidates: &[ReplicaCandidate],
        figures: &[CandidateFigures],
    ) -> Option<ReplicaLoad> {
        let loads = candidates.iter().map(|candidate| candidate.load);
        let soonest = figures.iter().zip(loads).min_by(|(a, load), (b, other)| {
            let by_time = a.time.total_cmp(&b.time);
            by_time.then(load.utilization().total_cmp(&other.utilization()))
        });
        soonest.map(|(_, load)| load)
    }

    /// The energy of a candidate as a multiple of the reference's, with node pressure. The less the
    /// estimates are trusted, the less is the ratio. Unknown energy counts as that of the reference,
    /// so that time decides and the candidate is tried. Similar figures count as equal.
    fn joules_ratio(self, candidate: &ReplicaCandidate, reference: &ReplicaCandidate) -> f32 {
        let known = |candidate: &ReplicaCandidate| {
            // A lower bound of the time says little of the energy.
            let speed = candidate.speed.filter(|speed| !speed.is_lower_bound())?;
            let Joules(joules) = candidate.joules?;
            Some((joules.max(MIN_JOULES), speed))
        };
        // Nobody waits longer for an estimate of energy that is wrong: there is no hurry to correct it.
        let exploration = Exploration::unhurried(self.now);
        let ratio = match (known(candidate), known(reference)) {
            (Some((joules, speed)), Some((of_reference, reference_speed))) => {
                let ratio = joules / of_reference;
                let trust = if ratio >= 1.0 {
                    let worse = (candidate.load, speed);
                    exploration.trust_in_ratio(worse, reference_speed)
                } else {
                    let worse = (reference.load, reference_speed);
                    exploration.trust_in_ratio(worse, speed)
                };
                ratio.powf(trust)
            }
            _ => 1.0,
        };
        snap_similar(ratio * candidate.pressure_factor / reference.pressure_factor)
    }
}

/// Marks the candidates that are within the slack of the soonest one, and the soonest itself.
fn shortlist_within_slack(figures: &mut [CandidateFigures], soonest: usize, max_time_ratio: f32) {
    let shortest = figures[soonest].time;
    let longest = max_time_ratio * shortest;
    for (index, one) in figures.iter_mut().enumerate() {
        // Similar speeds count as equal, so that a ratio to the soonest may be below 1.
        one.time = one.time.max(shortest);
        one.shortlisted = index == soonest || (one.has_free_slot && one.time <= longest);
    }
}

/// Scores the candidates and marks those whose score is similar to the best one.
fn shortlist_best_scores(
    figures: &mut [CandidateFigures],
    candidates: &[ReplicaCandidate],
    weights: ObjectiveWeights,
) {
    if weights.energy == 0.0 {
        // All replicas of a model have the same quality, so that time alone decides.
        figures.iter_mut().for_each(|one| one.shortlisted = true);
        return;
    }
    let both = candidates.iter().zip(&*figures);
    let expected: Vec<_> = both
        .map(|(candidate, figures)| ExpectedAnswer {
            quality: None,
            seconds: Some(figures.time),
            joules: candidate
                .joules
                .map(|Joules(joules)| Joules(joules * candidate.pressure_factor)),
        })
        .collect();
    let scores = score_candidates(weights, &expected);
    let best = scores.iter().map(|score| score.total).fold(0.0, f32::max);
    for (one, score) in figures.iter_mut().zip(scores) {
        one.score = score.total;
        one.shortlisted = best - score.total < SIMILAR_SCORE;
    }
}

/// The longest acceptable time, as a multiple of the time of the `soonest` candidate. A
/// conversation that is in memory is worth keeping: a session does not move to save energy.
fn max_time_ratio(soonest: &ReplicaCandidate) -> f32 {
    (SLACK * soonest.remaining_share).max(1.0)
}

/// The index of the first candidate with the least `figure`, of those that have one.
fn first_minimum(
    figures: &[CandidateFigures],
    figure: impl Fn(&CandidateFigures) -> Option<f32>,
) -> Option<usize> {
    let all = figures.iter().enumerate();
    all.filter_map(|(index, one)| Some((index, figure(one)?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod traffic_tests;
