//! How long picking a replica takes, for fleets of 10, 1,000 and 10,000 nodes. The goal: 5 µs,
//! whatever the size.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flotilla_core::estimate::Pace;
use flotilla_core::routing::{Load, Prospect, select};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("select");
    for nodes in [10, 1_000, 10_000] {
        let replicas: Vec<Prospect> = (0..nodes)
            .map(|i| {
                let load = Load {
                    in_flight: i % 7,
                    elsewhere: i % 3,
                    concurrency: 4,
                    capacity: 68,
                };
                let pace = Pace {
                    seconds: 0.001 * (1 + i % 10) as f32,
                    work: 20.0,
                    at: 100.0,
                };
                Prospect {
                    load,
                    pace: Some(pace),
                    admitted: true,
                }
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(7);
        group.bench_function(BenchmarkId::from_parameter(nodes), |b| {
            b.iter(|| {
                select(
                    black_box(replicas.len()),
                    |i| replicas[i],
                    |_| false,
                    |n| random.usize(..n),
                    130.0,
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
