//! How a model's requests spread over its replicas, second by second, in a simulation of replicas that
//! compute a few requests at once and queue the others.

use super::*;
use crate::estimate::{ComputeTime, ServedRequest};
use crate::routing::{CandidateStatus, SelectionReason, sample_and_choose};

/// Slots of each replica.
const CONCURRENCY: u32 = 4;
/// Requests that each replica takes, computing and queued together.
const CAPACITY: u32 = 68;
const COST: RequestCost = RequestCost {
    prompt_bytes: 100,
    max_tokens: None,
    choices: 1,
};

/// Seconds that a replica computes a request which it begins at this time.
type ComputeSeconds = fn(f32) -> f32;

/// A request on a replica.
struct RunningRequest {
    load: ReplicaLoad,
    dispatched: f32,
    began: f32,
    ends: f32,
}

struct SimulatedReplica {
    compute_seconds: ComputeSeconds,
    speed: Option<SpeedEstimate>,
    /// The requests that are computed or queued, in the order of their arrival.
    requests: Vec<RunningRequest>,
}

impl SimulatedReplica {
    fn new(compute_seconds: ComputeSeconds, speed: Option<SpeedEstimate>) -> Self {
        Self {
            compute_seconds,
            speed,
            requests: Vec::new(),
        }
    }

    fn load(&self) -> ReplicaLoad {
        ReplicaLoad {
            in_flight: self.requests.len() as u32,
            external_in_flight: 0,
            concurrency: CONCURRENCY,
            capacity: CAPACITY,
        }
    }

    /// Takes a request, which begins as soon as a slot is free.
    fn dispatch(&mut self, now: f32) {
        let load = self.load();
        let mut ends: Vec<f32> = self.requests.iter().map(|one| one.ends).collect();
        ends.sort_by(f32::total_cmp);
        let queued = self.requests.len().checked_sub(CONCURRENCY as usize);
        let began = queued.map_or(now, |ahead| ends[ahead].max(now));
        self.requests.push(RunningRequest {
            load,
            dispatched: now,
            began,
            ends: began + (self.compute_seconds)(began),
        });
    }

    /// Learns from the answers that have ended by now.
    fn learn_until(&mut self, now: f32) {
        let ended = self.requests.extract_if(.., |one| one.ends <= now);
        let mut ended: Vec<_> = ended.collect();
        ended.sort_by(|a, b| a.ends.total_cmp(&b.ends));
        for one in ended {
            let served = ServedRequest {
                prompt_bytes: COST.prompt_bytes,
                prompt_tokens: 25,
                completion_tokens: 5,
                choices: 1,
                seconds: one.ends - one.dispatched,
                compute_time: Some(ComputeTime {
                    prefill: (one.ends - one.began) / 2.0,
                    decode: (one.ends - one.began) / 2.0,
                }),
                load: one.load,
            };
            self.speed = Some(SpeedEstimate::learn(self.speed, served, one.ends));
        }
    }
}

/// The requests that each replica got in each second, at a constant rate.
struct Traffic {
    per_second: Vec<Vec<u32>>,
    /// Seconds from dispatch to the end of the answers.
    latencies: Vec<f32>,
}

impl Traffic {
    /// Simulates `seconds` with so many requests per second.
    fn simulate(mut replicas: Vec<SimulatedReplica>, rate: f32, seconds: usize) -> Self {
        let mut random = {
            let mut state = 0x2545_f491_u64;
            move |n: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % n as u64) as usize
            }
        };
        let mut per_second = vec![vec![0; replicas.len()]; seconds];
        let mut latencies = Vec::new();
        for number in 0..(rate * seconds as f32) as usize {
            let now = number as f32 / rate;
            replicas.iter_mut().for_each(|one| one.learn_until(now));
            let inspect = |index: usize| {
                let SimulatedReplica { speed, .. } = replicas[index];
                let load = replicas[index].load();
                if load.is_full() {
                    return CandidateStatus::Ineligible;
                }
                CandidateStatus::Eligible(ReplicaCandidate {
                    load,
                    speed,
                    joules: speed.map(|speed| Joules(10.0 * speed.unloaded_seconds(COST))),
                    remaining_share: 1.0,
                    pressure_factor: 1.0,
                })
            };
            let choose = |candidates: &[ReplicaCandidate]| {
                choose_replica(candidates, None, COST, now).unwrap().index
            };
            let chosen = sample_and_choose(replicas.len(), None, inspect, choose, &mut random);
            let Some((chosen, _)) = chosen else { continue };
            replicas[chosen].dispatch(now);
            latencies.push(replicas[chosen].requests.last().unwrap().ends - now);
            per_second[now as usize][chosen] += 1;
        }
        Self {
            per_second,
            latencies,
        }
    }

    /// The share of the requests that a replica got from one second to another.
    fn share(&self, replica: usize, seconds: std::ops::Range<usize>) -> f32 {
        let seconds = &self.per_second[seconds];
        let all: u32 = seconds.iter().flatten().sum();
        let own: u32 = seconds.iter().map(|second| second[replica]).sum();
        own as f32 / all as f32
    }

    fn percentile(&self, percent: usize) -> f32 {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f32::total_cmp);
        sorted[sorted.len() * percent / 100]
    }
}

/// An estimate that a replica has earned with many answers of this time, the last one at the time 0.
fn estimate(seconds: f32) -> SpeedEstimate {
    let learn =
        |known, at: i32| SpeedEstimate::learn(known, answer(seconds), -(at as f32) * seconds);
    (0..20)
        .rev()
        .fold(None, |known, at| Some(learn(known, at)))
        .unwrap()
}

const STEADY: ComputeSeconds = |_| 0.05;

fn is_fair(share: f32) -> bool {
    // Within 20 % of each other: 45.5 to 54.5 %.
    (1.0 / 2.2..1.2 / 2.2).contains(&share)
}

#[test]
fn equal_replicas_share_from_two_seconds_after_a_bad_beginning_on() {
    // The first answers after a load take two seconds; then both replicas are equal.
    let warming_up: ComputeSeconds = |now| if now < 0.1 { 2.0 } else { 0.05 };
    for rate in [20.0, 60.0, 100.0, 140.0] {
        for old in [None, Some(estimate(0.05))] {
            let replicas = vec![
                SimulatedReplica::new(STEADY, old),
                SimulatedReplica::new(warming_up, None),
            ];
            let traffic = Traffic::simulate(replicas, rate, 24);
            // From the second after the warm-up, counted from its end.
            let share = traffic.share(1, 4..24);
            assert!(is_fair(share), "{rate}/s: {share} {:?}", traffic.per_second);
        }
    }
}

#[test]
fn replica_that_was_slow_for_a_while_comes_back_while_others_queue() {
    let slow_for_a_while: ComputeSeconds = |now| if now < 10.0 { 2.0 } else { 0.05 };
    for rate in [85.0, 100.0, 140.0] {
        let replicas = vec![
            SimulatedReplica::new(STEADY, Some(estimate(0.05))),
            SimulatedReplica::new(slow_for_a_while, Some(estimate(2.0))),
        ];
        let traffic = Traffic::simulate(replicas, rate, 60);
        let share = traffic.share(1, 20..60);
        assert!(is_fair(share), "{rate}/s: {share} {:?}", traffic.per_second);
    }
}

#[test]
fn one_slow_answer_does_not_keep_requests_away() {
    let one_outlier: ComputeSeconds = |now| {
        if (10.0..10.02).contains(&now) {
            4.0
        } else {
            0.05
        }
    };
    for rate in [20.0, 60.0, 100.0, 140.0] {
        let replicas = vec![
            SimulatedReplica::new(STEADY, Some(estimate(0.05))),
            SimulatedReplica::new(one_outlier, Some(estimate(0.05))),
        ];
        let traffic = Traffic::simulate(replicas, rate, 40);
        let share = traffic.share(1, 16..40);
        assert!(is_fair(share), "{rate}/s: {share} {:?}", traffic.per_second);
    }
}

#[test]
fn replica_ten_times_slower_gets_a_small_share_and_delays_few_requests() {
    for (rate, most) in [(20.0, 0.03), (60.0, 0.03), (78.0, 0.05)] {
        let replicas = vec![
            SimulatedReplica::new(STEADY, None),
            SimulatedReplica::new(|_| 0.5, None),
        ];
        let traffic = Traffic::simulate(replicas, rate, 60);
        let share = traffic.share(1, 5..60);
        assert!(share < most, "{rate}/s: {share} {:?}", traffic.per_second);
        assert!(traffic.percentile(95) < 0.2, "{}", traffic.percentile(95));
    }
}

#[test]
fn replica_that_is_tried_again_gets_one_request_at_a_time() {
    let fast = ReplicaCandidate {
        load: load_of(CONCURRENCY * 3),
        speed: Some(estimate(0.05)),
        joules: None,
        remaining_share: 1.0,
        pressure_factor: 1.0,
    };
    let doubted = |in_flight| ReplicaCandidate {
        load: load_of(in_flight),
        speed: Some(estimate(2.0)),
        ..fast
    };
    let now = 5.0;
    let fresh = ReplicaCandidate {
        speed: Some(SpeedEstimate::learn(fast.speed, answer(0.05), now)),
        ..fast
    };
    let chosen = |in_flight| {
        choose_replica(&[fresh, doubted(in_flight)], None, COST, now)
            .unwrap()
            .index
    };
    assert_eq!((chosen(0), chosen(1)), (1, 0));
    // The explanation does not call it the soonest, nor the other one as good.
    let reasons = choose_replica(&[fresh, doubted(0)], None, COST, now)
        .unwrap()
        .explain();
    assert!(
        matches!(
            reasons[..],
            [
                SelectionReason::OtherTriedAgain { .. },
                SelectionReason::TriedAgain { time }
            ] if time > 1.0
        ),
        "{reasons:?}"
    );
    // While the other one is idle, nobody waits for the slow one.
    let idle = ReplicaCandidate {
        load: load_of(0),
        ..fresh
    };
    let choice = choose_replica(&[idle, doubted(0)], None, COST, now).unwrap();
    assert_eq!(choice.index, 0);
}

fn load_of(in_flight: u32) -> ReplicaLoad {
    ReplicaLoad {
        in_flight,
        external_in_flight: 0,
        concurrency: CONCURRENCY,
        capacity: CAPACITY,
    }
}

fn answer(seconds: f32) -> ServedRequest {
    ServedRequest {
        prompt_bytes: COST.prompt_bytes,
        prompt_tokens: 25,
        completion_tokens: 5,
        choices: 1,
        seconds,
        compute_time: Some(ComputeTime {
            prefill: seconds / 2.0,
            decode: seconds / 2.0,
        }),
        load: load_of(0),
    }
}
