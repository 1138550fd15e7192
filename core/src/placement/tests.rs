use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::spec::{Accelerator, ModelSpec, Replicas, Sha256Digest, Taint, Toleration};
use crate::{Bytes, ModelName, ModelRevision, NodeName, ReplicaReadiness, ZoneName};

mod adapters;
mod gpus;

const READY: ReplicaReadiness = ReplicaReadiness::Ready(ModelRevision(1));

/// A fleet that owns the data that a problem borrows.
#[derive(Debug, Clone, Default)]
struct TestFleet {
    nodes: Vec<TestNode>,
    models: Vec<TestModel>,
    /// The current assignments, with their readiness and for how long they are idle.
    current: BTreeMap<Assignment, (ReplicaReadiness, Option<Duration>)>,
    /// The replicas that answer, assigned or not.
    running: BTreeSet<Assignment>,
    /// The GPUs that replicas are known to be on.
    gpus: BTreeMap<Assignment, usize>,
}

#[derive(Debug, Clone)]
struct TestNode {
    name: NodeName,
    memory: u64,
    /// The memory of each of its GPUs.
    gpus: Vec<u64>,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    zones: BTreeSet<ZoneName>,
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
    /// What it takes of an accelerator's memory, if that is another number.
    device_memory: Option<u64>,
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
        gpus: Vec::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        zones: BTreeSet::new(),
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
        device_memory: None,
        load_failures: BTreeMap::new(),
        performance: HashMap::new(),
    }
}

fn fleet_with(memory: &[u64], models: Vec<TestModel>) -> TestFleet {
    TestFleet {
        nodes: memory
            .iter()
            .enumerate()
            .map(|(i, m)| node(i, *m))
            .collect(),
        models,
        ..TestFleet::default()
    }
}

impl TestFleet {
    fn problem(&self) -> PlacementProblem<'_> {
        let nodes = self.nodes.iter().map(|node| NodeCapacity {
            name: &node.name,
            memory: Bytes(node.memory),
            gpus: node.gpus.iter().copied().map(Bytes).collect(),
            disk: None,
            labels: &node.labels,
            taints: &node.taints,
            zones: &node.zones,
            accelerators: &node.accelerators,
            schedulability: node.schedulability,
            pressure_factor: 1.0,
        });
        let models = self.models.iter().map(|model| ModelDemand {
            name: &model.name,
            spec: &model.spec,
            base: model.spec.base.as_ref(),
            uses_accelerator: model.spec.uses_accelerator(),
            target: model.target,
            required: model.required,
            memory: ReplicaMemory {
                host: Some(Bytes(model.memory)),
                device: Some(Bytes(model.device_memory.unwrap_or(model.memory))),
            },
            files: None,
            load_failures: &model.load_failures,
            performance: &model.performance,
        });
        let current = self
            .current
            .iter()
            .map(|(assignment, (readiness, idle))| CurrentReplica {
                node: &assignment.node,
                model: &assignment.model,
                readiness: *readiness,
                outdated: false,
                gpu: self.gpus.get(assignment).copied(),
                idle_for: *idle,
            });
        let unassigned = self.running.iter();
        let unassigned = unassigned.filter(|a| !self.current.contains_key(*a));
        let running = unassigned.map(|assignment| RunningReplica {
            node: &assignment.node,
            model: &assignment.model,
            idle_for: None,
        });
        PlacementProblem {
            nodes: nodes.collect(),
            models: models.collect(),
            current: current.collect(),
            running: running.collect(),
            fixed: Vec::new(),
        }
    }

    fn solve(&self) -> PlacementPlan {
        solve(&self.problem())
    }

    /// Applies a plan. `readiness` is that of new replicas.
    fn apply(&mut self, plan: &PlacementPlan, readiness: ReplicaReadiness) {
        self.current.retain(|a, _| !plan.evict.contains(a));
        let idle = Some(Duration::ZERO);
        let new = plan.assign.iter().map(|a| (a.clone(), (readiness, idle)));
        self.current.extend(new);
    }

    /// Solves and applies plans until nothing changes. Returns the number of plans.
    fn settle(&mut self) -> usize {
        for round in 0..20 {
            let plan = self.solve();
            if plan.is_empty() {
                return round;
            }
            self.apply(&plan, READY);
        }
        panic!("the placement does not settle: {:?}", self.solve());
    }

    /// Returns the names of the nodes with a replica of a model.
    fn nodes_of(&self, model: usize) -> Vec<&str> {
        let name = model_name(model);
        let assignments = self.current.keys().filter(|a| a.model == name);
        assignments.map(|a| a.node.as_str()).collect()
    }

    fn explain(&self, model: usize) -> UnplacedReplicas {
        let problem = self.problem();
        explain_plan(&problem, &solve(&problem), &model_name(model)).unwrap()
    }
}

#[test]
fn replicas_are_spread_over_nodes() {
    let fleet = fleet_with(&[100, 100, 100], vec![model(0, 2, 10), model(1, 1, 10)]);
    let plan = fleet.solve();
    let used: BTreeSet<_> = plan.assign.iter().map(|a| &a.node).collect();
    assert_eq!((plan.assign.len(), used.len()), (3, 3));
    assert!(plan.missing.is_empty());
}

#[test]
fn unplaced_replica_has_a_reason_per_node() {
    let mut fleet = fleet_with(&[10, 100, 100, 100, 100, 100, 100], vec![model(0, 7, 50)]);
    fleet.models[0]
        .load_failures
        .insert(node_name(1), "no file".into());
    fleet.nodes[2].schedulability = Schedulability::Cordoned;
    fleet.nodes[3].taints.push(Taint {
        key: "t".into(),
        value: "v".into(),
    });
    fleet.models[0]
        .spec
        .node_selector
        .insert("a".into(), "b".into());
    for node in [0, 1, 2, 3, 5, 6] {
        fleet.nodes[node].labels.insert("a".into(), "b".into());
    }
    fleet.models[0].spec.accelerator = Some(Accelerator::Cuda);
    for node in [0, 1, 2, 3, 4, 6] {
        fleet.nodes[node].accelerators.push(Accelerator::Cuda);
    }
    let unplaced = fleet.explain(0);
    assert_eq!(
        unplaced.to_string(),
        "6 replicas cannot be placed: 1/7 nodes are suitable and have one, 1 cordoned, \
         1 failed to load it, 1 with the taint t=v, 1 with too little memory, 1 without cuda, \
         1 without the label a=b"
    );
    let reason = |node: usize| unplaced.reasons[&node_name(node)].to_string();
    assert_eq!(reason(0), "needs 50 B of memory, 10 B free");
    assert_eq!(reason(1), "failed to load it: no file");
    assert!(reason(4).contains("the label a=b of the nodeSelector"));
}

#[test]
fn replicas_beyond_the_number_of_nodes_say_that_a_node_holds_one() {
    let fleet = fleet_with(&[100], vec![model(0, 2, 10)]);
    assert_eq!(
        fleet.explain(0).to_string(),
        "1 replica cannot be placed: 1/1 nodes are suitable and have one; a node holds at most one \
         replica of a model"
    );
    // Where another node could have the missing one, that is the reason.
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 2, 10)]);
    fleet.nodes[1].schedulability = Schedulability::Cordoned;
    assert_eq!(
        fleet.explain(0).to_string(),
        "1 replica cannot be placed: 1/2 nodes are suitable and have one, 1 cordoned"
    );
}

#[test]
fn scaling_down_evicts_replicas_that_are_not_ready_then_the_longest_idle() {
    let mut fleet = fleet_with(&[100, 100, 100], vec![model(0, 3, 10)]);
    fleet.settle();
    let idle = [
        Some(Duration::from_secs(5)),
        Some(Duration::from_secs(9)),
        None,
    ];
    for (i, (_, state)) in fleet.current.iter_mut().enumerate() {
        let readiness = if i == 0 {
            ReplicaReadiness::NotReady
        } else {
            READY
        };
        *state = (readiness, idle[i]);
    }
    fleet.models[0].target = 2;
    fleet.settle();
    assert_eq!(fleet.nodes_of(0), ["node-1", "node-2"]);
    fleet.models[0].target = 1;
    fleet.settle();
    assert_eq!(fleet.nodes_of(0), ["node-2"]);
}

#[test]
fn deleted_model_is_evicted() {
    let mut fleet = fleet_with(&[100], vec![model(0, 1, 10)]);
    fleet.settle();
    fleet.models.clear();
    assert_eq!(fleet.solve().evict.len(), 1);
}

#[test]
fn replicas_are_spread_evenly_over_the_values_of_a_label() {
    let mut fleet = fleet_with(&[100; 6], vec![model(0, 4, 10)]);
    for (i, region) in ["a", "a", "a", "a", "b", "c"].iter().enumerate() {
        fleet.nodes[i]
            .labels
            .insert("region".into(), (*region).into());
    }
    fleet.models[0].spec.spread_by = Some("region".into());
    fleet.settle();
    assert_eq!(fleet.nodes_of(0), ["node-0", "node-1", "node-4", "node-5"]);
    fleet.models[0].target = 3;
    fleet.settle();
    assert_eq!(fleet.nodes_of(0).len(), 3);
    assert!(fleet.nodes_of(0).contains(&"node-4") && fleet.nodes_of(0).contains(&"node-5"));
}

#[test]
fn node_with_the_best_measured_performance_is_chosen() {
    let mut fleet = fleet_with(&[100, 100, 100], vec![model(0, 1, 10)]);
    let measured = |speed, joules| MeasuredPerformance {
        tokens_per_second: Some(speed),
        joules_per_token: Some(joules),
    };
    fleet.models[0].performance = [
        (node_name(0), measured(10.0, 2.0)),
        (node_name(1), measured(10.0, 1.0)),
        (node_name(2), measured(4.0, 4.0)),
    ]
    .into();
    fleet.settle();
    assert_eq!(fleet.nodes_of(0), ["node-1"]);
}

#[test]
fn draining_node_keeps_a_replica_until_another_is_ready() {
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 1, 10)]);
    fleet.settle();
    let first = fleet.nodes_of(0)[0].to_owned();
    let index = usize::from(first == "node-1");
    fleet.nodes[index].schedulability = Schedulability::Draining;
    let plan = fleet.solve();
    assert_eq!((plan.assign.len(), plan.evict.len()), (1, 0));
    fleet.apply(&plan, ReplicaReadiness::NotReady);
    assert!(fleet.solve().is_empty(), "the new replica is not ready yet");
    for state in fleet.current.values_mut() {
        state.0 = READY;
    }
    let plan = fleet.solve();
    assert_eq!(plan.evict.iter().next().unwrap().node.as_str(), first);
    // A replica that fits nowhere else stays, unless the drain is forced.
    fleet.nodes[1 - index].schedulability = Schedulability::Cordoned;
    fleet.current.retain(|a, _| a.node.as_str() == first);
    assert!(fleet.solve().is_empty());
    assert_eq!(fleet.explain(0).reasons.len(), 2);
    fleet.nodes[index].schedulability = Schedulability::ForceDraining;
    assert_eq!(fleet.solve().evict.len(), 1);
}

#[test]
fn lost_node_keeps_a_replica_until_another_answers() {
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 1, 10)]);
    fleet.settle();
    let lost = fleet.current.keys().next().unwrap().clone();
    let index = usize::from(lost.node == node_name(1));
    fleet.nodes[index].schedulability = Schedulability::Lost;
    fleet.current.values_mut().next().unwrap().0 = ReplicaReadiness::Unknown;
    let plan = fleet.solve();
    assert_eq!((plan.assign.len(), plan.evict.len()), (1, 0));
    fleet.apply(&plan, ReplicaReadiness::NotReady);
    assert!(fleet.solve().is_empty(), "the replacement does not answer");
    // The node returns before its replacement answers: nothing has moved.
    let mut returned = fleet.clone();
    returned.nodes[index].schedulability = Schedulability::Schedulable;
    returned.current.insert(lost.clone(), (READY, None));
    let plan = returned.solve();
    assert_eq!(plan.evict.len(), 1);
    assert!(!plan.evict.contains(&lost));
    // The replacement answers first.
    for state in fleet.current.values_mut() {
        state.0 = READY;
    }
    fleet
        .current
        .insert(lost.clone(), (ReplicaReadiness::Unknown, None));
    assert_eq!(fleet.solve().evict, [lost.clone()].into());
    // Without room elsewhere it stays, and the node counts as lost in the explanation.
    fleet.nodes[1 - index].schedulability = Schedulability::Cordoned;
    fleet.current.retain(|a, _| *a == lost);
    assert!(fleet.solve().is_empty());
    assert_eq!(
        fleet.explain(0).to_string(),
        "1 replica has no other place and stays on a node that it should leave: \
         0/2 nodes are suitable, 1 cordoned, 1 lost"
    );
}

#[test]
fn node_that_fails_to_load_a_new_revision_serves_the_old_one_until_another_answers() {
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 1, 10)]);
    fleet.settle();
    let old = fleet.current.keys().next().unwrap().clone();
    fleet.models[0]
        .load_failures
        .insert(old.node.clone(), "no file".into());
    let plan = fleet.solve();
    assert_eq!((plan.assign.len(), plan.evict.len()), (1, 0));
    fleet.apply(&plan, READY);
    assert_eq!(fleet.solve().evict, [old.clone()].into());
    // One that serves nothing leaves at once.
    fleet.current.retain(|a, _| *a == old);
    fleet
        .current
        .insert(old.clone(), (ReplicaReadiness::NotReady, None));
    assert_eq!(fleet.solve().evict, [old].into());
}

#[test]
fn surplus_replica_of_which_nothing_is_known_stays_until_enough_others_answer() {
    let mut fleet = fleet_with(&[100; 3], vec![model(0, 3, 10)]);
    fleet.settle();
    fleet.models[0].target = 1;
    for state in fleet.current.values_mut() {
        state.0 = ReplicaReadiness::Unknown;
    }
    assert!(fleet.solve().is_empty());
    fleet.current.values_mut().next().unwrap().0 = READY;
    assert_eq!(fleet.solve().evict.len(), 2);
}

#[test]
fn cordoned_or_disconnected_node_keeps_its_replicas_and_gets_no_new_ones() {
    for schedulability in [Schedulability::Cordoned, Schedulability::Disconnected] {
        let mut fleet = fleet_with(&[100], vec![model(0, 1, 10)]);
        fleet.settle();
        fleet.nodes[0].schedulability = schedulability;
        assert!(fleet.solve().is_empty());
        fleet.models.push(model(1, 1, 10));
        assert!(fleet.solve().assign.is_empty());
    }
}

#[test]
fn flapping_node_gets_only_required_replicas_that_fit_nowhere_else() {
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 1, 10), model(1, 1, 10)]);
    fleet.nodes[0].schedulability = Schedulability::Flapping;
    fleet.settle();
    let stable = fleet.nodes[1].name.clone();
    assert!(fleet.current.keys().all(|a| a.node == stable));
    // A node has one replica of a model, so the second ones need the flapping node. Only that of the
    // first model is required.
    for model in &mut fleet.models {
        model.target = 2;
        model.required = 2;
    }
    fleet.models[1].required = 1;
    fleet.settle();
    assert_eq!((fleet.nodes_of(0).len(), fleet.nodes_of(1).len()), (2, 1));
    let unplaced = fleet.explain(1);
    let reason = unplaced.reasons.values().next().unwrap();
    assert_eq!(*reason, UnschedulableReason::Flapping);
    // Replicas on the flapping node stay.
    assert!(fleet.solve().is_empty());
}

#[test]
fn least_recently_used_replica_that_is_not_required_is_preempted() {
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 1, 90), model(1, 1, 90)]);
    for model in &mut fleet.models {
        model.required = 0;
    }
    fleet.settle();
    let seconds = |s| Some(Duration::from_secs(s));
    for (assignment, state) in &mut fleet.current {
        let idle = if assignment.model == model_name(0) {
            10
        } else {
            20
        };
        *state = (READY, seconds(idle));
    }
    fleet.models.push(model(2, 1, 60));
    fleet.settle();
    assert_eq!(
        (
            fleet.nodes_of(0).len(),
            fleet.nodes_of(1).len(),
            fleet.nodes_of(2).len()
        ),
        (1, 0, 1)
    );

    // Replicas that compute requests are not preempted, nor are required ones.
    fleet.models.push(model(3, 1, 60));
    for (assignment, state) in &mut fleet.current {
        if assignment.model == model_name(0) {
            *state = (READY, None);
        }
    }
    assert!(fleet.solve().is_empty());
    assert_eq!(fleet.explain(3).missing, 1);
}

#[test]
fn requests_wait_for_room_that_others_give_back_when_they_sleep() {
    let mut fleet = fleet_with(&[100], vec![model(0, 1, 60), model(1, 1, 60)]);
    for model in &mut fleet.models {
        model.spec.replicas = Replicas { min: 0, max: 1 };
    }
    fleet.settle();
    let waits = |fleet: &TestFleet| {
        let plan = fleet.solve();
        let name = plan.missing.keys().next().unwrap();
        fits_when_others_sleep(&fleet.problem(), name)
    };
    assert!(waits(&fleet));
    // A model that never sleeps gives no room back, and none is enough for one that is too large.
    for model in &mut fleet.models {
        model.spec.replicas = Replicas::fixed(1);
    }
    assert!(!waits(&fleet));
    let large = fleet_with(&[100], vec![model(0, 1, 101)]);
    assert!(!waits(&large));
}

#[test]
fn replica_that_moves_gives_no_room_back_where_its_model_stays() {
    // The replica on the second node replaces the one on the first, which is drained.
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 1, 60), model(1, 1, 60)]);
    fleet.models[0].spec.replicas = Replicas { min: 1, max: 2 };
    for node in 0..2 {
        let assignment = Assignment {
            node: node_name(node),
            model: model_name(0),
        };
        fleet
            .current
            .insert(assignment, (READY, Some(Duration::ZERO)));
    }
    let fits = |fleet: &TestFleet| fits_when_others_sleep(&fleet.problem(), &model_name(1));
    assert!(fits(&fleet));
    fleet.nodes[0].schedulability = Schedulability::Draining;
    assert!(!fits(&fleet));
}

#[test]
fn room_that_others_give_back_includes_the_disk_space_of_their_files() {
    let mut fleet = fleet_with(&[100], vec![model(0, 1, 1), model(1, 1, 1)]);
    fleet.models[0].spec.replicas = Replicas { min: 0, max: 1 };
    let assignment = Assignment {
        node: node_name(0),
        model: model_name(0),
    };
    fleet
        .current
        .insert(assignment, (READY, Some(Duration::ZERO)));
    let fits = |size: u64, fleet: &TestFleet| {
        let mut problem = fleet.problem();
        problem.nodes[0].disk = Some(Bytes(10));
        for (byte, demand) in problem.models.iter_mut().enumerate() {
            demand.files = Some(DeliveredFiles {
                digest: Sha256Digest([byte as u8; 32]),
                size: Bytes(size),
            });
        }
        fits_when_others_sleep(&problem, &model_name(1))
    };
    assert!(fits(6, &fleet));
    assert!(!fits(11, &fleet), "the disk is too small");
    fleet.models[0].spec.replicas = Replicas::fixed(1);
    assert!(!fits(6, &fleet), "the other one never sleeps");
}

#[test]
fn replica_is_evicted_when_it_violates_a_new_constraint() {
    let zone = ZoneName::new("clinic").unwrap();
    type Change = fn(&mut TestFleet);
    let changes: [Change; 4] = [
        |fleet| fleet.models[0].spec.zones = [ZoneName::new("clinic").unwrap()].into(),
        |fleet| fleet.models[0].spec.accelerator = Some(Accelerator::Metal),
        |fleet| {
            drop(
                fleet.models[0]
                    .spec
                    .node_selector
                    .insert("a".into(), "b".into()),
            )
        },
        |fleet| {
            fleet.nodes[0].taints.push(Taint {
                key: "t".into(),
                value: String::new(),
            })
        },
    ];
    for change in changes {
        let mut fleet = fleet_with(&[100], vec![model(0, 1, 10)]);
        fleet.settle();
        change(&mut fleet);
        assert_eq!(fleet.solve().evict.len(), 1);
        fleet.nodes[0].zones.insert(zone.clone());
        fleet.nodes[0].accelerators.push(Accelerator::Metal);
        fleet.nodes[0].labels.insert("a".into(), "b".into());
        let toleration = Toleration {
            key: "t".into(),
            value: None,
        };
        fleet.models[0].spec.tolerations.push(toleration);
        assert!(fleet.solve().is_empty());
    }
}

#[test]
fn preemption_leaves_the_only_replica_that_answers_while_others_load_or_leave() {
    // Model 0 requires one replica and has two; model 1 requires the room of one on node 0.
    let mut fleet = fleet_with(&[100, 100], vec![model(0, 2, 80), model(1, 1, 80)]);
    fleet.models[0].required = 1;
    let idle = Some(Duration::from_secs(60));
    let place = |fleet: &mut TestFleet, node: usize, readiness| {
        let assignment = Assignment {
            node: node_name(node),
            model: model_name(0),
        };
        fleet.current.insert(assignment, (readiness, idle));
    };
    place(&mut fleet, 0, READY);
    place(&mut fleet, 1, ReplicaReadiness::NotReady);
    // The one that loads goes, and not the one that answers.
    let plan = fleet.solve();
    assert!(
        plan.evict.iter().all(|a| a.node == node_name(1)),
        "{plan:?}"
    );
    for schedulability in [Schedulability::Lost, Schedulability::Draining] {
        place(&mut fleet, 1, ReplicaReadiness::Unknown);
        fleet.nodes[1].schedulability = schedulability;
        assert!(fleet.solve().evict.is_empty(), "{schedulability:?}");
    }
    fleet.nodes[1].schedulability = Schedulability::Schedulable;
    place(&mut fleet, 1, READY);
    assert_eq!(fleet.solve().evict.len(), 1);
}

#[test]
fn replicas_that_run_without_an_assignment_are_assigned_where_they_run() {
    // On nodes that nobody would choose: small, slow, in one domain, cordoned or flapping.
    let mut fleet = fleet_with(&[100, 30, 30, 100], vec![model(0, 2, 10), model(1, 1, 25)]);
    for (node, region) in fleet.nodes.iter_mut().zip(["a", "b", "b", "c"]) {
        node.labels.insert("region".into(), region.into());
    }
    fleet.models[0].spec.spread_by = Some("region".into());
    let slow = MeasuredPerformance {
        tokens_per_second: Some(1.0),
        joules_per_token: Some(9.0),
    };
    fleet.models[0].performance = [(node_name(1), slow), (node_name(2), slow)].into();
    let run = |node, model| Assignment {
        node: node_name(node),
        model: model_name(model),
    };
    fleet.running = [run(1, 0), run(2, 0)].into();
    for schedulability in [
        Schedulability::Schedulable,
        Schedulability::Flapping,
        Schedulability::Cordoned,
    ] {
        fleet.nodes[1].schedulability = schedulability;
        let plan = fleet.solve();
        assert!(plan.assign.is_superset(&fleet.running), "{plan:?}");
        assert_eq!((plan.assign.len(), plan.missing.len()), (3, 0));
        // No other model is displaced.
        let mut taken = fleet.clone();
        let other = run(1, 1);
        taken.current.insert(other.clone(), (READY, None));
        let plan = taken.solve();
        assert!(plan.evict.is_empty() && !plan.assign.contains(&run(1, 0)));
        assert_eq!(plan.assign.len(), 2, "{plan:?}");
    }
    // Only as many as are missing, on schedulable nodes first.
    fleet.models[0].target = 1;
    let plan = fleet.solve();
    assert!(plan.assign.contains(&run(2, 0)) && !plan.assign.contains(&run(1, 0)));
}

#[test]
fn running_replicas_are_not_assigned_to_nodes_that_may_not_have_them() {
    type Change = fn(&mut TestFleet);
    let changes: [Change; 8] = [
        |fleet| fleet.nodes[0].schedulability = Schedulability::Draining,
        |fleet| fleet.nodes[0].schedulability = Schedulability::ForceDraining,
        |fleet| fleet.nodes[0].schedulability = Schedulability::Lost,
        |fleet| fleet.nodes[0].schedulability = Schedulability::Disconnected,
        |fleet| fleet.models[0].spec.zones = [ZoneName::new("clinic").unwrap()].into(),
        |fleet| fleet.models[0].spec.accelerator = Some(Accelerator::Metal),
        |fleet| {
            fleet.nodes[0].taints.push(Taint {
                key: "t".into(),
                value: String::new(),
            })
        },
        |fleet| fleet.models[0].memory = 101,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut fleet = fleet_with(&[100], vec![model(0, 1, 10)]);
        let running = Assignment {
            node: node_name(0),
            model: model_name(0),
        };
        fleet.running = [running].into();
        assert_eq!(fleet.solve().assign, fleet.running);
        change(&mut fleet);
        assert!(fleet.solve().is_empty(), "change {index}");
    }
}

#[test]
fn running_replica_that_computes_requests_is_not_preempted() {
    let mut fleet = fleet_with(&[100], vec![model(0, 1, 90), model(1, 1, 60)]);
    fleet.models[1].required = 0;
    let running = Assignment {
        node: node_name(0),
        model: model_name(1),
    };
    fleet.running = [running].into();
    let plan = fleet.solve();
    assert_eq!(plan.assign, fleet.running);
    assert_eq!(plan.missing.keys().collect::<Vec<_>>(), [&model_name(0)]);
}

prop_compose! {
    fn nodes()(
        parts in prop::collection::vec((0u64..200, 0usize..3, prop::collection::vec(prop::sample::select(vec!["x", "y"]), 0..3), any::<bool>(), 0u8..7), 1..9),
    ) -> Vec<TestNode> {
        parts.into_iter().enumerate().map(|(i, (memory, region, zones, tainted, state))| {
            let mut node = node(i, memory);
            node.labels.insert("region".into(), ["a", "b", "c"][region].into());
            node.zones = zones.into_iter().map(|zone| ZoneName::new(zone).unwrap()).collect();
            if tainted {
                node.taints.push(Taint { key: "t".into(), value: String::new() });
            }
            node.schedulability = match state {
                0 => Schedulability::Cordoned,
                1 => Schedulability::Flapping,
                2 => Schedulability::Draining,
                3 => Schedulability::Lost,
                _ => Schedulability::Schedulable,
            };
            node
        }).collect()
    }
}

prop_compose! {
    fn models()(
        parts in prop::collection::vec(
            (
                (0u32..5, 0u32..3, prop::option::weighted(0.3, 0usize..12)),
                0u64..120, 0usize..4, 0usize..3, any::<bool>(), any::<bool>(),
            ),
            0..10,
        ),
    ) -> Vec<TestModel> {
        parts.into_iter().enumerate().map(|(i, ((target, required, base), memory, region, zone, spread, tolerates))| {
            let mut model = model(i, target, memory);
            model.required = required;
            model.spec.base = base.map(model_name);
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
    /// A fleet with replicas on random nodes.
    fn fleets()(
        nodes in nodes(),
        models in models(),
        current in prop::collection::vec((0usize..9, 0usize..10, readiness(), prop::option::of(0u64..99)), 0..12),
        running in prop::collection::btree_set((0usize..9, 0usize..10), 0..12),
    ) -> TestFleet {
        let current = current.into_iter().map(|(node, model, readiness, idle)| {
            let assignment = Assignment { node: node_name(node), model: model_name(model) };
            (assignment, (readiness, idle.map(Duration::from_secs)))
        });
        let running = running.into_iter().map(|(node, model)| Assignment {
            node: node_name(node),
            model: model_name(model),
        });
        TestFleet { nodes, models, current: current.collect(), running: running.collect(), ..TestFleet::default() }
    }
}

fn readiness() -> impl Strategy<Value = ReplicaReadiness> {
    prop_oneof![
        Just(READY),
        Just(ReplicaReadiness::NotReady),
        Just(ReplicaReadiness::Unknown),
    ]
}

/// Returns whether a node keeps its replicas only until others answer.
fn is_leaving(node: &TestNode) -> bool {
    matches!(
        node.schedulability,
        Schedulability::Draining | Schedulability::Lost
    )
}

/// Checks properties A, D and G.
fn check_constraints(fleet: &TestFleet) -> Result<(), TestCaseError> {
    for node in &fleet.nodes {
        let assignments = fleet.current.keys().filter(|a| a.node == node.name);
        let mut used = 0;
        for assignment in assignments {
            let model = fleet.models.iter().find(|m| m.name == assignment.model);
            let Some(model) = model else {
                return Err(TestCaseError::fail("an unknown model is still assigned"));
            };
            used += model.memory;
            let spec = &model.spec;
            let base = spec.base.as_ref().map(|base| Assignment {
                node: node.name.clone(),
                model: base.clone(),
            });
            prop_assert!(base.is_none_or(|base| fleet.current.contains_key(&base)));
            prop_assert!(
                spec.node_selector
                    .iter()
                    .all(|(k, v)| node.labels.get(k) == Some(v))
            );
            let in_zone = node.zones.iter().any(|zone| spec.zones.contains(zone));
            prop_assert!(spec.zones.is_empty() || in_zone);
            let tolerated = |taint| spec.tolerations.iter().any(|t| t.tolerates(taint));
            prop_assert!(node.taints.iter().all(tolerated));
        }
        prop_assert!(
            used <= node.memory,
            "{} of {} bytes used on {}",
            used,
            node.memory,
            node.name
        );
    }
    Ok(())
}

/// Removes the current replicas of adapters that are on nodes without their bases.
fn remove_adapters_without_bases(fleet: &mut TestFleet) {
    let before = fleet.current.clone();
    let models = &fleet.models;
    fleet.current.retain(|assignment, _| {
        let model = models.iter().find(|model| model.name == assignment.model);
        let base = model.and_then(|model| model.spec.base.as_ref());
        base.is_none_or(|base| {
            let is_adapter = |m: &&TestModel| m.name == *base && m.spec.base.is_none();
            let on_node = Assignment {
                node: assignment.node.clone(),
                model: base.clone(),
            };
            models.iter().any(|m| is_adapter(&m)) && before.contains_key(&on_node)
        })
    });
}

/// Returns whether a replica may stay for an adapter in it that answers or may answer, or as such an adapter.
fn waits_for_adapters(fleet: &TestFleet, assignment: &Assignment) -> bool {
    let base_of = |name: &ModelName| {
        let model = fleet.models.iter().find(|model| model.name == *name);
        model.and_then(|model| model.spec.base.as_ref())
    };
    let hosts = |base: &ModelName| {
        fleet.current.iter().any(|(a, (readiness, _))| {
            a.node == assignment.node && base_of(&a.model) == Some(base) && readiness.may_answer()
        })
    };
    hosts(base_of(&assignment.model).unwrap_or(&assignment.model))
}

proptest! {
    #[test]
    fn constraints_hold_whatever_was_placed_before(mut fleet in fleets()) {
        let plan = fleet.solve();
        fleet.apply(&plan, READY);
        check_constraints(&fleet)?;
        for model in &fleet.models {
            let staying = fleet.current.iter().filter(|(a, (readiness, _))| {
                a.model == model.name
                    && *readiness != ReplicaReadiness::Unknown
                    && fleet.nodes.iter().any(|n| n.name == a.node && !is_leaving(n))
                    && !waits_for_adapters(&fleet, a)
            });
            prop_assert!(staying.count() <= model.target as usize);
        }
    }

    #[test]
    fn no_replica_that_may_answer_leaves_before_enough_others_answer(mut fleet in fleets()) {
        // Without what forbids a replica. All have room; new ones that are required may lack it.
        for node in &mut fleet.nodes {
            node.taints.clear();
            let here = fleet.current.keys().filter(|a| a.node == node.name);
            let used = here.filter_map(|a| fleet.models.iter().find(|m| m.name == a.model));
            node.memory += used.map(|model| model.memory).sum::<u64>();
        }
        for model in &mut fleet.models {
            model.spec = ModelSpec { base: model.spec.base.take(), ..ModelSpec::default() };
        }
        remove_adapters_without_bases(&mut fleet);
        let plan = fleet.solve();
        for model in &fleet.models {
            let evicted = plan.evict.iter().filter(|a| {
                a.model == model.name
                    && fleet.nodes.iter().any(|n| n.name == a.node)
                    && fleet.current[*a].0.may_answer()
            });
            let answering = fleet.current.iter().filter(|(a, (readiness, _))| {
                a.model == model.name && readiness.is_ready() && !plan.evict.contains(*a)
                    && fleet.nodes.iter().any(|n| n.name == a.node)
            });
            let (evicted, answering) = (evicted.count(), answering.count());
            // Above what it requires, a model may lose its room to what others require.
            let enough = match fleet.models.iter().all(|model| model.required == 0) {
                true => model.target,
                false => model.target.min(model.required),
            };
            prop_assert!(evicted == 0 || answering >= enough as usize, "{} {}", evicted, answering);
        }
    }

    #[test]
    fn placement_settles_and_then_changes_nothing(mut fleet in fleets()) {
        fleet.settle();
        prop_assert!(fleet.solve().is_empty());
        check_constraints(&fleet)?;
    }

    #[test]
    fn solving_again_before_replicas_are_ready_changes_nothing(nodes in nodes(), models in models()) {
        let mut fleet = TestFleet { nodes, models, ..TestFleet::default() };
        let plan = fleet.solve();
        fleet.apply(&plan, ReplicaReadiness::NotReady);
        prop_assert!(fleet.solve().is_empty());
    }

    #[test]
    fn lost_node_moves_only_its_own_replicas(mut fleet in fleets(), lost in 0usize..9) {
        // Without required replicas nothing is preempted.
        for model in &mut fleet.models {
            model.required = 0;
        }
        fleet.settle();
        let lost = node_name(lost % fleet.nodes.len());
        let held: BTreeSet<_> =
            fleet.current.keys().filter(|a| a.node == lost).cloned().collect();
        fleet.nodes.retain(|n| n.name != lost);
        let plan = fleet.solve();
        // Replicas on draining nodes may leave at any time; nothing else moves.
        // An adapter that found no place may find one beside its base.
        let moves = |model: &ModelName| held.iter().any(|old| old.model == *model);
        let base_moves = |model: &ModelName| {
            let model = fleet.models.iter().find(|m| m.name == *model);
            model.and_then(|model| model.spec.base.as_ref()).is_some_and(moves)
        };
        let moved: BTreeSet<_> = plan.evict.iter().filter(|a| {
            !fleet.nodes.iter().any(|n| n.name == a.node && n.schedulability == Schedulability::Draining)
        }).cloned().collect();
        prop_assert_eq!(&moved, &held);
        prop_assert!(plan.assign.iter().all(|new| moves(&new.model) || base_moves(&new.model)));
    }

    #[test]
    fn plan_does_not_depend_on_the_order_of_the_input(fleet in fleets()) {
        let mut reversed = fleet.clone();
        reversed.nodes.reverse();
        reversed.models.reverse();
        let mut problem = reversed.problem();
        problem.current.reverse();
        problem.running.reverse();
        prop_assert_eq!(fleet.solve(), solve(&problem));
    }

    #[test]
    fn missing_replicas_have_a_reason_for_every_node_without_one(fleet in fleets()) {
        let plan = fleet.solve();
        for (name, missing) in &plan.missing {
            let unplaced = explain_plan(&fleet.problem(), &plan, name).unwrap();
            prop_assert_eq!(unplaced.missing, *missing);
            let mut after = fleet.clone();
            after.apply(&plan, ReplicaReadiness::NotReady);
            let has = after.current.keys().filter(|a| {
                a.model == *name && after.nodes.iter().any(|n| n.name == a.node && !is_leaving(n))
            });
            let has: BTreeSet<_> = has.map(|a| &a.node).collect();
            for node in &fleet.nodes {
                let may_leave = has.contains(&node.name) && waits_for_adapters(&after, &Assignment {
                    node: node.name.clone(),
                    model: name.clone(),
                });
                let is_explained = unplaced.reasons.contains_key(&node.name) != has.contains(&node.name);
                prop_assert!(is_explained || may_leave);
            }
            prop_assert_eq!(unplaced.nodes, fleet.nodes.len());
        }
    }
}

#[test]
fn files_need_disk_space_once_for_each_node() {
    let fleet = fleet_with(
        &[100, 100],
        vec![model(0, 2, 1), model(1, 2, 1), model(2, 2, 1)],
    );
    let files = |byte: u8, size: u64| {
        Some(DeliveredFiles {
            digest: Sha256Digest([byte; 32]),
            size: Bytes(size),
        })
    };
    let solve_with = |of_models: [Option<DeliveredFiles>; 3]| {
        let mut problem = fleet.problem();
        problem.nodes[0].disk = Some(Bytes(10));
        for (demand, files) in problem.models.iter_mut().zip(of_models) {
            demand.files = files;
        }
        let plan = solve(&problem);
        let reasons: Vec<_> = plan
            .missing
            .keys()
            .filter_map(|name| explain_plan(&problem, &plan, name))
            .flat_map(|unplaced| unplaced.reasons.into_values())
            .collect();
        (plan.assign.len(), reasons)
    };
    // The second node does not say how much disk space it has.
    assert_eq!(solve_with([files(1, 6), files(1, 6), None]), (6, vec![]));
    let (placed, reasons) = solve_with([files(1, 6), files(2, 6), files(1, 6)]);
    assert_eq!(placed, 5, "models with the same files share them");
    let too_little = UnschedulableReason::InsufficientDisk {
        needed: Bytes(6),
        free: Bytes(4),
    };
    assert_eq!(reasons, [too_little]);
}
