//! Adapters beside their bases.

use super::*;

const BASE: usize = 0;
const ADAPTER: usize = 1;

/// Returns an adapter of the first model.
fn adapter(i: usize, target: u32, memory: u64) -> TestModel {
    let mut adapter = model(i, target, memory);
    adapter.spec.base = Some(model_name(BASE));
    adapter
}

fn on(node: usize, model: usize) -> Assignment {
    Assignment {
        node: node_name(node),
        model: model_name(model),
    }
}

/// Returns a fleet with ready replicas that are idle for some seconds.
fn fleet_that_runs(
    memory: &[u64],
    models: Vec<TestModel>,
    replicas: &[(usize, usize, u64)],
) -> TestFleet {
    let mut fleet = fleet_with(memory, models);
    let current = replicas.iter().map(|(node, model, idle)| {
        let idle = Some(Duration::from_secs(*idle));
        (on(*node, *model), (READY, idle))
    });
    fleet.current.extend(current);
    fleet
}

#[test]
fn adapters_are_placed_with_their_base_in_one_plan() {
    // Larger than their base, and with more room elsewhere.
    let models = vec![model(BASE, 1, 10), adapter(1, 1, 20), adapter(2, 1, 20)];
    let mut fleet = fleet_with(&[100, 100], models);
    let plan = fleet.solve();
    assert_eq!((plan.assign.len(), plan.missing.len()), (3, 0), "{plan:?}");
    fleet.apply(&plan, READY);
    assert_eq!(fleet.nodes_of(BASE), fleet.nodes_of(1));
    assert_eq!(fleet.nodes_of(BASE), fleet.nodes_of(2));
    assert!(fleet.solve().is_empty());
}

#[test]
fn adapter_goes_to_the_best_node_that_has_its_base() {
    let mut fleet = fleet_that_runs(
        &[100, 100, 100],
        vec![model(BASE, 2, 10), adapter(ADAPTER, 1, 5), model(2, 1, 60)],
        &[(0, BASE, 0), (1, BASE, 0), (0, 2, 0)],
    );
    fleet.settle();
    assert_eq!(fleet.nodes_of(ADAPTER), ["node-1"]);
    // Its own constraints count as well.
    fleet.nodes[0].labels.insert("a".into(), "b".into());
    let selector = &mut fleet.models[ADAPTER].spec.node_selector;
    selector.insert("a".into(), "b".into());
    fleet.settle();
    assert_eq!(fleet.nodes_of(ADAPTER), ["node-0"]);
}

#[test]
fn missing_replica_of_an_adapter_says_where_its_base_is_missing() {
    let mut fleet = fleet_with(&[100; 3], vec![model(BASE, 1, 10), adapter(ADAPTER, 2, 1)]);
    fleet.settle();
    let text = fleet.explain(ADAPTER).to_string();
    assert_eq!(
        text,
        "1 replica cannot be placed: 1/3 nodes are suitable and have one, 2 without its base model-0"
    );
    let reasons = fleet.explain(ADAPTER).reasons;
    let reason = reasons.values().next().unwrap().to_string();
    assert_eq!(reason, "does not run its base model-0");

    fleet.models[BASE].spec.base = Some(model_name(2));
    fleet.models.push(model(2, 1, 1));
    let text = fleet.explain(ADAPTER).to_string();
    assert_eq!(
        text,
        "2 replicas cannot be placed: its base 'model-0' is an adapter itself"
    );
    fleet.models.remove(BASE);
    let plan = fleet.solve();
    assert!(plan.evict.iter().any(|a| a.model == model_name(ADAPTER)));
    let text = fleet.explain(ADAPTER).to_string();
    assert_eq!(
        text,
        "2 replicas cannot be placed: its base 'model-0' does not exist"
    );
}

#[test]
fn adapters_leave_with_their_base_in_the_same_plan() {
    type Change = fn(&mut TestFleet);
    let changes: [Change; 5] = [
        |fleet| drop(fleet.models.remove(BASE)),
        |fleet| drop(fleet.nodes.remove(0)),
        |fleet| fleet.nodes[0].schedulability = Schedulability::ForceDraining,
        |fleet| fleet.models[BASE].memory = 101,
        |fleet| fleet.models[BASE].spec.accelerator = Some(Accelerator::Cuda),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut fleet = fleet_that_runs(
            &[100],
            vec![model(BASE, 1, 10), adapter(1, 1, 5), adapter(2, 1, 5)],
            &[(0, BASE, 0), (0, 1, 0), (0, 2, 0)],
        );
        assert!(fleet.solve().is_empty());
        change(&mut fleet);
        assert_eq!(fleet.solve().evict.len(), 3, "change {index}");
    }
    // Nobody uses it, nor its adapters.
    let mut fleet = fleet_that_runs(
        &[100],
        vec![model(BASE, 0, 10), adapter(1, 0, 5), adapter(2, 0, 5)],
        &[(0, BASE, 0), (0, 1, 0), (0, 2, 0)],
    );
    assert_eq!(fleet.solve().evict.len(), 3);
    // It failed on the node, and so did nothing of its adapters answer.
    fleet.models[BASE].target = 1;
    for (readiness, _) in fleet.current.values_mut() {
        *readiness = ReplicaReadiness::NotReady;
    }
    let error = (node_name(0), "no file".to_owned());
    fleet.models[BASE].load_failures = [error].into();
    assert_eq!(fleet.solve().evict.len(), 3);
}

#[test]
fn base_leaves_a_node_once_its_adapters_answer_elsewhere() {
    for schedulability in [Schedulability::Draining, Schedulability::Lost] {
        let mut fleet = fleet_that_runs(
            &[100, 100],
            vec![model(BASE, 1, 10), adapter(ADAPTER, 1, 5)],
            &[(0, BASE, 0), (0, ADAPTER, 0)],
        );
        fleet.nodes[0].schedulability = schedulability;
        let plan = fleet.solve();
        assert_eq!(plan.assign, [on(1, BASE), on(1, ADAPTER)].into());
        assert!(plan.evict.is_empty(), "{plan:?}");
        fleet.apply(&plan, ReplicaReadiness::NotReady);
        assert!(fleet.solve().is_empty());
        // The base answers, its adapter does not.
        fleet.current.insert(on(1, BASE), (READY, None));
        assert!(fleet.solve().is_empty(), "{:?}", fleet.solve());
        fleet.current.insert(on(1, ADAPTER), (READY, None));
        let plan = fleet.solve();
        assert_eq!(plan.evict, [on(0, BASE), on(0, ADAPTER)].into());
        assert!(plan.assign.is_empty());
    }
}

#[test]
fn surplus_replica_of_a_base_leaves_once_its_adapters_answer_elsewhere() {
    // As at the end of a surge: the replica with the adapter is outdated.
    let mut fleet = fleet_that_runs(
        &[100, 100],
        vec![model(BASE, 1, 10), adapter(ADAPTER, 1, 5)],
        &[(0, BASE, 0), (0, ADAPTER, 0), (1, BASE, 0)],
    );
    let solve_outdated = |fleet: &TestFleet| {
        let mut problem = fleet.problem();
        let mut current = problem.current.iter_mut();
        let outdated = current.find(|r| *r.node == node_name(0) && *r.model == model_name(BASE));
        outdated.unwrap().outdated = true;
        let plan = solve(&problem);
        let reasons = explain_plan(&problem, &plan, &model_name(ADAPTER));
        (plan, reasons.map(|unplaced| unplaced.to_string()))
    };
    let (plan, _) = solve_outdated(&fleet);
    assert_eq!(plan.assign, [on(1, ADAPTER)].into());
    assert!(plan.evict.is_empty());
    fleet.apply(&plan, ReplicaReadiness::NotReady);
    assert!(solve_outdated(&fleet).0.is_empty());
    let mut moved = fleet.clone();
    moved.current.insert(on(1, ADAPTER), (READY, None));
    let (plan, _) = solve_outdated(&moved);
    assert_eq!(plan.evict, [on(0, BASE), on(0, ADAPTER)].into());
    // Without a place elsewhere the adapter and its base stay.
    fleet.current.remove(&on(1, ADAPTER));
    let failure = (node_name(1), "no file".to_owned());
    fleet.models[ADAPTER].load_failures = [failure].into();
    let (plan, reason) = solve_outdated(&fleet);
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(
        reason.unwrap(),
        "1 replica has no other place and stays on a node that it should leave: \
         0/2 nodes are suitable, 1 failed to load it, 1 that its base model-0 leaves"
    );
}

#[test]
fn base_scales_down_where_it_has_the_fewest_adapters() {
    // The last of those without adapters, though that with most is idle for longest.
    let mut fleet = fleet_that_runs(
        &[100; 3],
        vec![model(BASE, 3, 10), adapter(1, 1, 5), adapter(2, 2, 5)],
        &[
            (0, BASE, 99),
            (1, BASE, 9),
            (2, BASE, 1),
            (0, 1, 9),
            (0, 2, 9),
            (2, 2, 9),
        ],
    );
    assert!(fleet.solve().is_empty());
    fleet.models[BASE].target = 2;
    assert_eq!(fleet.solve().evict, [on(1, BASE)].into());
    fleet.settle();
    (fleet.models[BASE].target, fleet.models[2].target) = (1, 1);
    fleet.settle();
    assert_eq!(fleet.nodes_of(BASE), ["node-0"]);
    assert_eq!(fleet.nodes_of(1), ["node-0"]);
    assert_eq!(fleet.nodes_of(2), ["node-0"]);
}

#[test]
fn base_is_preempted_after_its_adapters_only() {
    let models = || {
        let mut models = vec![
            model(BASE, 1, 60),
            adapter(ADAPTER, 1, 5),
            model(2, 1, 60),
            model(3, 0, 70),
        ];
        for model in &mut models {
            model.required = 0;
        }
        models
    };
    let preempt = |replicas: &[(usize, usize, u64)], change: fn(&mut TestFleet)| {
        let mut fleet = fleet_that_runs(&[100, 100], models(), replicas);
        assert!(fleet.solve().is_empty());
        (fleet.models[3].target, fleet.models[3].required) = (1, 1);
        change(&mut fleet);
        fleet.solve()
    };
    let replicas = [(0, BASE, 99), (0, ADAPTER, 50), (1, 2, 60)];
    // The base counts as used when its adapter was: the other model is idle for longer.
    let plan = preempt(&replicas, |_| {});
    assert_eq!(plan.evict, [on(1, 2)].into());
    let plan = preempt(&[(0, BASE, 99), (0, ADAPTER, 70), (1, 2, 60)], |_| {});
    assert_eq!(plan.evict, [on(0, BASE), on(0, ADAPTER)].into());
    // An adapter that is required, or computes, keeps its base.
    let pin_other = |fleet: &mut TestFleet| fleet.models[2].required = 1;
    let plan = preempt(&replicas, pin_other);
    assert_eq!(plan.evict, [on(0, BASE), on(0, ADAPTER)].into());
    let plan = preempt(&replicas, |fleet| {
        fleet.models[2].required = 1;
        fleet.models[ADAPTER].required = 1;
    });
    assert!(plan.evict.is_empty(), "{plan:?}");
    let plan = preempt(&replicas, |fleet| {
        fleet.models[2].required = 1;
        fleet.current.insert(on(0, ADAPTER), (READY, None));
    });
    assert!(plan.evict.is_empty(), "{plan:?}");
    // Where an adapter makes enough room, its base stays.
    let plan = preempt(&replicas, |fleet| {
        fleet.models[2].required = 1;
        fleet.models[2].memory = 61;
        fleet.models[3].memory = 40;
    });
    assert_eq!(plan.evict, [on(0, ADAPTER)].into());
}

#[test]
fn small_victims_stay_where_a_large_one_makes_enough_room() {
    let mut models = vec![model(BASE, 1, 10), adapter(ADAPTER, 1, 5), model(2, 1, 60)];
    for model in &mut models {
        model.required = 0;
    }
    let replicas = [(0, BASE, 10), (0, ADAPTER, 90), (0, 2, 60)];
    let mut fleet = fleet_that_runs(&[100], models, &replicas);
    fleet.models.push(model(3, 1, 80));
    assert_eq!(fleet.solve().evict, [on(0, 2)].into());
}

#[test]
fn adapter_does_not_preempt_its_own_base() {
    let mut fleet = fleet_that_runs(
        &[100, 10],
        vec![model(BASE, 2, 95), adapter(ADAPTER, 1, 10)],
        &[(0, BASE, 99)],
    );
    fleet.models[BASE].target = 1;
    fleet.models[BASE].required = 0;
    assert!(fleet.solve().is_empty());
    let reason = &fleet.explain(ADAPTER).reasons[&node_name(0)];
    assert_eq!(reason.to_string(), "needs 10 B of memory, 5 B free");
}

#[test]
fn requests_wait_for_an_adapter_where_its_base_is_or_fits() {
    let mut fleet = fleet_with(
        &[100],
        vec![model(BASE, 1, 60), adapter(ADAPTER, 1, 5), model(2, 1, 90)],
    );
    for model in &mut fleet.models {
        model.spec.replicas = Replicas { min: 0, max: 1 };
    }
    let fits = |fleet: &TestFleet| fits_when_others_sleep(&fleet.problem(), &model_name(ADAPTER));
    let running = |replicas: &[(usize, usize)]| {
        let mut fleet = fleet.clone();
        let current = replicas
            .iter()
            .map(|(node, model)| (on(*node, *model), (READY, None)));
        fleet.current.extend(current);
        fleet
    };
    assert!(fits(&running(&[(0, BASE)])));
    assert!(fits(&running(&[(0, 2)])), "the other one sleeps at times");
    let mut pinned = running(&[(0, 2)]);
    pinned.models[2].spec.replicas = Replicas::fixed(1);
    assert!(!fits(&pinned));
    let mut large = running(&[]);
    large.models[ADAPTER].memory = 50;
    assert!(!fits(&large));
    large.models[BASE].memory = 50;
    assert!(fits(&large));
    large.models.remove(BASE);
    assert!(!fits(&large));
    // A base does not sleep where an adapter of it never does.
    let mut hosting = running(&[(0, BASE), (0, ADAPTER)]);
    let other_fits = |fleet: &TestFleet| fits_when_others_sleep(&fleet.problem(), &model_name(2));
    assert!(other_fits(&hosting));
    hosting.models[ADAPTER].spec.replicas = Replicas::fixed(1);
    assert!(!other_fits(&hosting));
}

#[test]
fn running_adapters_are_assigned_beside_their_base_only() {
    let mut fleet = fleet_with(
        &[100, 100],
        vec![model(BASE, 1, 10), adapter(ADAPTER, 1, 5)],
    );
    fleet.running = [on(1, BASE), on(1, ADAPTER)].into();
    assert_eq!(fleet.solve().assign, fleet.running);
    fleet.current.insert(on(0, BASE), (READY, None));
    assert_eq!(fleet.solve().assign, [on(0, ADAPTER)].into());
}

#[test]
fn adapters_stay_with_a_base_that_is_not_placed() {
    let mut fleet = fleet_with(
        &[100, 100],
        vec![model(BASE, 0, 10), adapter(ADAPTER, 1, 5)],
    );
    fleet.current.insert(on(1, ADAPTER), (READY, None));
    let base = fleet.models.remove(0).name;
    let (first, second) = (node_name(0), node_name(1));
    let plan_with = |node: Option<&NodeName>| {
        let mut problem = fleet.problem();
        problem.fixed.extend(node.map(|node| FixedModel {
            name: &base,
            nodes: vec![node],
        }));
        solve(&problem)
    };
    assert!(plan_with(Some(&second)).is_empty());
    let moved = plan_with(Some(&first));
    assert_eq!(moved.assign, [on(0, ADAPTER)].into());
    assert_eq!(moved.evict, [on(1, ADAPTER)].into());
    assert_eq!(plan_with(None).evict, [on(1, ADAPTER)].into());
}

#[test]
fn adapter_takes_the_memory_that_its_base_takes() {
    let mut fleet = fleet_with(&[10], vec![model(BASE, 1, 6), adapter(ADAPTER, 1, 6)]);
    fleet.nodes[0].gpus = vec![10];
    let assigned = |uses_accelerator: bool| {
        let mut problem = fleet.problem();
        problem.models[BASE].uses_accelerator = uses_accelerator;
        problem.models[ADAPTER].uses_accelerator = false;
        solve(&problem).assign.len()
    };
    assert_eq!(assigned(true), 2);
    assert_eq!(assigned(false), 1);
}
