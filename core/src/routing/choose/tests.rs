use super::*;
use crate::estimate::{ComputeTime, ServedRequest};
use crate::routing::SelectionReason;
use proptest::prelude::*;

const COST: RequestCost = RequestCost {
    prompt_bytes: 100,
    max_tokens: None,
    choices: 1,
};

fn load(in_flight: u32) -> ReplicaLoad {
    ReplicaLoad {
        in_flight,
        external_in_flight: 0,
        concurrency: 4,
        capacity: 68,
    }
}

/// A replica that takes so many seconds and joules while it is idle.
fn candidate(seconds: f32, joules: f32) -> ReplicaCandidate {
    let served = ServedRequest {
        prompt_bytes: 100,
        prompt_tokens: 25,
        completion_tokens: 11,
        choices: 1,
        seconds,
        compute_time: Some(ComputeTime {
            prefill: seconds / 2.0,
            decode: seconds / 2.0,
        }),
        load: load(0),
    };
    // Several rounds of answers, the last one at the time 0.
    let learn = |known, before: u8| {
        let now = -f32::from(before) * seconds;
        Some(SpeedEstimate::learn(known, served, now))
    };
    ReplicaCandidate {
        load: load(0),
        speed: (0..8).rev().fold(None, learn),
        joules: Some(Joules(joules)),
        remaining_share: 1.0,
        pressure_factor: 1.0,
    }
}

fn choose(candidates: &[ReplicaCandidate], weights: Option<ObjectiveWeights>) -> ReplicaChoice {
    choose_replica(candidates, weights, COST, 0.0).unwrap()
}

fn chosen(candidates: &[ReplicaCandidate]) -> usize {
    choose(candidates, None).index
}

fn reasons(
    candidates: &[ReplicaCandidate],
    weights: Option<ObjectiveWeights>,
) -> Vec<SelectionReason> {
    choose(candidates, weights).explain()
}

fn weights(latency: f32, energy: f32) -> Option<ObjectiveWeights> {
    Some(ObjectiveWeights {
        quality: 0.0,
        latency,
        energy,
    })
}

#[test]
fn energy_is_saved_within_the_slack_only() {
    let soonest = candidate(1.0, 40.0);
    assert_eq!(chosen(&[soonest, candidate(1.4, 10.0)]), 1);
    assert_eq!(chosen(&[soonest, candidate(1.7, 0.1)]), 0);
    assert_eq!(
        chosen(&[soonest, candidate(1.4, 30.0)]),
        0,
        "it saves little"
    );
    // The slack is counted from the soonest of all, not from the one that is chosen instead.
    let three = [soonest, candidate(1.4, 10.0), candidate(1.9, 0.1)];
    assert_eq!(chosen(&three), 1);
    assert_eq!(choose_replica(&[], None, COST, 0.0), None);
    assert_eq!(choose_replica(&[], weights(1.0, 1.0), COST, 0.0), None);
}

#[test]
fn each_candidate_has_the_reason_of_the_default_rule() {
    let soonest = candidate(1.0, 40.0);
    let busy = ReplicaCandidate {
        load: load(4),
        ..candidate(1.0, 1.0)
    };
    let all = [
        soonest,
        candidate(1.4, 10.0),
        candidate(2.0, 0.1),
        busy,
        candidate(1.4, 40.0),
    ];
    let near = |a: f32, b: f32| (a - b).abs() < 0.02;
    let of_all = reasons(&all, None);
    assert!(
        matches!(of_all[0], SelectionReason::HigherCost { product } if near(product, 1.43)),
        "{of_all:?}"
    );
    assert!(
        matches!(of_all[1], SelectionReason::LowestEnergy { time, joules } if near(time, 1.4) && near(joules, 0.25)),
        "{of_all:?}"
    );
    assert!(
        matches!(of_all[2], SelectionReason::TooSlow { time, max_time } if near(time, 2.0) && max_time == SLACK),
        "{of_all:?}"
    );
    assert_eq!(of_all[3], SelectionReason::NoFreeSlot);
    assert!(
        matches!(of_all[4], SelectionReason::HigherCost { product } if near(product, 2.0)),
        "{of_all:?}"
    );
    assert_eq!(reasons(&all[..1], None), [SelectionReason::OnlyReplica]);
    assert_eq!(
        reasons(&[soonest, soonest], None),
        [SelectionReason::ShortestTime, SelectionReason::Equivalent]
    );
}

#[test]
fn session_narrows_the_slack_and_ratios_of_zero_are_finite() {
    let session = ReplicaCandidate {
        remaining_share: 0.5,
        ..candidate(1.0, 40.0)
    };
    let of_session = reasons(&[session, candidate(0.7, 1.0)], None);
    assert!(
        matches!(of_session[..], [SelectionReason::ShortestTime, SelectionReason::TooSlow { max_time, .. }] if max_time == 1.0),
        "{of_session:?}"
    );
    let nothing = ReplicaCandidate {
        remaining_share: 0.0,
        ..candidate(1.0, 0.0)
    };
    for reason in reasons(&[nothing, candidate(9.0, 1.0), nothing], None) {
        let json = serde_json::to_value(reason).unwrap();
        assert_eq!(
            serde_json::from_value::<SelectionReason>(json).unwrap(),
            reason
        );
    }
}

#[test]
fn each_candidate_has_the_reason_of_the_weights() {
    let two = [candidate(1.0, 40.0), candidate(2.0, 10.0)];
    let by_energy = reasons(&two, weights(0.0, 1.0));
    assert!(
        matches!(by_energy[..], [SelectionReason::LowerScore { difference }, SelectionReason::BestScore] if difference > 0.5),
        "{by_energy:?}"
    );
    let by_latency = reasons(&two, weights(1.0, 0.0));
    assert!(
        matches!(by_latency[..], [SelectionReason::BestScore, SelectionReason::Slower { time }] if time > 1.9),
        "{by_latency:?}"
    );
    assert_eq!(
        reasons(&[two[0], two[0]], weights(1.0, 1.0)),
        [SelectionReason::BestScore, SelectionReason::Equivalent]
    );
}

#[test]
fn request_does_not_wait_for_a_slot_to_save_energy() {
    let economical = |in_flight| ReplicaCandidate {
        load: load(in_flight),
        ..candidate(1.0, 1.0)
    };
    let other = candidate(1.0, 100.0);
    assert_eq!(chosen(&[other, economical(3)]), 1);
    assert_eq!(chosen(&[other, economical(4)]), 0);
}

#[test]
fn similar_nodes_share_the_load() {
    let busy = ReplicaCandidate {
        load: load(1),
        ..candidate(1.0, 10.0)
    };
    assert_eq!(chosen(&[busy, candidate(1.1, 12.0)]), 1);
    let tie = [candidate(1.0, 10.0), candidate(1.1, 9.0)];
    assert_eq!(chosen(&tie), 0, "the first");
}

#[test]
fn unknown_and_long_unseen_replicas_are_tried() {
    let unknown = ReplicaCandidate {
        speed: None,
        joules: None,
        ..candidate(1.0, 1.0)
    };
    let known = ReplicaCandidate {
        load: load(1),
        ..candidate(0.1, 1.0)
    };
    assert_eq!(chosen(&[known, unknown]), 1);
    let (economical, wasteful) = (candidate(1.0, 1.0), candidate(1.0, 50.0));
    let chosen_at = |now| {
        let economical = ReplicaCandidate {
            load: load(1),
            ..economical
        };
        let choice = choose_replica(&[economical, wasteful], None, COST, now);
        choice.unwrap().index
    };
    assert_eq!((chosen_at(0.0), chosen_at(3_000.0)), (0, 1));
}

#[test]
fn node_under_pressure_is_used_less() {
    let under_pressure = ReplicaCandidate {
        pressure_factor: 2.0,
        ..candidate(1.0, 10.0)
    };
    assert_eq!(chosen(&[under_pressure, candidate(1.4, 11.0)]), 1);
    assert_eq!(chosen(&[under_pressure, candidate(9.0, 11.0)]), 0);
}

#[test]
fn session_does_not_move_to_save_energy() {
    let session = ReplicaCandidate {
        remaining_share: 0.5,
        ..candidate(1.0, 50.0)
    };
    assert_eq!(chosen(&[session, candidate(0.6, 1.0)]), 0);
    assert_eq!(chosen(&[session, candidate(0.3, 50.0)]), 1);
}

#[test]
fn weights_of_a_task_replace_the_default_rule() {
    let two = [candidate(1.0, 40.0), candidate(1.4, 10.0)];
    assert_eq!(choose(&two, weights(1.0, 0.0)).index, 0);
    assert_eq!(choose(&two, weights(1.0, 1.0)).index, 1);
    let far = [candidate(1.0, 40.0), candidate(9.0, 10.0)];
    assert_eq!(choose(&far, weights(0.0, 1.0)).index, 1);
}

fn any_candidate() -> impl Strategy<Value = ReplicaCandidate> {
    (
        0.01f32..10.0,
        0.01f32..100.0,
        0u32..8,
        1.0f32..4.0,
        0.0f32..1.0,
    )
        .prop_map(
            |(seconds, joules, in_flight, pressure_factor, remaining_share)| ReplicaCandidate {
                load: load(in_flight),
                pressure_factor,
                remaining_share,
                ..candidate(seconds, joules)
            },
        )
}

/// Candidates that also may be unknown or long unseen.
fn any_candidates() -> impl Strategy<Value = Vec<ReplicaCandidate>> {
    let one = (any_candidate(), 0.0f32..2_000.0, 0u8..10).prop_map(|(one, updated, kind)| {
        let served = |seconds| ServedRequest {
            prompt_bytes: 100,
            prompt_tokens: 25,
            completion_tokens: 11,
            choices: 1,
            seconds,
            compute_time: None,
            load: load(0),
        };
        let seconds = one.speed.unwrap().unloaded_seconds(COST);
        let speed = match kind {
            0 => None,
            1 => SpeedEstimate::learn_lower_bound(None, COST, seconds, load(0), updated),
            _ => Some(SpeedEstimate::learn(None, served(seconds), updated)),
        };
        ReplicaCandidate {
            speed,
            joules: one.joules.filter(|_| kind != 0),
            ..one
        }
    });
    prop::collection::vec(one, 1..9)
}

fn any_weights() -> impl Strategy<Value = Option<ObjectiveWeights>> {
    let some = (0.0f32..1.0, 0.0f32..1.0).prop_map(|(latency, energy)| ObjectiveWeights {
        quality: 0.0,
        latency,
        energy,
    });
    prop::option::of(some)
}

proptest! {
    #[test]
    fn reasons_agree_with_the_choice(candidates in any_candidates(), weights in any_weights()) {
        let choice = choose_replica(&candidates, weights, COST, 2_000.0).unwrap();
        for (index, reason) in choice.explain().into_iter().enumerate() {
            prop_assert_eq!(reason.is_chosen(), index == choice.index);
            match reason {
                SelectionReason::TooSlow { time, max_time } => {
                    prop_assert!(time >= max_time && max_time >= 1.0);
                }
                SelectionReason::HigherCost { product: above } | SelectionReason::Slower { time: above } => {
                    prop_assert!(above > 1.0);
                }
                SelectionReason::LowerScore { difference } => prop_assert!(difference > 0.0),
                _ => {}
            }
        }
    }

    #[test]
    fn choice_does_not_depend_on_the_order_of_the_candidates(
        (candidates, shuffled) in any_candidates().prop_flat_map(|candidates| {
            let indices: Vec<usize> = (0..candidates.len()).collect();
            (Just(candidates), Just(indices).prop_shuffle())
        }),
        weights in any_weights(),
    ) {
        let choose = |candidates: &[ReplicaCandidate]| {
            choose_replica(candidates, weights, COST, 2_000.0).unwrap()
        };
        let reordered: Vec<_> = shuffled.iter().map(|index| candidates[*index]).collect();
        let (before, after) = (choose(&candidates), choose(&reordered));
        for (position, index) in shuffled.iter().enumerate() {
            prop_assert_eq!(before.figures[*index], after.figures[position]);
        }
        // Either the same candidate is chosen, or another one that is just as good.
        let (a, b) = (before.figures[before.index], after.figures[after.index]);
        let is_tie = match weights {
            Some(_) => a.time == b.time,
            None => a.time_energy_product() == b.time_energy_product(),
        };
        prop_assert!(is_tie, "{before:?} {after:?}");
    }

    #[test]
    fn no_candidate_beats_the_chosen_one(candidates in any_candidates(), weights in any_weights()) {
        let choice = choose_replica(&candidates, weights, COST, 2_000.0).unwrap();
        let chosen = choice.figures[choice.index];
        prop_assert!(chosen.shortlisted);
        for one in choice.figures.iter().filter(|one| one.shortlisted) {
            match weights {
                Some(_) => prop_assert!(chosen.time <= one.time),
                None => prop_assert!(chosen.time_energy_product() <= one.time_energy_product()),
            }
        }
    }

    #[test]
    fn no_candidate_with_a_free_slot_is_better_in_both_time_and_energy(
        candidates in prop::collection::vec(any_candidate(), 1..9),
    ) {
        let choice = choose(&candidates, None);
        let chosen = choice.figures[choice.index];
        let joules = |one: &ReplicaCandidate| one.joules.unwrap().0 * one.pressure_factor;
        for (one, figures) in candidates.iter().zip(&choice.figures) {
            let is_better = figures.time < chosen.time
                && joules(one) < joules(&candidates[choice.index]);
            prop_assert!(!is_better || !figures.has_free_slot);
        }
    }

    #[test]
    fn chosen_replica_is_within_the_slack_of_the_soonest(
        candidates in prop::collection::vec(any_candidate(), 1..9),
    ) {
        let choice = choose(&candidates, None);
        let times = choice.figures.iter().map(|one| one.time);
        let soonest = times.reduce(f32::min).unwrap();
        let chosen = choice.figures[choice.index];
        prop_assert!(chosen.time <= SLACK * soonest);
        prop_assert!(chosen.time == soonest || chosen.has_free_slot);
    }
}
