use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{Bytes, ModelName, NodeName};

fn node_name(i: usize) -> NodeName {
    NodeName::new(&format!("node-{i}")).unwrap()
}

fn nodes(memory: &[u64]) -> Vec<NodeCapacity> {
    memory
        .iter()
        .enumerate()
        .map(|(i, memory)| NodeCapacity {
            name: node_name(i),
            memory: Bytes(*memory),
        })
        .collect()
}

fn demand(i: usize, replicas: u32, memory: u64) -> ModelDemand {
    ModelDemand {
        name: ModelName::new(&format!("model-{i}")).unwrap(),
        replicas,
        memory: Some(Bytes(memory)),
        refused_by: BTreeMap::new(),
    }
}

/// The assignments after a plan was carried out.
fn apply(current: &BTreeSet<Assignment>, plan: &Plan) -> BTreeSet<Assignment> {
    current
        .difference(&plan.evict)
        .chain(&plan.assign)
        .cloned()
        .collect()
}

#[test]
fn replicas_are_spread_over_nodes() {
    let plan = solve(
        &nodes(&[100, 100, 100]),
        &[demand(0, 2, 10), demand(1, 1, 10)],
        &BTreeSet::new(),
    );
    let used: BTreeSet<_> = plan.assign.iter().map(|a| &a.node).collect();
    assert_eq!((plan.assign.len(), used.len()), (3, 3));
    assert!(plan.unplaced.is_empty());
}

#[test]
fn an_unplaced_replica_says_why_per_node() {
    let mut model = demand(0, 3, 50);
    model.refused_by.insert(node_name(1), "no such file".into());
    let plan = solve(&nodes(&[10, 100, 100]), &[model], &BTreeSet::new());
    let unplaced = plan.unplaced.values().next().unwrap();
    assert_eq!(
        unplaced.to_string(),
        "2 replicas have no place: node-0 needs 50 B of memory, 10 B free; \
         node-1 failed there: no such file"
    );
}

#[test]
fn fewer_replicas_evict_the_surplus() {
    let all = nodes(&[100, 100, 100]);
    let before = apply(
        &BTreeSet::new(),
        &solve(&all, &[demand(0, 3, 10)], &BTreeSet::new()),
    );
    let plan = solve(&all, &[demand(0, 1, 10)], &before);
    assert_eq!((plan.assign.len(), plan.evict.len()), (0, 2));
}

#[test]
fn a_model_no_longer_wished_for_is_evicted() {
    let all = nodes(&[100]);
    let before = apply(
        &BTreeSet::new(),
        &solve(&all, &[demand(0, 1, 10)], &BTreeSet::new()),
    );
    assert_eq!(solve(&all, &[], &before).evict, before);
}

prop_compose! {
    fn problems()(
        memory in prop::collection::vec(0u64..200, 1..8),
        demands in prop::collection::vec((1u32..5, 0u64..120), 0..10),
    ) -> (Vec<NodeCapacity>, Vec<ModelDemand>) {
        let models = demands.iter().enumerate().map(|(i, (r, m))| demand(i, *r, *m)).collect();
        (nodes(&memory), models)
    }
}

proptest! {
    #[test]
    fn capacity_and_replicas_are_never_exceeded((nodes, models) in problems()) {
        let placed = apply(&BTreeSet::new(), &solve(&nodes, &models, &BTreeSet::new()));
        for node in &nodes {
            let used: Bytes = placed.iter().filter(|a| a.node == node.name)
                .map(|a| models.iter().find(|m| m.name == a.model).unwrap().memory.unwrap())
                .sum();
            prop_assert!(used <= node.memory);
        }
        for model in &models {
            let replicas = placed.iter().filter(|a| a.model == model.name).count();
            prop_assert!(replicas <= model.replicas as usize);
        }
    }

    #[test]
    fn solving_again_changes_nothing((nodes, models) in problems()) {
        let placed = apply(&BTreeSet::new(), &solve(&nodes, &models, &BTreeSet::new()));
        let again = solve(&nodes, &models, &placed);
        prop_assert!(again.assign.is_empty() && again.evict.is_empty());
    }

    #[test]
    fn a_lost_node_moves_only_what_it_held((nodes, models) in problems(), lost in 0usize..8) {
        let placed = apply(&BTreeSet::new(), &solve(&nodes, &models, &BTreeSet::new()));
        let lost = node_name(lost % nodes.len());
        let rest: Vec<_> = nodes.iter().filter(|n| n.name != lost).cloned().collect();
        let plan = solve(&rest, &models, &placed);
        prop_assert!(plan.evict.iter().all(|a| a.node == lost));
        prop_assert_eq!(plan.evict.len(), placed.iter().filter(|a| a.node == lost).count());
    }

    #[test]
    fn the_order_of_the_input_does_not_matter((nodes, models) in problems()) {
        let reversed_nodes: Vec<_> = nodes.iter().rev().cloned().collect();
        let reversed_models: Vec<_> = models.iter().rev().cloned().collect();
        prop_assert_eq!(
            solve(&nodes, &models, &BTreeSet::new()),
            solve(&reversed_nodes, &reversed_models, &BTreeSet::new())
        );
    }
}
