//! The solver: keep what may stay, then give each missing replica its best node.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, ModelDemand, NodeCapacity, Plan, Refusal, Unplaced};
use crate::{Bytes, NodeName};

/// What a node holds while the plan grows.
struct Holding {
    free: Bytes,
    replicas: usize,
}

/// Plans the fewest changes that bring `current` to what `models` ask of `nodes`.
///
/// Models are served in order of their memory, largest first, so that small ones fill the
/// gaps; equal ones by name. Among the nodes that pass the filters the one with the fewest
/// replicas wins, then the one with the most free memory, then the first by name.
#[must_use]
pub fn solve(
    nodes: &[NodeCapacity],
    models: &[ModelDemand],
    current: &BTreeSet<Assignment>,
) -> Plan {
    let mut holdings: BTreeMap<&NodeName, Holding> = nodes
        .iter()
        .map(|node| {
            let holding = Holding {
                free: node.memory,
                replicas: 0,
            };
            (&node.name, holding)
        })
        .collect();
    let mut order: Vec<&ModelDemand> = models.iter().collect();
    order.sort_by(|a, b| b.memory.cmp(&a.memory).then_with(|| a.name.cmp(&b.name)));

    let kept = keep(&order, current, &mut holdings);
    let mut plan = Plan {
        evict: current.difference(&kept).cloned().collect(),
        ..Plan::default()
    };
    let mut held: BTreeMap<&str, BTreeSet<&NodeName>> = BTreeMap::new();
    for assignment in &kept {
        held.entry(assignment.model.as_str())
            .or_default()
            .insert(&assignment.node);
    }
    for model in order {
        let mut placed = held.remove(model.name.as_str()).unwrap_or_default();
        while placed.len() < model.replicas as usize {
            let Some(node) = best(model, &placed, &holdings) else {
                break;
            };
            take(&mut holdings, node, model);
            placed.insert(node);
            plan.assign.insert(Assignment {
                node: node.clone(),
                model: model.name.clone(),
            });
        }
        let missing = model.replicas.saturating_sub(placed.len() as u32);
        if missing > 0 {
            let refusals = holdings
                .iter()
                .filter(|(node, _)| !placed.contains(**node))
                .filter_map(|(node, holding)| {
                    Some(((*node).clone(), refusal(model, node, holding)?))
                })
                .collect();
            plan.unplaced
                .insert(model.name.clone(), Unplaced { missing, refusals });
        }
    }
    plan
}

/// The standing assignments that may stay: node and model exist, the node has not refused,
/// the memory suffices, and no more than `replicas` of them.
fn keep(
    order: &[&ModelDemand],
    current: &BTreeSet<Assignment>,
    holdings: &mut BTreeMap<&NodeName, Holding>,
) -> BTreeSet<Assignment> {
    let mut standing: BTreeMap<&str, Vec<&Assignment>> = BTreeMap::new();
    for assignment in current {
        standing
            .entry(assignment.model.as_str())
            .or_default()
            .push(assignment);
    }
    let mut kept = BTreeSet::new();
    for model in order {
        let mut left = model.replicas;
        for assignment in standing.remove(model.name.as_str()).unwrap_or_default() {
            let node = &assignment.node;
            let stays = left > 0
                && holdings
                    .get(node)
                    .is_some_and(|holding| refusal(model, node, holding).is_none());
            if stays {
                take(holdings, node, model);
                kept.insert(assignment.clone());
                left -= 1;
            }
        }
    }
    kept
}

/// Why `node` cannot take one more replica of `model`, if it cannot.
fn refusal(model: &ModelDemand, node: &NodeName, holding: &Holding) -> Option<Refusal> {
    if let Some(reason) = model.refused_by.get(node) {
        return Some(Refusal::Failed(reason.clone()));
    }
    let needed = model.memory.unwrap_or_default();
    (needed > holding.free).then_some(Refusal::Memory {
        needed,
        free: holding.free,
    })
}

/// The node that passes the filters and scores best.
fn best<'a>(
    model: &ModelDemand,
    placed: &BTreeSet<&NodeName>,
    holdings: &BTreeMap<&'a NodeName, Holding>,
) -> Option<&'a NodeName> {
    holdings
        .iter()
        .filter(|(node, holding)| {
            !placed.contains(**node) && refusal(model, node, holding).is_none()
        })
        .min_by_key(|(node, holding)| (holding.replicas, std::cmp::Reverse(holding.free), **node))
        .map(|(node, _)| *node)
}

fn take(holdings: &mut BTreeMap<&NodeName, Holding>, node: &NodeName, model: &ModelDemand) {
    if let Some(holding) = holdings.get_mut(node) {
        holding.free = holding
            .free
            .saturating_sub(model.memory.unwrap_or_default());
        holding.replicas += 1;
    }
}
