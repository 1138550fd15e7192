//! How long picking a replica takes, for fleets of 10, 1,000 and 10,000 nodes. The goal: 5 µs,
//! whatever the size.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flotilla_core::estimate::{Computed, Pace, Served, Work, compare};
use flotilla_core::routing::{Load, Look, select};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("select");
    for nodes in [10, 1_000, 10_000] {
        let replicas: Vec<(Load, Option<Pace>)> = (0..nodes)
            .map(|i| {
                let load = Load {
                    in_flight: i % 7,
                    elsewhere: i % 3,
                    concurrency: 4,
                    capacity: 68,
                };
                let served = Served {
                    prompt_bytes: 100,
                    prompt_tokens: 20,
                    completion_tokens: 20,
                    seconds: 1.0,
                    computed: Some(Computed {
                        prefill: 0.005,
                        decode: 0.001 * (1 + i % 10) as f32,
                    }),
                    load,
                };
                (load, Some(Pace::learn(None, served, 100.0)))
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(7);
        let work = Work {
            prompt_bytes: 80,
            max_tokens: Some(16),
        };
        group.bench_function(BenchmarkId::from_parameter(nodes), |b| {
            b.iter(|| {
                select(
                    black_box(replicas.len()),
                    None,
                    |i| Look::Able(replicas[i]),
                    |a, b| {
                        let (a, b) = compare(*a, *b, work, 130.0);
                        a < b
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
