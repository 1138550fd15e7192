//! Benchmarks the placement solver. The goals: 100 ms for 1,000 nodes and 200 models from scratch, 2 s
//! for 10,000 nodes and 1,000 models, and 50 ms for either fleet after the loss of a node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flotilla_core::placement::{
    Assignment, CurrentReplica, ModelDemand, NodeCapacity, PlacementProblem, ReplicaMemory,
    Schedulability, solve,
};
use flotilla_core::spec::{Accelerator, ModelSpec, Taint, Toleration};
use flotilla_core::{Bytes, ModelName, ModelRevision, NodeName, ReplicaReadiness, ZoneName};

const GIB: u64 = 1 << 30;

/// A fleet of unequal nodes in several regions and zones, some with GPUs or taints.
struct Fleet {
    nodes: Vec<Node>,
    models: Vec<Model>,
}

struct Node {
    name: NodeName,
    memory: Bytes,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    zones: BTreeSet<ZoneName>,
    accelerators: Vec<Accelerator>,
}

struct Model {
    name: ModelName,
    spec: ModelSpec,
    target: u32,
    memory: Bytes,
}

impl Fleet {
    fn new(nodes: usize, models: usize) -> Self {
        let nodes = (0..nodes).map(|i| Node {
            name: NodeName::new(&format!("node-{i}")).expect("a name"),
            memory: Bytes((2 + (i as u64 * 7) % 30) * GIB),
            labels: [
                ("region".to_owned(), format!("r{}", i % 17)),
                ("site".to_owned(), format!("s{}", i / 5)),
                (
                    "disk".to_owned(),
                    if i % 3 == 0 { "ssd" } else { "emmc" }.to_owned(),
                ),
            ]
            .into(),
            taints: (i % 11 == 0)
                .then(|| Taint {
                    key: "till".into(),
                    value: String::new(),
                })
                .into_iter()
                .collect(),
            zones: (i % 4 == 0)
                .then(|| ZoneName::new("clinic").expect("a name"))
                .into_iter()
                .collect(),
            accelerators: if i % 13 == 0 {
                vec![Accelerator::Cpu, Accelerator::Cuda]
            } else {
                vec![Accelerator::Cpu]
            },
        });
        let models = (0..models).map(|i| {
            let mut spec = ModelSpec::default();
            if i % 3 == 0 {
                spec.spread_by = Some("region".into());
            }
            if i % 5 == 0 {
                spec.node_selector.insert("disk".into(), "ssd".into());
            }
            if i % 7 == 0 {
                spec.zones.insert(ZoneName::new("clinic").expect("a name"));
            }
            if i % 17 == 0 {
                spec.accelerator = Some(Accelerator::Cuda);
            }
            if i % 2 == 0 {
                spec.tolerations.push(Toleration {
                    key: "till".into(),
                    value: None,
                });
            }
            Model {
                name: ModelName::new(&format!("model-{i}")).expect("a name"),
                spec,
                target: 1 + (i as u32 * 5) % 16,
                memory: Bytes((1 + (i as u64 * 3) % 8) * GIB / 2),
            }
        });
        Self {
            nodes: nodes.collect(),
            models: models.collect(),
        }
    }

    fn problem<'a>(
        &'a self,
        current: &'a [Assignment],
        observations: &'a NoObservations,
    ) -> PlacementProblem<'a> {
        let nodes = self.nodes.iter().map(|node| NodeCapacity {
            name: &node.name,
            memory: node.memory,
            gpus: Vec::new(),
            disk: None,
            labels: &node.labels,
            taints: &node.taints,
            zones: &node.zones,
            accelerators: &node.accelerators,
            schedulability: Schedulability::Schedulable,
            pressure_factor: 1.0,
        });
        let models = self.models.iter().map(|model| ModelDemand {
            name: &model.name,
            spec: &model.spec,
            base: None,
            uses_accelerator: model.spec.uses_accelerator(),
            target: model.target,
            required: 1,
            memory: ReplicaMemory {
                host: Some(model.memory),
                device: None,
            },
            files: None,
            load_failures: &observations.load_failures,
            performance: &observations.performance,
        });
        let current = current.iter().map(|assignment| CurrentReplica {
            node: &assignment.node,
            model: &assignment.model,
            readiness: ReplicaReadiness::Ready(ModelRevision(1)),
            outdated: false,
            gpu: None,
            idle_for: Some(Duration::from_secs(1)),
        });
        PlacementProblem {
            nodes: nodes.collect(),
            models: models.collect(),
            current: current.collect(),
            running: Vec::new(),
            fixed: Vec::new(),
        }
    }
}

/// The observations of a model: no load failures and no measurements.
#[derive(Default)]
struct NoObservations {
    load_failures: BTreeMap<NodeName, String>,
    performance: HashMap<NodeName, flotilla_core::placement::MeasuredPerformance>,
}

fn placement(c: &mut Criterion) {
    let observations = NoObservations::default();
    for (nodes, models) in [(1_000, 200), (10_000, 1_000)] {
        let mut fleet = Fleet::new(nodes, models);
        let plan = solve(&fleet.problem(&[], &observations));
        let current: Vec<Assignment> = plan.assign.into_iter().collect();
        let size = format!("{nodes} nodes, {models} models, {} replicas", current.len());
        let mut group = c.benchmark_group("placement");
        group.sample_size(20);
        group.bench_function(BenchmarkId::new("from scratch", &size), |b| {
            b.iter(|| solve(black_box(&fleet.problem(&[], &observations))));
        });
        let lost = current[current.len() / 2].node.clone();
        fleet.nodes.retain(|node| node.name != lost);
        let plan = solve(&fleet.problem(&current, &observations));
        assert!(!plan.evict.is_empty() && plan.evict.iter().all(|a| a.node == lost));
        group.bench_function(BenchmarkId::new("one node lost", &size), |b| {
            b.iter(|| solve(black_box(&fleet.problem(&current, &observations))));
        });
        group.finish();
    }
}

criterion_group!(benches, placement);
criterion_main!(benches);
