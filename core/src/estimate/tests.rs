use super::*;

fn load(in_flight: u32) -> ReplicaLoad {
    ReplicaLoad {
        in_flight,
        external_in_flight: 0,
        concurrency: 4,
        capacity: 64,
    }
}

fn served(seconds: f32, in_flight: u32) -> ServedRequest {
    ServedRequest {
        prompt_bytes: 100,
        prompt_tokens: 20,
        completion_tokens: 8,
        choices: 1,
        seconds,
        compute_time: None,
        load: load(in_flight),
    }
}

fn computed(prompt_bytes: u32, tokens: u32, prefill: f32, decode: f32) -> ServedRequest {
    ServedRequest {
        prompt_bytes,
        completion_tokens: tokens,
        compute_time: Some(ComputeTime { prefill, decode }),
        ..served(60.0, 50)
    }
}

/// The estimate of a replica whose answers have taken so long several times, the last time `at`.
fn speed(seconds: f32, at: f32) -> SpeedEstimate {
    let served = served(seconds * contention_factor(load(0)), 0);
    let rounds = (0..TRUSTED_ROUNDS).rev();
    let learn = |known, before| {
        Some(SpeedEstimate::learn(
            known,
            served,
            at - f32::from(before) * served.seconds,
        ))
    };
    rounds.fold(None, learn).unwrap()
}

fn times_of_two(
    a: (ReplicaLoad, Option<SpeedEstimate>),
    b: (ReplicaLoad, Option<SpeedEstimate>),
    cost: RequestCost,
    now: f32,
) -> (f32, f32) {
    let exploration = Exploration::unhurried(now);
    (time_ratio(a, b, cost, exploration).trusted, 1.0)
}

const COST: RequestCost = RequestCost {
    prompt_bytes: 100,
    max_tokens: None,
    choices: 1,
};

#[test]
fn predicts_what_it_has_learnt() {
    let mut known = None;
    for _ in 0..50 {
        known = Some(SpeedEstimate::learn(known, computed(100, 5, 0.2, 0.4), 0.0));
    }
    let known = known.unwrap();
    let prediction = known.predict(load(0), COST);
    assert!(
        (prediction.first_token - 0.2).abs() < 1e-3,
        "{prediction:?}"
    );
    assert!((prediction.total - 0.6).abs() < 1e-3, "{prediction:?}");
    // A request does not wait while a slot is free; then it waits for the requests before it.
    assert_eq!(known.predict(load(3), COST), prediction);
    let queued = known.predict(load(11), COST);
    assert!(
        (queued.first_token - (0.2 + 7.5 / 4.0 * 0.6)).abs() < 1e-3,
        "{queued:?}"
    );
    // A shorter answer takes less time.
    let short = RequestCost {
        max_tokens: Some(1),
        ..COST
    };
    assert!((known.predict(load(0), short).total - 0.2).abs() < 1e-3);
}

#[test]
fn unreported_compute_time_is_estimated_from_the_load() {
    let alone = SpeedEstimate::learn(None, served(2.0, 0), 0.0);
    let seen = alone.unloaded_seconds(COST) * contention_factor(load(0));
    assert!((seen - 2.0).abs() < 0.01, "{seen}");
    let busy = 2.0 * contention_factor(load(15)) / contention_factor(load(0));
    let busy = SpeedEstimate::learn(None, served(busy, 15), 0.0);
    assert!((busy.unloaded_seconds(COST) - alone.unloaded_seconds(COST)).abs() < 0.01);
}

#[test]
fn learns_how_prefill_time_grows_with_the_prompt() {
    let prompt = |seconds: fn(f32) -> f32| {
        let mut known = None;
        for n in 0..200_u32 {
            let bytes = 50 + n * 37 % 400;
            let served = computed(bytes, 2, seconds(bytes as f32), 0.01);
            known = Some(SpeedEstimate::learn(known, served, 0.0));
        }
        known.unwrap()
    };
    let at = |speed: SpeedEstimate, prompt_bytes| {
        let cost = RequestCost {
            prompt_bytes,
            max_tokens: Some(1),
            choices: 1,
        };
        speed.unloaded_seconds(cost)
    };
    let steep = prompt(|bytes| 0.001 * bytes);
    assert!((at(steep, 1_000) - 1.0).abs() < 0.1, "{}", at(steep, 1_000));
    let flat = prompt(|_| 0.3);
    assert!((at(flat, 1_000) - 0.3).abs() < 0.15, "{}", at(flat, 1_000));
    // Prompts of one length say nothing of other lengths: proportionality is assumed.
    let mut same = None;
    for _ in 0..20 {
        same = Some(SpeedEstimate::learn(same, computed(100, 2, 0.1, 0.01), 0.0));
    }
    let twice = at(same.unwrap(), 200);
    assert!((twice - 0.2).abs() < 0.01, "{twice}");
}

#[test]
fn abandoned_request_sets_a_lower_bound() {
    let lower_bound =
        |known, seconds| SpeedEstimate::learn_lower_bound(known, COST, seconds, load(0), 0.0);
    let fresh = lower_bound(None, 2.0).unwrap();
    assert!((fresh.unloaded_seconds(COST) - 2.0).abs() < 1e-3);
    let known = Some(SpeedEstimate::learn(None, computed(100, 5, 0.2, 0.4), 0.0));
    assert_eq!(
        lower_bound(known, 0.1),
        known,
        "a shorter time says nothing"
    );
    // The first complete answer replaces the lower bound.
    let whole = SpeedEstimate::learn(Some(fresh), computed(100, 5, 0.2, 0.4), 0.0);
    assert!(
        (whole.unloaded_seconds(COST) - 0.6).abs() < 1e-3,
        "{whole:?}"
    );
    assert!(
        whole.exploration_bonus(1.0) > 0.99
            && (whole.exploration_bonus(TRUST_HALF_LIFE) - 0.5).abs() < 1e-6
    );
    // A first token that takes twice as long makes it the slower replica, though no more is known.
    let tortoise = (load(0), lower_bound(None, 0.4));
    let (fast, slow) = times_of_two((load(0), known), tortoise, COST, 0.0);
    assert!(fast < slow);
    let slower = lower_bound(known, 2.0).unwrap();
    assert!(
        (slower.unloaded_seconds(COST) - 2.0).abs() < 1e-3,
        "{slower:?}"
    );
    let again = lower_bound(Some(slower), 1.9);
    assert_eq!(again, Some(slower));
}

#[test]
fn short_prompt_says_little_of_long_ones() {
    let short = SpeedEstimate::learn(None, computed(2, 2, 0.1, 0.01), 0.0);
    let long = RequestCost {
        prompt_bytes: 650,
        max_tokens: Some(1),
        choices: 1,
    };
    assert!(
        short.unloaded_seconds(long) < 1.0,
        "{}",
        short.unloaded_seconds(long)
    );
}

#[test]
fn estimate_follows_a_change_of_speed() {
    let mut known = Some(speed(0.1, 0.0));
    for n in 1..=20 {
        let now = 10.0 * n as f32;
        known = Some(SpeedEstimate::learn(known, served(10.0, 0), now));
    }
    assert!(known.unwrap().unloaded_seconds(COST) > 5.0, "{known:?}");
}

#[test]
fn idle_slow_replica_is_worse_than_a_fast_one_until_that_is_overloaded() {
    let slow = (load(0), Some(speed(1.0, 0.0)));
    let fast = |in_flight| (load(in_flight), Some(speed(0.1, 0.0)));
    for in_flight in [0, 3, 20] {
        let (fast, idle) = times_of_two(fast(in_flight), slow, COST, 0.0);
        assert!(fast < idle, "{in_flight}");
    }
    let (fast, idle) = times_of_two(fast(60), slow, COST, 0.0);
    assert!(fast > idle);
}

#[test]
fn similar_speeds_count_as_equal() {
    let of = |seconds| (load(1), Some(speed(seconds, 0.0)));
    let (a, b) = times_of_two(of(0.1), of(0.115), COST, 0.0);
    assert_eq!(a, b);
}

#[test]
fn slow_replica_is_tried_again_after_a_while() {
    let fast = |now| (load(2), Some(speed(0.1, now)));
    let slow = (load(0), Some(speed(1.0, 0.0)));
    let (a, b) = times_of_two(fast(0.0), slow, COST, 0.0);
    assert!(a < b);
    let later = 6.0 * TRUST_HALF_LIFE;
    let (a, b) = times_of_two(fast(later), slow, COST, later);
    assert!(a > b, "it is tried again");
    // An unknown replica counts as fast as the other one.
    let (a, b) = times_of_two(fast(0.0), (load(0), None), COST, 0.0);
    assert!(a > b);
}

#[test]
fn much_faster_answer_is_believed_at_once_and_a_much_slower_one_only_in_part() {
    let seconds = |known: Option<SpeedEstimate>| known.unwrap().unloaded_seconds(COST);
    let now = std::cell::Cell::new(0.0);
    let learn = |known, seconds: f32| {
        now.set(now.get() + 60.0);
        let served = computed(100, 5, seconds / 2.0, seconds / 2.0);
        Some(SpeedEstimate::learn(known, served, now.get()))
    };
    // The first answer after a load took 39 times as long.
    let known = learn(learn(None, 3.9), 0.1);
    assert!((seconds(known) - 0.1).abs() < 0.01, "{known:?}");
    // One outlier of forty times the usual time, and others that were under way with it.
    let mut known = learn(learn(None, 0.1), 4.0);
    for _ in 0..5 {
        let served = computed(100, 5, 2.0, 2.0);
        known = Some(SpeedEstimate::learn(known, served, now.get() + 1.0));
    }
    assert!(seconds(known) < 0.1 * SIMILAR, "{known:?}");
    // A replica that has become slower is believed after a few rounds of answers.
    for _ in 0..5 {
        known = learn(known, 4.0);
    }
    assert!(seconds(known) > 2.0, "{known:?}");
    // An answer that took no time at all can be corrected.
    let mut known = learn(learn(None, 1.0), 0.0);
    assert!(seconds(known) > 0.0);
    for _ in 0..20 {
        known = learn(known, 1.0);
    }
    assert!((seconds(known) - 1.0).abs() < 0.1, "{known:?}");
}

#[test]
fn idle_replica_is_doubted_until_several_rounds_of_answers_and_a_busy_one_is_not() {
    let fast = (load(2), Some(speed(0.1, 0.0)));
    let ratio = |slow: SpeedEstimate, in_flight| {
        let factor = contention_factor(load(in_flight)) / contention_factor(load(2));
        time_ratio(
            (load(in_flight), Some(slow)),
            fast,
            COST,
            Exploration::unhurried(0.0),
        )
        .trusted
            / factor
    };
    let answer = |known, at| {
        let served = ServedRequest {
            seconds: 4.0,
            ..computed(100, 8, 2.0, 2.0)
        };
        SpeedEstimate::learn(known, served, at)
    };
    // Requests that were under way together count as one round.
    let mut slow = answer(None, -15.0);
    for _ in 0..10 {
        slow = answer(Some(slow), -14.0);
    }
    assert_eq!(ratio(slow, 0), 1.0);
    assert!(ratio(slow, 1) > 20.0, "it is just being tried");
    for at in [-10.0, -5.0, 0.0] {
        slow = answer(Some(slow), at);
    }
    assert!(ratio(slow, 0) > 20.0);
}

#[test]
fn unfavourable_estimate_is_doubted_the_sooner_the_busier_the_best_replica_is() {
    let slow = speed(3.9, 0.0);
    let seconds_until_tried = |in_flight, candidates| {
        let load = load(in_flight);
        (1..100_000).map(|tenth| tenth as f32 / 10.0).find(|now| {
            let fast = (load, Some(speed(0.1, *now)));
            let exploration = Exploration::beside(load, candidates, *now);
            let idle = ReplicaLoad {
                in_flight: 0,
                ..load
            };
            time_ratio((idle, Some(slow)), fast, COST, exploration).trusted < 1.0
        })
    };
    let [queued, full, half, idle] =
        [20, 4, 2, 0].map(|in_flight| seconds_until_tried(in_flight, 2).unwrap_or(f32::INFINITY));
    assert!(queued < 2.0 && full < 8.0, "{queued} {full}");
    assert!(
        full * 5.0 < half && half * 5.0 < idle,
        "{full} {half} {idle}"
    );
    let among_eight = seconds_until_tried(20, 8).unwrap();
    assert!(among_eight > 5.0 * queued, "{among_eight}");
}

#[test]
fn answer_of_many_choices_teaches_the_time_and_length_of_one() {
    let of_choices = |choices, decode: f32| ServedRequest {
        choices,
        completion_tokens: 5 * choices,
        compute_time: Some(ComputeTime {
            prefill: 0.2,
            decode,
        }),
        ..served(60.0, 0)
    };
    let one = SpeedEstimate::learn(None, of_choices(1, 0.4), 0.0);
    let many = SpeedEstimate::learn(None, of_choices(128, 128.0 * 0.4), 0.0);
    assert!((many.unloaded_seconds(COST) - 0.6).abs() < 1e-3);
    assert!((many.output - one.output).abs() < 1e-3);
    // Nor does it change an estimate that is right already.
    let known = SpeedEstimate::learn(Some(one), of_choices(128, 128.0 * 0.4), 1.0);
    assert!((known.unloaded_seconds(COST) - 0.6).abs() < 1e-3);
    assert_eq!(known.surprising_rounds, 0);
    // Without a reported time: 8 choices on 4 slots take twice as long as one.
    let unreported = |choices, seconds| {
        let served = ServedRequest {
            choices,
            completion_tokens: 8 * choices,
            ..served(seconds, 0)
        };
        SpeedEstimate::learn(None, served, 0.0).unloaded_seconds(COST)
    };
    assert!((unreported(8, 4.0) - unreported(1, 2.0)).abs() < 1e-3);
}

#[test]
fn cost_grows_with_the_choices_that_do_not_fit_into_the_slots() {
    let known = SpeedEstimate::learn(None, computed(100, 5, 0.2, 0.4), 0.0);
    let cost = |choices| RequestCost { choices, ..COST };
    for (choices, total) in [(1, 0.6), (4, 0.6), (5, 1.2), (128, 32.0 * 0.6)] {
        let prediction = known.predict(load(0), cost(choices));
        assert!((prediction.total - total).abs() < 1e-3, "{prediction:?}");
        assert!((prediction.first_token - 0.2).abs() < 1e-3);
    }
    assert!((known.compute_seconds(cost(128)) - (0.2 + 128.0 * 0.4)).abs() < 1e-2);
    // Of two replicas that are as fast, the one with more slots is faster.
    let small = ReplicaLoad {
        concurrency: 1,
        ..load(0)
    };
    let ratio = |choices| {
        let exploration = Exploration::unhurried(0.0);
        let large = (load(0), Some(known));
        time_ratio((small, Some(known)), large, cost(choices), exploration).trusted
    };
    assert!((ratio(8) / ratio(1) - 4.0).abs() < 1e-3);
    // A request that was abandoned before the time that its choices take says nothing.
    let abandoned = |choices| {
        SpeedEstimate::learn_lower_bound(Some(known), cost(choices), 6.0, load(0), 0.0).unwrap()
    };
    assert_eq!(abandoned(128), known);
    assert!(abandoned(1).unloaded_seconds(COST) > 1.0);
}
