//! Models on accelerators with memory of their own.

use super::*;

#[test]
fn model_on_an_accelerator_takes_its_memory_and_not_that_of_the_node() {
    // On the first node models with a GPU need 6 of 10, those on the CPU 3 of 4.
    let mut fleet = fleet_with(
        &[4, 4],
        vec![model(0, 1, 6), model(1, 1, 6), model(2, 2, 3)],
    );
    fleet.nodes[0].accelerators.push(Accelerator::Cuda);
    fleet.nodes[0].gpus = vec![10];
    fleet.models[2].spec.accelerator = Some(Accelerator::Cpu);
    let plan = fleet.solve();
    let on_gpu = plan.assign.iter().filter(|a| a.model != model_name(2));
    let on_gpu: Vec<_> = on_gpu.map(|a| &a.node).collect();
    assert_eq!(on_gpu, [&node_name(0)]);
    assert_eq!(plan.assign.len(), 3, "{plan:?}");
    fleet.apply(&plan, READY);
    assert!(fleet.solve().is_empty(), "the plan is stable");
    let unplaced = fleet.explain(1);
    let device = UnschedulableReason::InsufficientDeviceMemory {
        needed: Bytes(6),
        free: Bytes(4),
    };
    let host = UnschedulableReason::InsufficientMemory {
        needed: Bytes(6),
        free: Bytes(1),
    };
    let reasons: Vec<_> = unplaced.reasons.into_values().collect();
    assert_eq!(reasons, [device, host]);
}

#[test]
fn replica_counts_with_the_memory_that_it_takes_where_it_is() {
    let mut fleet = fleet_with(&[9, 9], vec![model(0, 2, 9)]);
    fleet.nodes[0].accelerators.push(Accelerator::Cuda);
    fleet.nodes[0].gpus = vec![4];
    fleet.models[0].device_memory = Some(4);
    let plan = fleet.solve();
    assert_eq!(plan.assign.len(), 2, "{plan:?}");
    fleet.apply(&plan, READY);
    assert!(fleet.solve().is_empty(), "the plan is stable");
}

#[test]
fn replica_on_the_cpu_does_not_leave_for_one_that_needs_an_accelerators_memory() {
    let mut fleet = fleet_with(&[10], vec![model(0, 1, 6), model(1, 1, 6), model(2, 0, 6)]);
    fleet.nodes[0].accelerators.push(Accelerator::Cuda);
    fleet.nodes[0].gpus = vec![10];
    fleet.models[1].spec.accelerator = Some(Accelerator::Cpu);
    fleet.models[1].required = 0;
    fleet.settle();
    assert_eq!(fleet.current.len(), 2);
    (fleet.models[2].target, fleet.models[2].required) = (1, 1);
    assert!(fleet.solve().is_empty());
    // One that computes there and is not required does.
    fleet.models[0].required = 0;
    let evicted: Vec<_> = fleet.solve().evict.into_iter().map(|a| a.model).collect();
    assert_eq!(evicted, [model_name(0)]);
}

/// A node with little memory of its own and these GPUs.
fn node_with_gpus(gpus: &[u64], models: Vec<TestModel>) -> TestFleet {
    let mut fleet = fleet_with(&[1], models);
    fleet.nodes[0].accelerators.push(Accelerator::Cuda);
    fleet.nodes[0].gpus = gpus.to_vec();
    fleet
}

#[test]
fn model_fits_on_one_gpu_or_not_at_all() {
    let models = |memory: [u64; 4]| (0..4).map(|i| model(i, 1, memory[i])).collect();
    let fleet = node_with_gpus(&[10, 10], models([7, 7, 3, 3]));
    assert_eq!(fleet.solve().assign.len(), 4);
    // 8 are free, 4 on each.
    let mut fleet = node_with_gpus(&[10, 10], models([6, 6, 5, 12]));
    fleet.settle();
    let missing = |fleet: &TestFleet, index| fleet.explain(index).reasons.into_values().next();
    assert_eq!(fleet.current.len(), 2);
    for (index, needed) in [(2, 5), (3, 12)] {
        let too_little = UnschedulableReason::InsufficientDeviceMemory {
            needed: Bytes(needed),
            free: Bytes(4),
        };
        assert_eq!(missing(&fleet, index), Some(too_little));
    }
    assert!(fleet.solve().is_empty(), "the plan is stable");
}

#[test]
fn replicas_count_on_the_gpu_that_their_node_says() {
    let models = vec![model(0, 1, 4), model(1, 1, 4), model(2, 1, 6)];
    let mut fleet = node_with_gpus(&[10, 10], models);
    fleet.models[2].target = 0;
    fleet.settle();
    fleet.models[2].target = 1;
    let both = [model_name(0), model_name(1)].map(|model| Assignment {
        node: node_name(0),
        model,
    });
    for (gpus, memory, places) in [([0, 1], 6, 1), ([0, 1], 7, 0), ([1, 1], 10, 1)] {
        fleet.gpus = both.iter().cloned().zip(gpus).collect();
        fleet.models[2].memory = memory;
        assert_eq!(fleet.solve().assign.len(), places, "{gpus:?} {memory}");
    }
}

#[test]
fn idle_replicas_leave_the_gpu_where_that_makes_room() {
    let mut fleet = node_with_gpus(
        &[10, 10],
        vec![
            model(0, 1, 8),
            model(1, 1, 4),
            model(2, 1, 4),
            model(3, 0, 9),
        ],
    );
    fleet.settle();
    assert_eq!(fleet.current.len(), 3);
    for index in 0..3 {
        fleet.models[index].required = 0;
    }
    let on = |model: usize| Assignment {
        node: node_name(0),
        model: model_name(model),
    };
    fleet.gpus = [(on(0), 0), (on(1), 1), (on(2), 1)].into();
    let idle = |fleet: &mut TestFleet, seconds: [u64; 3]| {
        for (model, seconds) in seconds.into_iter().enumerate() {
            let idle = Some(Duration::from_secs(seconds));
            fleet.current.insert(on(model), (READY, idle));
        }
    };
    (fleet.models[3].target, fleet.models[3].required) = (1, 1);
    idle(&mut fleet, [100, 50, 200]);
    assert_eq!(fleet.solve().evict, [on(0)].into());
    idle(&mut fleet, [100, 300, 200]);
    assert_eq!(fleet.solve().evict, [on(1), on(2)].into());
}
