//! Samples a few replicas of a model, of which the best one is chosen.
//!
//! Two random choices balance the load nearly as well as looking at all replicas, at a cost that does
//! not grow with the fleet (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
//! 2001).

use serde::{Deserialize, Serialize};

/// How busy a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLoad {
    /// Requests that this controller dispatched to the replica and that have not ended.
    pub in_flight: u32,
    /// Requests of other controllers and clients, as the node last reported; slightly outdated.
    pub external_in_flight: u32,
    /// Number of slots, which is the number of requests that the replica computes at once. At least 1.
    pub concurrency: u32,
    /// Maximum number of requests that the replica accepts, computing and queued together.
    pub capacity: u32,
}

impl ReplicaLoad {
    /// All requests of the replica.
    #[must_use]
    pub fn requests(self) -> u32 {
        self.in_flight.saturating_add(self.external_in_flight)
    }

    /// Whether the replica would compute one more request at once.
    #[must_use]
    pub fn has_free_slot(self) -> bool {
        self.requests() < self.concurrency
    }

    /// Whether the replica would refuse one more request. Requests of others are not counted: they
    /// may have ended since the node's last report, and if not, the node refuses.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.in_flight >= self.capacity
    }
}

/// Whether a candidate can take a request.
pub enum CandidateStatus<P> {
    /// It can. Holds the value that it is compared by.
    Eligible(P),
    /// It failed repeatedly and is used only if no candidate is eligible: when all replicas fail, the
    /// cause is probably elsewhere. Holds the value that it is compared by.
    LastResort(P),
    /// It cannot take the request.
    Ineligible,
}

/// The number of eligible candidates that are compared. A smaller set is compared as a whole, which
/// is cheaper than missing the only free replica. Two would be enough to balance the load among
/// equal nodes; a fleet's nodes are not equal, and those that are fast or need little energy may be
/// few: in the simulated day of `benches/fleet_day` eight take a third fewer joules than four, and
/// answer sooner.
const SAMPLE_SIZE: usize = 8;

/// The number of random draws after which a large set counts as full.
const MAX_DRAWS: usize = 24;

/// The candidates of a sample.
struct SampledCandidates<P> {
    indices: Vec<usize>,
    candidates: Vec<P>,
}

impl<P> SampledCandidates<P> {
    fn new() -> Self {
        Self {
            indices: Vec::with_capacity(SAMPLE_SIZE),
            candidates: Vec::with_capacity(SAMPLE_SIZE),
        }
    }

    fn push(&mut self, index: usize, candidate: P) {
        self.indices.push(index);
        self.candidates.push(candidate);
    }

    fn choose(mut self, choose: impl FnOnce(&[P]) -> usize) -> Option<(usize, P)> {
        if self.candidates.is_empty() {
            return None;
        }
        let chosen = choose(&self.candidates).min(self.candidates.len() - 1);
        Some((self.indices[chosen], self.candidates.swap_remove(chosen)))
    }
}

/// Samples the candidates `0..count` and chooses one of the sample. Returns its index and its
/// value from `inspect`. Returns `None` if the sample has no candidate that can take the request; with
/// many candidates there may still be one outside the sample.
///
/// `inspect` reads a candidate, `choose` returns the index of one of several inspected candidates,
/// the first one if none is better, and `random` returns a number in `0..n`. The `preferred`
/// candidate is part of every sample, in the first place.
pub fn sample_and_choose<P>(
    count: usize,
    preferred: Option<usize>,
    mut inspect: impl FnMut(usize) -> CandidateStatus<P>,
    choose: impl FnOnce(&[P]) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<(usize, P)> {
    if count == 0 {
        return None;
    }
    let mut eligible = SampledCandidates::new();
    let mut last_resort = SampledCandidates::new();
    let mut consider = |index: usize, eligible: &mut SampledCandidates<P>| match inspect(index) {
        CandidateStatus::Eligible(candidate) => eligible.push(index, candidate),
        // A candidate of a large set may be drawn more than once.
        CandidateStatus::LastResort(candidate) if !last_resort.indices.contains(&index) => {
            last_resort.push(index, candidate);
        }
        CandidateStatus::LastResort(_) | CandidateStatus::Ineligible => {}
    };
    if let Some(index) = preferred {
        consider(index, &mut eligible);
    }
    if count <= SAMPLE_SIZE {
        // A random start breaks ties evenly.
        let start = random(count);
        for i in 0..count {
            let index = (start + i) % count;
            if Some(index) != preferred {
                consider(index, &mut eligible);
            }
        }
    } else {
        for _ in 0..MAX_DRAWS {
            let index = random(count);
            if Some(index) != preferred && !eligible.indices.contains(&index) {
                consider(index, &mut eligible);
            }
            if eligible.candidates.len() >= SAMPLE_SIZE {
                break;
            }
        }
    }
    if eligible.candidates.is_empty() {
        return last_resort.choose(choose);
    }
    eligible.choose(choose)
}

/// Chooses one of all candidates `0..count`, for explanations. Returns its index and its
/// value from `inspect`, or `None` if no candidate can take the request. `inspect` and `choose` are those of
/// [`sample_and_choose`].
pub fn choose_from_all<P>(
    count: usize,
    mut inspect: impl FnMut(usize) -> CandidateStatus<P>,
    choose: impl FnOnce(&[P]) -> usize,
) -> Option<(usize, P)> {
    let mut eligible = SampledCandidates::new();
    let mut last_resort = SampledCandidates::new();
    for index in 0..count {
        match inspect(index) {
            CandidateStatus::Eligible(candidate) => eligible.push(index, candidate),
            CandidateStatus::LastResort(candidate) => last_resort.push(index, candidate),
            CandidateStatus::Ineligible => {}
        }
    }
    if eligible.candidates.is_empty() {
        return last_resort.choose(choose);
    }
    eligible.choose(choose)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{RequestCost, ServedRequest, SpeedEstimate, contention_factor};
    use crate::routing::{ReplicaCandidate, choose_replica};
    use proptest::prelude::*;

    fn load(in_flight: u32) -> ReplicaLoad {
        ReplicaLoad {
            in_flight,
            external_in_flight: 0,
            concurrency: 4,
            capacity: 8,
        }
    }

    /// A small deterministic generator (xorshift), enough to spread draws.
    fn draws(mut state: u64) -> impl FnMut(usize) -> usize {
        move |n| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        }
    }

    fn status(load: ReplicaLoad) -> CandidateStatus<ReplicaLoad> {
        if load.is_full() {
            CandidateStatus::Ineligible
        } else {
            CandidateStatus::Eligible(load)
        }
    }

    fn candidate(load: ReplicaLoad, speed: Option<SpeedEstimate>) -> ReplicaCandidate {
        ReplicaCandidate {
            load,
            speed,
            joules: None,
            remaining_share: 1.0,
            pressure_factor: 1.0,
        }
    }

    fn choose(candidates: &[ReplicaCandidate], cost: RequestCost, now: f32) -> usize {
        choose_replica(candidates, None, cost, now).unwrap().index
    }

    fn least_busy(loads: &[ReplicaLoad]) -> usize {
        let candidates: Vec<_> = loads.iter().map(|load| candidate(*load, None)).collect();
        choose(&candidates, RequestCost::default(), 0.0)
    }

    /// The choice among replicas of unknown speed.
    fn chosen(loads: &[ReplicaLoad], seed: u64) -> Option<usize> {
        let inspect = |i: usize| status(loads[i]);
        sample_and_choose(loads.len(), None, inspect, least_busy, draws(seed)).map(|(i, _)| i)
    }

    #[test]
    fn less_busy_replica_of_two_is_chosen() {
        for seed in 1..20 {
            assert_eq!(chosen(&[load(3), load(1)], seed), Some(1));
        }
    }

    #[test]
    fn load_is_relative_to_concurrency() {
        let big = ReplicaLoad {
            in_flight: 6,
            external_in_flight: 0,
            concurrency: 16,
            capacity: 32,
        };
        assert_eq!(chosen(&[load(2), big], 1), Some(1));
    }

    #[test]
    fn requests_of_others_count_for_the_choice_but_not_as_full() {
        let busy_for_others = ReplicaLoad {
            external_in_flight: 9,
            ..load(0)
        };
        assert_eq!(chosen(&[busy_for_others, load(2)], 1), Some(1));
        assert_eq!(chosen(&[busy_for_others], 1), Some(0));
        assert!(load(3).has_free_slot() && !busy_for_others.has_free_slot());
    }

    #[test]
    fn no_replica_is_chosen_when_all_are_full() {
        assert_eq!(chosen(&[load(8), load(8), load(8)], 1), None);
        assert_eq!(chosen(&[], 1), None);
    }

    #[test]
    fn last_resort_is_chosen_only_without_an_eligible_candidate() {
        for replicas in [3, 30] {
            let inspect = |broken: fn(usize) -> bool| {
                move |i: usize| {
                    if broken(i) {
                        CandidateStatus::LastResort(load(0))
                    } else {
                        CandidateStatus::Eligible(load(7))
                    }
                }
            };
            for seed in 1..20 {
                let chosen =
                    sample_and_choose(replicas, None, inspect(|i| i == 1), least_busy, draws(seed));
                assert_ne!(chosen.unwrap().0, 1);
            }
            let all = sample_and_choose(replicas, None, inspect(|_| true), least_busy, draws(1));
            assert!(all.is_some());
        }
    }

    #[test]
    fn preferred_candidate_is_chosen_unless_another_is_better() {
        for replicas in [4, 40] {
            for seed in 1..20 {
                let inspect = |_| CandidateStatus::Eligible(load(2));
                let chosen = sample_and_choose(replicas, Some(3), inspect, least_busy, draws(seed));
                assert_eq!(chosen.unwrap().0, 3);
                let inspect = |i| CandidateStatus::Eligible(load(if i == 3 { 7 } else { 0 }));
                let chosen = sample_and_choose(replicas, Some(3), inspect, least_busy, draws(seed));
                assert_ne!(chosen.unwrap().0, 3);
            }
        }
    }

    #[test]
    fn ties_are_spread() {
        let mut random = draws(7);
        let mut hits = [0u32; 3];
        for _ in 0..3_000 {
            let inspect = |_| CandidateStatus::Eligible(load(0));
            hits[sample_and_choose(3, None, inspect, least_busy, &mut random)
                .unwrap()
                .0] += 1;
        }
        assert!(hits.iter().all(|h| (800..1_200).contains(h)), "{hits:?}");
    }

    /// How many requests each of several replicas gets, which take so many seconds each, if a request
    /// arrives every `every` seconds.
    fn shares(seconds_of: &[f32], every: f32, requests: usize) -> Vec<usize> {
        let mut random = draws(3);
        let mut running: Vec<(usize, f32)> = Vec::new();
        let mut known: Vec<Option<SpeedEstimate>> = vec![None; seconds_of.len()];
        let mut got = vec![0; seconds_of.len()];
        let cost = RequestCost {
            prompt_bytes: 10,
            max_tokens: None,
        };
        for number in 0..requests {
            let now = number as f32 * every;
            running.retain(|(_, end)| *end > now);
            let at = |i: usize| load(running.iter().filter(|(on, _)| *on == i).count() as u32);
            let chosen = sample_and_choose(
                seconds_of.len(),
                None,
                |i| match status(at(i)) {
                    CandidateStatus::Eligible(load) => {
                        CandidateStatus::Eligible(candidate(load, known[i]))
                    }
                    _ => CandidateStatus::Ineligible,
                },
                |seen: &[ReplicaCandidate]| choose(seen, cost, now),
                &mut random,
            );
            let Some((chosen, ReplicaCandidate { load, .. })) = chosen else {
                continue;
            };
            let seconds = seconds_of[chosen] * contention_factor(load);
            let served = ServedRequest {
                prompt_bytes: 10,
                prompt_tokens: 0,
                completion_tokens: 1,
                seconds,
                compute_time: None,
                load,
            };
            known[chosen] = Some(SpeedEstimate::learn(known[chosen], served, now));
            running.push((chosen, now + seconds));
            got[chosen] += 1;
        }
        got
    }

    #[test]
    fn slow_replica_gets_a_small_share_and_equal_ones_get_equal_shares() {
        let got = shares(&[0.1, 1.0], 0.05, 4_000);
        assert!(got[1] * 8 < got[0] && got[1] > 0, "{got:?}");
        let got = shares(&[0.1; 4], 0.01, 4_000);
        assert!(got.iter().all(|n| (800..1_200).contains(n)), "{got:?}");
        let mut seconds_of = [0.1; 40];
        seconds_of[7] = 1.0;
        let got = shares(&seconds_of, 0.002, 40_000);
        assert!(got[7] * 4 < got[6], "{got:?}");
    }

    proptest! {
        #[test]
        fn full_replica_is_never_chosen(
            in_flight in proptest::collection::vec(0u32..12, 1..40),
            preferred in proptest::option::of(0usize..40),
            seed in 1u64..,
        ) {
            let preferred = preferred.filter(|i| *i < in_flight.len());
            let inspect = |i: usize| status(load(in_flight[i]));
            let result = sample_and_choose(in_flight.len(), preferred, inspect, least_busy, draws(seed));
            if let Some((i, _)) = result {
                prop_assert!(in_flight[i] < 8);
            } else if in_flight.len() <= SAMPLE_SIZE {
                prop_assert!(in_flight.iter().all(|n| *n >= 8));
            }
        }
    }
}
