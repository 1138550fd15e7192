//! The power of a few choices: look at some random replicas, take the best of them. Two are nearly as
//! balanced as looking at all, at a cost that does not grow with the fleet (Mitzenmacher, "The
//! Power of Two Choices in Randomized Load Balancing", 2001).

use serde::{Deserialize, Serialize};

/// How busy a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLoad {
    /// Requests dispatched to it from here and not finished.
    pub in_flight: u32,
    /// Requests that it has from elsewhere, as it said last: a little old.
    pub elsewhere: u32,
    /// Requests it computes at once, at least 1.
    pub concurrency: u32,
    /// Requests it takes at most, computing and waiting.
    pub capacity: u32,
}

impl ReplicaLoad {
    /// Requests that it has, from here and from elsewhere.
    #[must_use]
    pub fn requests(self) -> u32 {
        self.in_flight.saturating_add(self.elsewhere)
    }

    /// Whether it computes fewer requests than it can.
    #[must_use]
    pub fn has_room(self) -> bool {
        self.requests() < self.concurrency
    }

    /// Whether one more request would be refused, as far as is known here: what it has from
    /// elsewhere may be gone by now, and if it is not, the replica says so.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.in_flight >= self.capacity
    }
}

/// A candidate that could be looked at.
pub enum CandidateStatus<P> {
    /// It can take the request.
    Able(P),
    /// It fails time after time: only where there is no other, as what fails everywhere is not the
    /// replicas' fault.
    LastResort(P),
    /// It cannot take it.
    Out,
}

/// Able candidates that are compared: of so many or fewer all, which is cheaper than missing the only
/// free one, and of more a sample. Two are enough to share the load among equals; a fleet's nodes
/// are not, and those that are fast or need little energy may be few: in the simulated day of
/// `benches/fleet_day` eight take a third fewer joules than four, and end sooner.
const COMPARED: usize = 8;

/// Draws before a large set counts as full.
const DRAWS: usize = 24;

/// Candidates that were looked at.
struct SampledCandidates<P> {
    indices: Vec<usize>,
    seen: Vec<P>,
}

impl<P> SampledCandidates<P> {
    fn new() -> Self {
        Self {
            indices: Vec::with_capacity(COMPARED),
            seen: Vec::with_capacity(COMPARED),
        }
    }

    fn push(&mut self, index: usize, seen: P) {
        self.indices.push(index);
        self.seen.push(seen);
    }

    fn pick(mut self, choose: impl FnOnce(&[P]) -> usize) -> Option<(usize, P)> {
        if self.seen.is_empty() {
            return None;
        }
        let chosen = choose(&self.seen).min(self.seen.len() - 1);
        Some((self.indices[chosen], self.seen.swap_remove(chosen)))
    }
}

/// Picks one of `0..candidates` and what was seen there.
///
/// `look` reads a candidate, `choose` picks one of several that were looked at, which is the first one
/// where none is better, and `random` yields a number in `0..n`. One that is `preferred` is looked at
/// whatever is drawn, and comes first. `None` means that no candidate was found; with many
/// candidates that is a sample's verdict, not a proof.
pub fn select<P>(
    candidates: usize,
    preferred: Option<usize>,
    mut look: impl FnMut(usize) -> CandidateStatus<P>,
    choose: impl FnOnce(&[P]) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<(usize, P)> {
    if candidates == 0 {
        return None;
    }
    let mut able = SampledCandidates::new();
    let mut last_resort = SampledCandidates::new();
    let mut consider = |index: usize, able: &mut SampledCandidates<P>| match look(index) {
        CandidateStatus::Able(seen) => able.push(index, seen),
        // Of a large set one may be drawn again.
        CandidateStatus::LastResort(seen) if !last_resort.indices.contains(&index) => {
            last_resort.push(index, seen);
        }
        CandidateStatus::LastResort(_) => {}
        CandidateStatus::Out => {}
    };
    if let Some(index) = preferred {
        consider(index, &mut able);
    }
    if candidates <= COMPARED {
        // A random start breaks ties evenly.
        let start = random(candidates);
        for i in 0..candidates {
            let index = (start + i) % candidates;
            if Some(index) != preferred {
                consider(index, &mut able);
            }
        }
    } else {
        for _ in 0..DRAWS {
            let index = random(candidates);
            if Some(index) != preferred && !able.indices.contains(&index) {
                consider(index, &mut able);
            }
            if able.seen.len() >= COMPARED {
                break;
            }
        }
    }
    if able.seen.is_empty() {
        return last_resort.pick(choose);
    }
    able.pick(choose)
}

/// Picks one of all of `0..candidates` and what was seen there: for explanations, since it looks at every
/// candidate. `look` and `choose` are those of [`select`].
pub fn select_of_all<P>(
    candidates: usize,
    mut look: impl FnMut(usize) -> CandidateStatus<P>,
    choose: impl FnOnce(&[P]) -> usize,
) -> Option<(usize, P)> {
    let mut able = SampledCandidates::new();
    let mut last_resort = SampledCandidates::new();
    for index in 0..candidates {
        match look(index) {
            CandidateStatus::Able(seen) => able.push(index, seen),
            CandidateStatus::LastResort(seen) => last_resort.push(index, seen),
            CandidateStatus::Out => {}
        }
    }
    if able.seen.is_empty() {
        return last_resort.pick(choose);
    }
    able.pick(choose)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{RequestCost, ServedRequest, SpeedEstimate, crowd};
    use crate::routing::{ReplicaCandidate, prefer};
    use proptest::prelude::*;

    fn load(in_flight: u32) -> ReplicaLoad {
        ReplicaLoad {
            in_flight,
            elsewhere: 0,
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

    fn able(load: ReplicaLoad) -> CandidateStatus<ReplicaLoad> {
        if load.is_full() {
            CandidateStatus::Out
        } else {
            CandidateStatus::Able(load)
        }
    }

    fn contender(load: ReplicaLoad, pace: Option<SpeedEstimate>) -> ReplicaCandidate {
        ReplicaCandidate {
            load,
            pace,
            joules: None,
            left: 1.0,
            strain: 1.0,
        }
    }

    fn least_busy(loads: &[ReplicaLoad]) -> usize {
        let contenders: Vec<_> = loads.iter().map(|load| contender(*load, None)).collect();
        prefer(&contenders, None, RequestCost::default(), 0.0)
    }

    /// The pick among replicas of unknown pace.
    fn pick(loads: &[ReplicaLoad], seed: u64) -> Option<usize> {
        let look = |i: usize| able(loads[i]);
        select(loads.len(), None, look, least_busy, draws(seed)).map(|(i, _)| i)
    }

    #[test]
    fn the_idle_one_of_two_is_taken() {
        for seed in 1..20 {
            assert_eq!(pick(&[load(3), load(1)], seed), Some(1));
        }
    }

    #[test]
    fn load_is_relative_to_concurrency() {
        let big = ReplicaLoad {
            in_flight: 6,
            elsewhere: 0,
            concurrency: 16,
            capacity: 32,
        };
        assert_eq!(pick(&[load(2), big], 1), Some(1));
    }

    #[test]
    fn what_others_send_counts_for_the_choice_but_not_as_full() {
        let busy_elsewhere = ReplicaLoad {
            elsewhere: 9,
            ..load(0)
        };
        assert_eq!(pick(&[busy_elsewhere, load(2)], 1), Some(1));
        assert_eq!(pick(&[busy_elsewhere], 1), Some(0));
        assert!(load(3).has_room() && !busy_elsewhere.has_room());
    }

    #[test]
    fn none_is_picked_when_all_are_full() {
        assert_eq!(pick(&[load(8), load(8), load(8)], 1), None);
        assert_eq!(pick(&[], 1), None);
    }

    #[test]
    fn a_last_resort_is_taken_only_where_there_is_no_other() {
        for replicas in [3, 30] {
            let look = |broken: fn(usize) -> bool| {
                move |i: usize| {
                    if broken(i) {
                        CandidateStatus::LastResort(load(0))
                    } else {
                        CandidateStatus::Able(load(7))
                    }
                }
            };
            for seed in 1..20 {
                let picked = select(replicas, None, look(|i| i == 1), least_busy, draws(seed));
                assert_ne!(picked.unwrap().0, 1);
            }
            let all = select(replicas, None, look(|_| true), least_busy, draws(1));
            assert!(all.is_some());
        }
    }

    #[test]
    fn a_preferred_one_is_looked_at_and_stays_unless_another_is_better() {
        for replicas in [4, 40] {
            for seed in 1..20 {
                let look = |_| CandidateStatus::Able(load(2));
                let picked = select(replicas, Some(3), look, least_busy, draws(seed));
                assert_eq!(picked.unwrap().0, 3);
                let look = |i| CandidateStatus::Able(load(if i == 3 { 7 } else { 0 }));
                let picked = select(replicas, Some(3), look, least_busy, draws(seed));
                assert_ne!(picked.unwrap().0, 3);
            }
        }
    }

    #[test]
    fn ties_are_spread() {
        let mut random = draws(7);
        let mut hits = [0u32; 3];
        for _ in 0..3_000 {
            let look = |_| CandidateStatus::Able(load(0));
            hits[select(3, None, look, least_busy, &mut random).unwrap().0] += 1;
        }
        assert!(hits.iter().all(|h| (800..1_200).contains(h)), "{hits:?}");
    }

    /// Replicas with a pace each, requests that come one after the other at `every` seconds:
    /// how many each gets.
    fn shares(paces: &[f32], every: f32, requests: usize) -> Vec<usize> {
        let mut random = draws(3);
        let mut running: Vec<(usize, f32)> = Vec::new();
        let mut known: Vec<Option<SpeedEstimate>> = vec![None; paces.len()];
        let mut got = vec![0; paces.len()];
        let work = RequestCost {
            prompt_bytes: 10,
            max_tokens: None,
        };
        for number in 0..requests {
            let now = number as f32 * every;
            running.retain(|(_, end)| *end > now);
            let at = |i: usize| load(running.iter().filter(|(on, _)| *on == i).count() as u32);
            let picked = select(
                paces.len(),
                None,
                |i| match able(at(i)) {
                    CandidateStatus::Able(load) => CandidateStatus::Able(contender(load, known[i])),
                    _ => CandidateStatus::Out,
                },
                |seen: &[ReplicaCandidate]| prefer(seen, None, work, now),
                &mut random,
            );
            let Some((chosen, ReplicaCandidate { load, .. })) = picked else {
                continue;
            };
            let seconds = paces[chosen] * crowd(load);
            let served = ServedRequest {
                prompt_bytes: 10,
                prompt_tokens: 0,
                completion_tokens: 1,
                seconds,
                computed: None,
                load,
            };
            known[chosen] = Some(SpeedEstimate::learn(known[chosen], served, now));
            running.push((chosen, now + seconds));
            got[chosen] += 1;
        }
        got
    }

    #[test]
    fn a_replica_ten_times_slower_gets_a_small_part_and_equal_ones_get_equal_parts() {
        let got = shares(&[0.1, 1.0], 0.05, 4_000);
        assert!(got[1] * 8 < got[0] && got[1] > 0, "{got:?}");
        let got = shares(&[0.1; 4], 0.01, 4_000);
        assert!(got.iter().all(|n| (800..1_200).contains(n)), "{got:?}");
        let mut paces = [0.1; 40];
        paces[7] = 1.0;
        let got = shares(&paces, 0.002, 40_000);
        assert!(got[7] * 4 < got[6], "{got:?}");
    }

    proptest! {
        #[test]
        fn what_cannot_take_it_is_never_picked(
            in_flight in proptest::collection::vec(0u32..12, 1..40),
            preferred in proptest::option::of(0usize..40),
            seed in 1u64..,
        ) {
            let preferred = preferred.filter(|i| *i < in_flight.len());
            let look = |i: usize| able(load(in_flight[i]));
            let pick = select(in_flight.len(), preferred, look, least_busy, draws(seed));
            if let Some((i, _)) = pick {
                prop_assert!(in_flight[i] < 8);
            } else if in_flight.len() <= COMPARED {
                prop_assert!(in_flight.iter().all(|n| *n >= 8));
            }
        }
    }
}
