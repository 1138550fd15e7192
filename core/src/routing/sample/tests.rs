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
        ..RequestCost::default()
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
            choices: 1,
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
