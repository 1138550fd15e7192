use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::spec::{Accelerator, ModelSpec, Taint, Toleration};
use crate::{Bytes, ModelName, NodeName, ZoneName};

/// A fleet that owns what a problem borrows.
#[derive(Debug, Clone, Default)]
struct TestFleet {
    nodes: Vec<TestNode>,
    models: Vec<TestModel>,
    /// Assignments, with whether they answer and for how long nobody asked.
    current: BTreeMap<Assignment, (bool, Option<Duration>)>,
}

#[derive(Debug, Clone)]
struct TestNode {
    name: NodeName,
    memory: u64,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    zone: Option<ZoneName>,
    accelerators: Vec<Accelerator>,
    schedulability: Schedulability,
}

#[derive(Debug, Clone)]
struct TestModel {
    name: ModelName,
    spec: ModelSpec,
    target: u32,
    required: u32,
    memory: u64,
    load_failures: BTreeMap<NodeName, String>,
    performance: HashMap<NodeName, MeasuredPerformance>,
}

fn node_name(i: usize) -> NodeName {
    NodeName::new(&format!("node-{i}")).unwrap()
}

fn model_name(i: usize) -> ModelName {
    ModelName::new(&format!("model-{i}")).unwrap()
}

fn node(i: usize, memory: u64) -> TestNode {
    TestNode {
        name: node_name(i),
        memory,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        zone: None,
        accelerators: vec![Accelerator::Cpu],
        schedulability: Schedulability::Schedulable,
    }
}

fn model(i: usize, target: u32, memory: u64) -> TestModel {
    TestModel {
        name: model_name(i),
        spec: ModelSpec::default(),
        target,
        required: target,
        memory,
        load_failures: BTreeMap::new(),
        performance: HashMap::new(),
    }
}

fn world(memory: &[u64], models: Vec<TestModel>) -> TestFleet {
    TestFleet {
        nodes: memory
            .iter()
            .enumerate()
            .map(|(i, m)| node(i, *m))
            .collect(),
        models,
        current: BTreeMap::new(),
    }
}

impl TestFleet {
    fn problem(&self) -> PlacementProblem<'_> {
        let nodes = self.nodes.iter().map(|node| NodeCapacity {
            name: &node.name,
            memory: Bytes(node.memory),
            labels: &node.labels,
            taints: &node.taints,
            zone: node.zone.as_ref(),
            accelerators: &node.accelerators,
            schedulability: node.schedulability,
            pressure_factor: 1.0,
        });
        let models = self.models.iter().map(|model| ModelDemand {
            name: &model.name,
            spec: &model.spec,
            target: model.target,
            required: model.required,
            memory: Some(Bytes(model.memory)),
            load_failures: &model.load_failures,
            performance: &model.performance,
        });
        let current = self
            .current
            .iter()
            .map(|(assignment, (ready, idle))| CurrentReplica {
                node: &assignment.node,
                model: &assignment.model,
                ready: *ready,
                outdated: false,
                idle_for: *idle,
            });
        PlacementProblem {
            nodes: nodes.collect(),
            models: models.collect(),
            current: current.collect(),
        }
    }

    fn solve(&self) -> PlacementPlan {
        solve(&self.problem())
    }

    /// Carries a plan out; what is new answers at once where `ready`.
    fn carry_out(&mut self, plan: &PlacementPlan, ready: bool) {
        self.current.retain(|a, _| !plan.evict.contains(a));
        let idle = Some(Duration::ZERO);
        let new = plan.assign.iter().map(|a| (a.clone(), (ready, idle)));
        self.current.extend(new);
    }

    /// Solves and carries out until nothing changes; returns how often that was.
    fn settle(&mut self) -> usize {
        for round in 0..20 {
            let plan = self.solve();
            if plan.is_empty() {
                return round;
            }
            self.carry_out(&plan, true);
        }
        panic!("it does not settle: {:?}", self.solve());
    }

    fn on(&self, model: usize) -> Vec<&str> {
        let name = model_name(model);
        let on = self.current.keys().filter(|a| a.model == name);
        on.map(|a| a.node.as_str()).collect()
    }

    fn explain(&self, model: usize) -> UnplacedReplicas {
        explain(&self.problem(), &model_name(model)).unwrap()
    }
}

#[test]
fn replicas_are_spread_over_nodes() {
    let world = world(&[100, 100, 100], vec![model(0, 2, 10), model(1, 1, 10)]);
    let plan = world.solve();
    let used: BTreeSet<_> = plan.assign.iter().map(|a| &a.node).collect();
    assert_eq!((plan.assign.len(), used.len()), (3, 3));
    assert!(plan.missing.is_empty());
}

#[test]
fn an_unplaced_replica_says_why_per_node() {
    let mut world = world(&[10, 100, 100, 100, 100, 100, 100], vec![model(0, 7, 50)]);
    world.models[0]
        .load_failures
        .insert(node_name(1), "no file".into());
    world.nodes[2].schedulability = Schedulability::Cordoned;
    world.nodes[3].taints.push(Taint {
        key: "t".into(),
        value: "v".into(),
    });
    world.models[0]
        .spec
        .node_selector
        .insert("a".into(), "b".into());
    for node in [0, 1, 2, 3, 5, 6] {
        world.nodes[node].labels.insert("a".into(), "b".into());
    }
    world.models[0].spec.accelerator = Some(Accelerator::Cuda);
    for node in [0, 1, 2, 3, 4, 6] {
        world.nodes[node].accelerators.push(Accelerator::Cuda);
    }
    let unplaced = world.explain(0);
    assert_eq!(
        unplaced.to_string(),
        "6 replicas have no place: 1/7 nodes can have one and do, 1 cordoned, 1 failed to run it, \
         1 with the taint t=v, 1 with too little memory, 1 without cuda, 1 without the label a=b"
    );
    let why = |node: usize| unplaced.reasons[&node_name(node)].to_string();
    assert_eq!(why(0), "needs 50 B of memory, 10 B free");
    assert_eq!(why(1), "failed there: no file");
    assert!(why(4).contains("the label a=b that the nodeSelector wants"));
}

#[test]
fn fewer_replicas_evict_those_that_do_not_answer_then_the_longest_unused() {
    let mut world = world(&[100, 100, 100], vec![model(0, 3, 10)]);
    world.settle();
    let idle = [
        Some(Duration::from_secs(5)),
        Some(Duration::from_secs(9)),
        None,
    ];
    for (i, (_, state)) in world.current.iter_mut().enumerate() {
        *state = (i != 0, idle[i]);
    }
    world.models[0].target = 2;
    world.settle();
    assert_eq!(world.on(0), ["node-1", "node-2"]);
    world.models[0].target = 1;
    world.settle();
    assert_eq!(world.on(0), ["node-2"]);
}

#[test]
fn a_model_no_longer_wished_for_is_evicted() {
    let mut world = world(&[100], vec![model(0, 1, 10)]);
    world.settle();
    world.models.clear();
    assert_eq!(world.solve().evict.len(), 1);
}

#[test]
fn a_label_spreads_replicas_evenly_over_its_values() {
    let mut world = world(&[100; 6], vec![model(0, 4, 10)]);
    for (i, region) in ["a", "a", "a", "a", "b", "c"].iter().enumerate() {
        world.nodes[i]
            .labels
            .insert("region".into(), (*region).into());
    }
    world.models[0].spec.spread_by = Some("region".into());
    world.settle();
    assert_eq!(world.on(0), ["node-0", "node-1", "node-4", "node-5"]);
    world.models[0].target = 3;
    world.settle();
    assert_eq!(world.on(0).len(), 3);
    assert!(world.on(0).contains(&"node-4") && world.on(0).contains(&"node-5"));
}

#[test]
fn measured_speed_and_energy_choose_the_node() {
    let mut world = world(&[100, 100, 100], vec![model(0, 1, 10)]);
    let measured = |speed, joules| MeasuredPerformance {
        tokens_per_second: Some(speed),
        joules_per_token: Some(joules),
    };
    world.models[0].performance = [
        (node_name(0), measured(10.0, 2.0)),
        (node_name(1), measured(10.0, 1.0)),
        (node_name(2), measured(4.0, 4.0)),
    ]
    .into();
    world.settle();
    assert_eq!(world.on(0), ["node-1"]);
}

#[test]
fn a_drained_node_keeps_a_replica_until_another_answers() {
    let mut world = world(&[100, 100], vec![model(0, 1, 10)]);
    world.settle();
    let first = world.on(0)[0].to_owned();
    let at = usize::from(first == "node-1");
    world.nodes[at].schedulability = Schedulability::Draining;
    let plan = world.solve();
    assert_eq!((plan.assign.len(), plan.evict.len()), (1, 0));
    world.carry_out(&plan, false);
    assert!(world.solve().is_empty(), "the new one does not answer yet");
    for state in world.current.values_mut() {
        state.0 = true;
    }
    let plan = world.solve();
    assert_eq!(plan.evict.iter().next().unwrap().node.as_str(), first);
    // Without another place it stays; closed, the node is emptied all the same.
    world.nodes[1 - at].schedulability = Schedulability::Cordoned;
    world.current.retain(|a, _| a.node.as_str() == first);
    assert!(world.solve().is_empty());
    assert_eq!(world.explain(0).reasons.len(), 1);
    world.nodes[at].schedulability = Schedulability::ForceDraining;
    assert_eq!(world.solve().evict.len(), 1);
}

#[test]
fn a_cordoned_or_absent_node_keeps_what_it_has_and_gets_nothing() {
    for open in [Schedulability::Cordoned, Schedulability::Disconnected] {
        let mut world = world(&[100], vec![model(0, 1, 10)]);
        world.settle();
        world.nodes[0].schedulability = open;
        assert!(world.solve().is_empty());
        world.models.push(model(1, 1, 10));
        assert!(world.solve().assign.is_empty());
    }
}

#[test]
fn an_unsteady_node_gets_only_what_is_required_and_has_no_other_place() {
    let mut world = world(&[100, 100], vec![model(0, 1, 10), model(1, 1, 10)]);
    world.nodes[0].schedulability = Schedulability::Flapping;
    world.settle();
    let steady = world.nodes[1].name.clone();
    assert!(world.current.keys().all(|a| a.node == steady));
    // Two of each do not fit on one node; those of the second are not required.
    for model in &mut world.models {
        model.target = 2;
        model.required = 2;
    }
    world.models[1].required = 1;
    world.settle();
    assert_eq!((world.on(0).len(), world.on(1).len()), (2, 1));
    let unplaced = world.explain(1);
    let why = unplaced.reasons.values().next().unwrap();
    assert_eq!(*why, UnschedulableReason::Flapping);
    // What is there stays there.
    assert!(world.solve().is_empty());
}

#[test]
fn the_least_recently_used_model_above_its_minimum_makes_room() {
    let mut world = world(&[100, 100], vec![model(0, 1, 90), model(1, 1, 90)]);
    for model in &mut world.models {
        model.required = 0;
    }
    world.settle();
    let seconds = |s| Some(Duration::from_secs(s));
    for (assignment, state) in &mut world.current {
        let idle = if assignment.model == model_name(0) {
            10
        } else {
            20
        };
        *state = (true, seconds(idle));
    }
    world.models.push(model(2, 1, 60));
    world.settle();
    assert_eq!(
        (world.on(0).len(), world.on(1).len(), world.on(2).len()),
        (1, 0, 1)
    );

    // One that is being asked stays, and so does one that is required.
    world.models.push(model(3, 1, 60));
    for (assignment, state) in &mut world.current {
        if assignment.model == model_name(0) {
            *state = (true, None);
        }
    }
    assert!(world.solve().is_empty());
    assert_eq!(world.explain(3).missing, 1);
}

#[test]
fn what_stands_leaves_when_it_must_not_be_there_any_more() {
    let zone = ZoneName::new("clinic").unwrap();
    type Change = fn(&mut TestFleet);
    let changes: [Change; 4] = [
        |w| w.models[0].spec.zones = [ZoneName::new("clinic").unwrap()].into(),
        |w| w.models[0].spec.accelerator = Some(Accelerator::Metal),
        |w| {
            drop(
                w.models[0]
                    .spec
                    .node_selector
                    .insert("a".into(), "b".into()),
            )
        },
        |w| {
            w.nodes[0].taints.push(Taint {
                key: "t".into(),
                value: String::new(),
            })
        },
    ];
    for change in changes {
        let mut world = world(&[100], vec![model(0, 1, 10)]);
        world.settle();
        change(&mut world);
        assert_eq!(world.solve().evict.len(), 1);
        world.nodes[0].zone = Some(zone.clone());
        world.nodes[0].accelerators.push(Accelerator::Metal);
        world.nodes[0].labels.insert("a".into(), "b".into());
        let toleration = Toleration {
            key: "t".into(),
            value: None,
        };
        world.models[0].spec.tolerations.push(toleration);
        assert!(world.solve().is_empty());
    }
}

prop_compose! {
    fn nodes()(
        parts in prop::collection::vec((0u64..200, 0usize..3, 0usize..3, any::<bool>(), 0u8..6), 1..9),
    ) -> Vec<TestNode> {
        parts.into_iter().enumerate().map(|(i, (memory, region, zone, tainted, open))| {
            let mut node = node(i, memory);
            node.labels.insert("region".into(), ["a", "b", "c"][region].into());
            node.zone = ["x", "y"].get(zone).map(|z| ZoneName::new(z).unwrap());
            if tainted {
                node.taints.push(Taint { key: "t".into(), value: String::new() });
            }
            node.schedulability = match open {
                0 => Schedulability::Cordoned,
                1 => Schedulability::Flapping,
                2 => Schedulability::Draining,
                _ => Schedulability::Schedulable,
            };
            node
        }).collect()
    }
}

prop_compose! {
    fn models()(
        parts in prop::collection::vec(
            ((0u32..5, 0u32..3), 0u64..120, 0usize..4, 0usize..3, any::<bool>(), any::<bool>()), 0..10),
    ) -> Vec<TestModel> {
        parts.into_iter().enumerate().map(|(i, ((target, required), memory, region, zone, spread, tolerates))| {
            let mut model = model(i, target, memory);
            model.required = required;
            if let Some(region) = ["a", "b"].get(region) {
                model.spec.node_selector.insert("region".into(), (*region).into());
            }
            if let Some(zone) = ["x", "y"].get(zone) {
                model.spec.zones.insert(ZoneName::new(zone).unwrap());
            }
            model.spec.spread_by = spread.then(|| "region".into());
            if tolerates {
                model.spec.tolerations.push(Toleration { key: "t".into(), value: None });
            }
            model
        }).collect()
    }
}

prop_compose! {
    /// A fleet some of whose replicas stand, wherever chance put them.
    fn worlds()(
        nodes in nodes(),
        models in models(),
        current in prop::collection::vec((0usize..9, 0usize..10, any::<bool>(), prop::option::of(0u64..99)), 0..12),
    ) -> TestFleet {
        let current = current.into_iter().map(|(node, model, ready, idle)| {
            let assignment = Assignment { node: node_name(node), model: model_name(model) };
            (assignment, (ready, idle.map(Duration::from_secs)))
        });
        TestFleet { nodes, models, current: current.collect() }
    }
}

/// What must hold of any fleet that the solver was let loose on.
fn check(world: &TestFleet) -> Result<(), TestCaseError> {
    for node in &world.nodes {
        let here = world.current.keys().filter(|a| a.node == node.name);
        let mut used = 0;
        for assignment in here {
            let model = world.models.iter().find(|m| m.name == assignment.model);
            let Some(model) = model else {
                return Err(TestCaseError::fail("an unknown model stands"));
            };
            used += model.memory;
            let spec = &model.spec;
            prop_assert!(
                spec.node_selector
                    .iter()
                    .all(|(k, v)| node.labels.get(k) == Some(v))
            );
            let in_zone = node
                .zone
                .as_ref()
                .is_some_and(|zone| spec.zones.contains(zone));
            prop_assert!(spec.zones.is_empty() || in_zone);
            let tolerated = |taint| spec.tolerations.iter().any(|t| t.tolerates(taint));
            prop_assert!(node.taints.iter().all(tolerated));
        }
        prop_assert!(
            used <= node.memory,
            "{} of {} on {}",
            used,
            node.memory,
            node.name
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn capacity_selectors_zones_and_taints_hold_whatever_stood_before(mut world in worlds()) {
        let plan = world.solve();
        world.carry_out(&plan, true);
        check(&world)?;
        for model in &world.models {
            let steady = world.current.keys().filter(|a| {
                a.model == model.name
                    && world.nodes.iter().any(|n| n.name == a.node && n.schedulability != Schedulability::Draining)
            });
            prop_assert!(steady.count() <= model.target as usize);
        }
    }

    #[test]
    fn it_settles_and_then_changes_nothing(mut world in worlds()) {
        world.settle();
        prop_assert!(world.solve().is_empty());
        check(&world)?;
    }

    #[test]
    fn solving_again_before_anything_answers_changes_nothing(nodes in nodes(), models in models()) {
        let mut world = TestFleet { nodes, models, current: BTreeMap::new() };
        let plan = world.solve();
        world.carry_out(&plan, false);
        prop_assert!(world.solve().is_empty());
    }

    #[test]
    fn a_lost_node_moves_only_what_it_held(mut world in worlds(), lost in 0usize..9) {
        // Where everything is required nobody has to make room for anybody.
        for model in &mut world.models {
            model.required = 0;
        }
        world.settle();
        let lost = node_name(lost % world.nodes.len());
        let held: BTreeSet<_> =
            world.current.keys().filter(|a| a.node == lost).cloned().collect();
        world.nodes.retain(|n| n.name != lost);
        let plan = world.solve();
        // What is draining may go now or later; nothing else moves.
        let moved: BTreeSet<_> = plan.evict.iter().filter(|a| {
            !world.nodes.iter().any(|n| n.name == a.node && n.schedulability == Schedulability::Draining)
        }).cloned().collect();
        prop_assert_eq!(&moved, &held);
        prop_assert!(plan.assign.iter().all(|new| held.iter().any(|old| old.model == new.model)));
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(world in worlds()) {
        let mut reversed = world.clone();
        reversed.nodes.reverse();
        reversed.models.reverse();
        let mut problem = reversed.problem();
        problem.current.reverse();
        prop_assert_eq!(world.solve(), solve(&problem));
    }

    #[test]
    fn what_is_missing_is_explained_by_every_node_without_a_replica(world in worlds()) {
        let plan = world.solve();
        for (name, missing) in &plan.missing {
            let unplaced = explain(&world.problem(), name).unwrap();
            prop_assert_eq!(unplaced.missing, *missing);
            let mut after = world.clone();
            after.carry_out(&plan, false);
            let has = after.current.keys().filter(|a| {
                a.model == *name && after.nodes.iter().any(|n| n.name == a.node)
            });
            prop_assert_eq!(has.count() + unplaced.reasons.len(), unplaced.nodes);
        }
    }
}
