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

fn speed(seconds: f32, at: f32) -> SpeedEstimate {
    SpeedEstimate::learn(None, served(seconds * contention_factor(load(0)), 0), at)
}

fn times_of_two(
    a: (ReplicaLoad, Option<SpeedEstimate>),
    b: (ReplicaLoad, Option<SpeedEstimate>),
    cost: RequestCost,
    now: f32,
) -> (f32, f32) {
    (time_ratio(a, b, cost, now), 1.0)
}

const COST: RequestCost = RequestCost {
    prompt_bytes: 100,
    max_tokens: None,
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
    for _ in 0..20 {
        known = Some(SpeedEstimate::learn(known, served(10.0, 0), 1.0));
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
