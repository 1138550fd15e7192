//! Measures the time for choosing a replica in fleets of 10, 1,000 and 10,000 nodes. The goal is 5 µs
//! at every size.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flotilla_core::Joules;
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, SpeedEstimate};
use flotilla_core::routing::{
    CandidateStatus, ReplicaCandidate, ReplicaLoad, choose_replica, sample_and_choose,
};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("select");
    for nodes in [10, 1_000, 10_000] {
        let replicas: Vec<ReplicaCandidate> = (0..nodes)
            .map(|i| {
                let load = ReplicaLoad {
                    in_flight: i % 7,
                    external_in_flight: i % 3,
                    concurrency: 4,
                    capacity: 68,
                };
                let served = ServedRequest {
                    prompt_bytes: 100,
                    prompt_tokens: 20,
                    completion_tokens: 20,
                    choices: 1,
                    seconds: 1.0,
                    compute_time: Some(ComputeTime {
                        prefill: 0.005,
                        decode: 0.001 * (1 + i % 10) as f32,
                    }),
                    load,
                };
                ReplicaCandidate {
                    load,
                    speed: Some(SpeedEstimate::learn(None, served, 100.0)),
                    joules: Some(Joules((1 + i % 5) as f32)),
                    remaining_share: 1.0,
                    pressure_factor: 1.0,
                }
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(7);
        let cost = RequestCost {
            prompt_bytes: 80,
            max_tokens: Some(16),
            choices: 1,
        };
        group.bench_function(BenchmarkId::from_parameter(nodes), |b| {
            b.iter(|| {
                sample_and_choose(
                    black_box(replicas.len()),
                    None,
                    |i| CandidateStatus::Eligible(replicas[i]),
                    |sample| {
                        choose_replica(sample, None, cost, 130.0).map_or(0, |choice| choice.index)
                    },
                    |n| random.usize(..n),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
