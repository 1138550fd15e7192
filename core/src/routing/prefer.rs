//! Which of a model's replicas a request goes to.
//!
//! Where a task states weights, each two are scored by them. Where nobody says anything, the rule is: find
//! the one that answers soonest, and of those that have room and take at most [`SLACK`] times as long
//! take the one with the least time × √joules. Time is what a person notices, so it is bounded
//! first and counts twice as much as energy: a quarter of the joules is worth twice the time, if the
//! slack allows it. The fewest joules alone would take all of the slack for a small saving; in the
//! simulated days of `benches/fleet_day` this saves about as much and ends sooner.

use super::{ExpectedAnswer, ObjectiveWeights, ReplicaLoad, SelectionReason, score};
use crate::Joules;
use crate::estimate::{RequestCost, SpeedEstimate, compare};

/// How many times as long as the soonest an answer may take for the sake of fewer joules. Without it one
/// that takes next to nothing could keep people waiting for any time.
const SLACK: f32 = 1.5;

/// Joules that differ by less than this factor count as one: what is learnt of two nodes of a kind differs by
/// that much by chance, and they shall share the load.
const ALIKE_JOULES: f32 = 1.25;

/// Replicas whose scores differ by less are compared by time alone: nodes that are alike share the load.
const ALIKE_SCORE: f32 = 0.05;

/// Ratios are told within this factor of 1: more says no more, and JSON knows no infinity.
const TOLD: f32 = 1_000.0;

/// What is known of a replica that could answer a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaCandidate {
    pub load: ReplicaLoad,
    /// `None`: it has not answered yet.
    pub pace: Option<SpeedEstimate>,
    /// What the answer is expected to take.
    pub joules: Option<Joules>,
    /// Which part of its time is left where it has a part of the conversation in memory: 1 for all.
    pub left: f32,
    /// By which factor it counts as slower and as taking more energy: [`Strain::factor`].
    ///
    /// [`Strain::factor`]: crate::energy::NodePressure::factor
    pub strain: f32,
}

/// Picks one of the contenders for this work; of equal ones the first. Without `weights` by the rule above.
/// 0 where there is none.
#[must_use]
pub fn prefer(
    contenders: &[ReplicaCandidate],
    weights: Option<ObjectiveWeights>,
    work: RequestCost,
    now: f32,
) -> usize {
    let race = Comparison { work, now };
    match weights {
        Some(weights) => first(contenders, |a, b| race.is_nearer(a, b, weights)),
        None => race.economical(contenders),
    }
}

/// How each of the contenders stood beside the others when the one at `chosen` was picked, in their order.
#[must_use]
pub fn selection_reasons(
    contenders: &[ReplicaCandidate],
    chosen: usize,
    weights: Option<ObjectiveWeights>,
    work: RequestCost,
    now: f32,
) -> Vec<SelectionReason> {
    let race = Comparison { work, now };
    let Some(first) = contenders.get(chosen) else {
        return Vec::new();
    };
    if contenders.len() == 1 {
        return vec![SelectionReason::OnlyReplica];
    }
    let soonest = race.soonest(contenders);
    let stands = |(at, one): (usize, &ReplicaCandidate)| match weights {
        Some(_) if at == chosen => SelectionReason::BestScore,
        Some(weights) => race.misses(one, first, weights),
        None if at == chosen && at == soonest => SelectionReason::ShortestTime,
        None if at == chosen => race.saves(one, &contenders[soonest]),
        None if at == soonest => race.costs(one, first),
        None => race.lags(one, &contenders[soonest], first),
    };
    contenders.iter().enumerate().map(stands).collect()
}

/// The first contender that no other is better than, if each is compared with the best before it.
fn first(
    contenders: &[ReplicaCandidate],
    better: impl Fn(&ReplicaCandidate, &ReplicaCandidate) -> bool,
) -> usize {
    (1..contenders.len()).fold(0, |best, at| {
        if better(&contenders[at], &contenders[best]) {
            at
        } else {
            best
        }
    })
}

/// What contenders are compared for.
#[derive(Clone, Copy)]
struct Comparison {
    work: RequestCost,
    now: f32,
}

impl Comparison {
    /// How slow each of two is, beside the other.
    fn times(self, a: &ReplicaCandidate, b: &ReplicaCandidate) -> (f32, f32) {
        let (here, there) = compare((a.load, a.pace), (b.load, b.pace), self.work, self.now);
        (here * a.left * a.strain, there * b.left * b.strain)
    }

    fn is_sooner(self, a: &ReplicaCandidate, b: &ReplicaCandidate) -> bool {
        let (here, there) = self.times(a, b);
        here < there
    }

    /// Whether one comes nearer to what is weighed so.
    fn is_nearer(
        self,
        a: &ReplicaCandidate,
        b: &ReplicaCandidate,
        weights: ObjectiveWeights,
    ) -> bool {
        let (here, there) = self.times(a, b);
        match self.ahead(a, b, weights) {
            Some(ahead) => ahead > 0.0,
            None => here < there,
        }
    }

    /// By how much more one scores than another. `None`: not by enough to count, so that their times
    /// are compared.
    fn ahead(
        self,
        a: &ReplicaCandidate,
        b: &ReplicaCandidate,
        weights: ObjectiveWeights,
    ) -> Option<f32> {
        if weights.energy == 0.0 {
            return None;
        }
        let (here, there) = self.times(a, b);
        let of = |one: &ReplicaCandidate, seconds| ExpectedAnswer {
            quality: None,
            seconds: Some(seconds),
            joules: one.joules.map(|Joules(joules)| Joules(joules * one.strain)),
        };
        let scores = score(weights, &[of(a, here), of(b, there)]);
        let ahead = scores[0].total - scores[1].total;
        (ahead.abs() >= ALIKE_SCORE).then_some(ahead)
    }

    fn soonest(self, contenders: &[ReplicaCandidate]) -> usize {
        first(contenders, |a, b| self.is_sooner(a, b))
    }

    /// Of those within the slack of the soonest the one with the least time × √joules.
    fn economical(self, contenders: &[ReplicaCandidate]) -> usize {
        let soonest = self.soonest(contenders);
        let Some(reference) = contenders.get(soonest) else {
            return soonest;
        };
        let mut best = soonest;
        for (at, one) in contenders.iter().enumerate() {
            if at != soonest && self.is_within_slack(one, reference) {
                let other = &contenders[best];
                let (here, there) = self.times(one, other);
                if here * self.joules_ratio(one, other).sqrt() < there {
                    best = at;
                }
            }
        }
        best
    }

    /// How many times as long as another one it takes, as it is told.
    fn time(self, one: &ReplicaCandidate, other: &ReplicaCandidate) -> f32 {
        let (here, there) = self.times(one, other);
        told(here / there)
    }

    /// Why one that is not the soonest is chosen.
    fn saves(self, one: &ReplicaCandidate, soonest: &ReplicaCandidate) -> SelectionReason {
        SelectionReason::LowestEnergy {
            time: self.time(one, soonest),
            joules: told(self.joules_ratio(one, soonest)),
        }
    }

    /// Why one that was within the slack is not chosen. Who is compared with the best so far only, and
    /// what is alike, are not in one order: so one may count as better than the first, but not than
    /// one that came between.
    fn costs(self, one: &ReplicaCandidate, chosen: &ReplicaCandidate) -> SelectionReason {
        let product = told(self.time(one, chosen) * self.joules_ratio(one, chosen).sqrt());
        if product > 1.0 {
            SelectionReason::HigherCost { product }
        } else {
            SelectionReason::Equivalent
        }
    }

    /// Why one that is not the soonest is not chosen.
    fn lags(
        self,
        one: &ReplicaCandidate,
        soonest: &ReplicaCandidate,
        chosen: &ReplicaCandidate,
    ) -> SelectionReason {
        if self.is_within_slack(one, soonest) {
            return self.costs(one, chosen);
        }
        if !one.load.has_room() {
            return SelectionReason::NoCapacity;
        }
        SelectionReason::TooSlow {
            time: self.time(one, soonest),
            most: slack(soonest),
        }
    }

    /// Why one is not chosen where there are weights.
    fn misses(
        self,
        one: &ReplicaCandidate,
        chosen: &ReplicaCandidate,
        weights: ObjectiveWeights,
    ) -> SelectionReason {
        let time = self.time(one, chosen);
        match self.ahead(one, chosen, weights) {
            Some(ahead) if ahead < 0.0 => SelectionReason::LowerScore { by: -ahead },
            None if time > 1.0 => SelectionReason::Slower { time },
            _ => SelectionReason::Equivalent,
        }
    }

    /// Whether it is hardly later than the soonest, without making anybody wait.
    fn is_within_slack(self, one: &ReplicaCandidate, soonest: &ReplicaCandidate) -> bool {
        let (here, there) = self.times(one, soonest);
        one.load.has_room() && here <= slack(soonest) * there
    }

    /// How many times the joules of another it takes. What is not known is taken for the same, and what
    /// was learnt long ago for nearly the same, so that time decides and it is tried.
    fn joules_ratio(self, one: &ReplicaCandidate, other: &ReplicaCandidate) -> f32 {
        let known = |contender: &ReplicaCandidate| {
            // What it takes at least says little of what it takes.
            let pace = contender.pace.filter(|pace| !pace.is_least())?;
            let Joules(joules) = contender.joules?;
            Some((joules.max(f32::MIN_POSITIVE), pace.hope(self.now)))
        };
        let ratio = match (known(one), known(other)) {
            (Some((here, new)), Some((there, old))) => (here / there).powf(new.min(old)),
            _ => 1.0,
        };
        let strained = ratio * one.strain / other.strain;
        if (1.0 / ALIKE_JOULES..ALIKE_JOULES).contains(&strained) {
            1.0
        } else {
            strained
        }
    }
}

/// How many times as long as this one, the soonest, another one may take. What is in memory is worth
/// keeping: a session does not move for joules.
fn slack(soonest: &ReplicaCandidate) -> f32 {
    (SLACK * soonest.left).max(1.0)
}

/// A ratio as it goes on record. One that is none, of nothing to nothing, is 1.
fn told(ratio: f32) -> f32 {
    if ratio.is_nan() {
        return 1.0;
    }
    ratio.clamp(1.0 / TOLD, TOLD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{ComputeTime, ServedRequest};
    use proptest::prelude::*;

    const WORK: RequestCost = RequestCost {
        prompt_bytes: 100,
        max_tokens: None,
    };

    fn load(in_flight: u32) -> ReplicaLoad {
        ReplicaLoad {
            in_flight,
            elsewhere: 0,
            concurrency: 4,
            capacity: 68,
        }
    }

    /// One that takes so many seconds and joules when it is idle.
    fn contender(seconds: f32, joules: f32) -> ReplicaCandidate {
        let served = ServedRequest {
            prompt_bytes: 100,
            prompt_tokens: 25,
            completion_tokens: 11,
            seconds,
            computed: Some(ComputeTime {
                prefill: seconds / 2.0,
                decode: seconds / 2.0,
            }),
            load: load(0),
        };
        ReplicaCandidate {
            load: load(0),
            pace: Some(SpeedEstimate::learn(None, served, 0.0)),
            joules: Some(Joules(joules)),
            left: 1.0,
            strain: 1.0,
        }
    }

    fn picked(contenders: &[ReplicaCandidate]) -> usize {
        prefer(contenders, None, WORK, 0.0)
    }

    #[test]
    fn a_little_time_is_given_for_many_joules_and_no_more_than_the_slack() {
        let soonest = contender(1.0, 40.0);
        assert_eq!(picked(&[soonest, contender(1.4, 10.0)]), 1);
        assert_eq!(picked(&[soonest, contender(1.7, 0.1)]), 0);
        assert_eq!(
            picked(&[soonest, contender(1.4, 30.0)]),
            0,
            "it saves little"
        );
        // The slack is that of the soonest of all, not of the one that is left for another.
        let three = [soonest, contender(1.4, 10.0), contender(1.9, 0.1)];
        assert_eq!(picked(&three), 1);
        assert_eq!(picked(&[]), 0);
    }

    fn stood(
        contenders: &[ReplicaCandidate],
        weights: Option<ObjectiveWeights>,
    ) -> Vec<SelectionReason> {
        let chosen = prefer(contenders, weights, WORK, 0.0);
        selection_reasons(contenders, chosen, weights, WORK, 0.0)
    }

    #[test]
    fn each_is_told_why_it_is_chosen_or_not() {
        let soonest = contender(1.0, 40.0);
        let busy = ReplicaCandidate {
            load: load(4),
            ..contender(1.0, 1.0)
        };
        let all = [
            soonest,
            contender(1.4, 10.0),
            contender(2.0, 0.1),
            busy,
            contender(1.4, 40.0),
        ];
        let near = |a: f32, b: f32| (a - b).abs() < 0.02;
        let told = stood(&all, None);
        assert!(
            matches!(told[0], SelectionReason::HigherCost { product } if near(product, 1.43)),
            "{told:?}"
        );
        assert!(
            matches!(told[1], SelectionReason::LowestEnergy { time, joules } if near(time, 1.4) && near(joules, 0.25)),
            "{told:?}"
        );
        assert!(
            matches!(told[2], SelectionReason::TooSlow { time, most } if near(time, 2.0) && most == SLACK),
            "{told:?}"
        );
        assert_eq!(told[3], SelectionReason::NoCapacity);
        assert!(
            matches!(told[4], SelectionReason::HigherCost { product } if near(product, 2.0)),
            "{told:?}"
        );
        assert_eq!(stood(&all[..1], None), [SelectionReason::OnlyReplica]);
        assert_eq!(
            stood(&[soonest, soonest], None),
            [SelectionReason::ShortestTime, SelectionReason::Equivalent]
        );
        assert_eq!(stood(&[], None), []);
    }

    #[test]
    fn the_time_that_a_session_may_lose_is_told() {
        let session = ReplicaCandidate {
            left: 0.5,
            ..contender(1.0, 40.0)
        };
        let told = stood(&[session, contender(0.7, 1.0)], None);
        assert!(
            matches!(told[..], [SelectionReason::ShortestTime, SelectionReason::TooSlow { most, .. }] if most == 1.0),
            "{told:?}"
        );
        let nothing = ReplicaCandidate {
            left: 0.0,
            ..contender(1.0, 0.0)
        };
        for told in stood(&[nothing, contender(9.0, 1.0), nothing], None) {
            let json = serde_json::to_value(told).unwrap();
            assert_eq!(
                serde_json::from_value::<SelectionReason>(json).unwrap(),
                told
            );
        }
    }

    #[test]
    fn with_weights_each_is_told_what_it_misses_them_by() {
        let weights = |latency, energy| {
            Some(ObjectiveWeights {
                quality: 0.0,
                latency,
                energy,
            })
        };
        let two = [contender(1.0, 40.0), contender(2.0, 10.0)];
        let told = stood(&two, weights(0.0, 1.0));
        assert!(
            matches!(told[..], [SelectionReason::LowerScore { by }, SelectionReason::BestScore] if by > 0.5),
            "{told:?}"
        );
        let told = stood(&two, weights(1.0, 0.0));
        assert!(
            matches!(told[..], [SelectionReason::BestScore, SelectionReason::Slower { time }] if time > 1.9),
            "{told:?}"
        );
        let told = stood(&[two[0], two[0]], weights(1.0, 1.0));
        assert_eq!(
            told,
            [SelectionReason::BestScore, SelectionReason::Equivalent]
        );
    }

    #[test]
    fn nobody_waits_for_the_sake_of_joules() {
        let economical = |in_flight| ReplicaCandidate {
            load: load(in_flight),
            ..contender(1.0, 1.0)
        };
        let other = contender(1.0, 100.0);
        assert_eq!(picked(&[other, economical(3)]), 1);
        assert_eq!(picked(&[other, economical(4)]), 0);
    }

    #[test]
    fn nodes_that_are_alike_share_the_load() {
        let busy = ReplicaCandidate {
            load: load(1),
            ..contender(1.0, 10.0)
        };
        assert_eq!(picked(&[busy, contender(1.1, 12.0)]), 1);
        let tie = [contender(1.0, 10.0), contender(1.1, 9.0)];
        assert_eq!(picked(&tie), 0, "the first");
    }

    #[test]
    fn what_is_not_known_is_tried() {
        let unknown = ReplicaCandidate {
            pace: None,
            joules: None,
            ..contender(1.0, 1.0)
        };
        let known = ReplicaCandidate {
            load: load(1),
            ..contender(0.1, 1.0)
        };
        assert_eq!(picked(&[known, unknown]), 1);
        // So is one whose bad name is old.
        let (fine, wasteful) = (contender(1.0, 1.0), contender(1.0, 50.0));
        let at = |now| {
            let fine = ReplicaCandidate {
                load: load(1),
                ..fine
            };
            prefer(&[fine, wasteful], None, WORK, now)
        };
        assert_eq!((at(0.0), at(3_000.0)), (0, 1));
    }

    #[test]
    fn a_strained_node_is_used_less() {
        let strained = ReplicaCandidate {
            strain: 2.0,
            ..contender(1.0, 10.0)
        };
        assert_eq!(picked(&[strained, contender(1.4, 11.0)]), 1);
        assert_eq!(picked(&[strained, contender(9.0, 11.0)]), 0);
    }

    #[test]
    fn a_session_does_not_move_for_joules() {
        let at_home = ReplicaCandidate {
            left: 0.5,
            ..contender(1.0, 50.0)
        };
        assert_eq!(picked(&[at_home, contender(0.6, 1.0)]), 0);
        assert_eq!(picked(&[at_home, contender(0.3, 50.0)]), 1);
    }

    #[test]
    fn weights_of_a_task_decide_instead() {
        let weights = |latency, energy| ObjectiveWeights {
            quality: 0.0,
            latency,
            energy,
        };
        let two = [contender(1.0, 40.0), contender(1.4, 10.0)];
        assert_eq!(prefer(&two, Some(weights(1.0, 0.0)), WORK, 0.0), 0);
        assert_eq!(prefer(&two, Some(weights(1.0, 1.0)), WORK, 0.0), 1);
        let far = [contender(1.0, 40.0), contender(9.0, 10.0)];
        assert_eq!(prefer(&far, Some(weights(0.0, 1.0)), WORK, 0.0), 1);
    }

    fn any_contender() -> impl Strategy<Value = ReplicaCandidate> {
        (0.01f32..10.0, 0.01f32..100.0, 0u32..8, 1.0f32..4.0).prop_map(
            |(seconds, joules, in_flight, strain)| ReplicaCandidate {
                load: load(in_flight),
                strain,
                ..contender(seconds, joules)
            },
        )
    }

    fn times(a: &ReplicaCandidate, b: &ReplicaCandidate) -> (f32, f32) {
        let race = Comparison {
            work: WORK,
            now: 0.0,
        };
        race.times(a, b)
    }

    proptest! {
        #[test]
        fn who_is_picked_is_the_one_that_is_told_to_be_first(
            all in prop::collection::vec((0.01f32..10.0, 0.01f32..10.0, 0u32..6, 0.0f32..1.0), 1..8),
            weighed in prop::option::of((0.0f32..1.0, 0.0f32..1.0)),
        ) {
            let contenders: Vec<_> = all
                .iter()
                .map(|(seconds, joules, in_flight, left)| ReplicaCandidate {
                    load: load(*in_flight),
                    left: *left,
                    ..contender(*seconds, *joules)
                })
                .collect();
            let weights = weighed.map(|(latency, energy)| ObjectiveWeights { quality: 0.0, latency, energy });
            let chosen = prefer(&contenders, weights, WORK, 0.0);
            for (at, standing) in stood(&contenders, weights).into_iter().enumerate() {
                prop_assert_eq!(standing.is_first(), at == chosen);
                match standing {
                    SelectionReason::TooSlow { time, most } => prop_assert!(time >= most && most >= 1.0),
                    SelectionReason::HigherCost { product: above } | SelectionReason::Slower { time: above } => {
                        prop_assert!(above > 1.0);
                    }
                    SelectionReason::LowerScore { by } => prop_assert!(by > 0.0),
                    _ => {}
                }
            }
        }

        #[test]
        fn none_is_worse_in_both_time_and_joules_than_another(
            contenders in prop::collection::vec(any_contender(), 2..3),
        ) {
            let at = picked(&contenders);
            let (one, other) = (&contenders[at], &contenders[1 - at]);
            let (here, there) = times(one, other);
            let joules = |c: &ReplicaCandidate| c.joules.unwrap().0 * c.strain;
            prop_assert!(here <= there || joules(one) <= joules(other));
        }

        #[test]
        fn the_slack_is_kept_to_the_soonest(
            contenders in prop::collection::vec(any_contender(), 1..9),
        ) {
            let at = picked(&contenders);
            let race = Comparison { work: WORK, now: 0.0 };
            let soonest = first(&contenders, |a, b| race.is_sooner(a, b));
            let (here, there) = times(&contenders[at], &contenders[soonest]);
            prop_assert!(at == soonest || here <= SLACK * there);
            prop_assert!(at == soonest || contenders[at].load.has_room());
        }
    }
}
