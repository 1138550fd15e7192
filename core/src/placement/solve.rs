//! The solver: keeps the current replicas that may stay, then places each missing replica on the
//! node that suits it best.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};

use super::adopt::adopt_running;
use super::placement_state::{PlacementState, PlannedReplica};
use super::preempt::PreemptionVictims;
use super::problem::{Assignment, CurrentReplica, ModelDemand, PlacementPlan, PlacementProblem};
use super::score::{BestPerformance, score};
use super::unschedulable::UnplacedReplicas;
use crate::{ModelName, ReplicaReadiness};

/// Plans the fewest changes that bring the current replicas to the demand.
///
/// Replicas that nodes run without an assignment are assigned there, also on cordoned and flapping
/// nodes, before any is placed anew.
///
/// Adapters are placed after all other models, on nodes with their base. A replica of a base that is surplus
/// stays until the adapters in it answer elsewhere.
///
/// Models are placed largest first, so that small ones fill the gaps, and by name if they are
/// equally large. Among the nodes that satisfy the constraints, those in the domain of the model's
/// `spreadBy` label with the fewest replicas come first, then the one with the best score, then the
/// first by name. Flapping nodes get a replica only if it is required and fits nowhere else. Idle
/// replicas that their models do not require are preempted for required ones, the least recently
/// used first.
#[must_use]
pub fn solve(problem: &PlacementProblem<'_>) -> PlacementPlan {
    let mut state = PlacementState::new(problem);
    for index in state.model_order.clone() {
        let surplus = surplus_replicas(&state, index);
        for planned in state.mark_leaving_bases(surplus) {
            state.remove(&planned);
        }
    }
    state.remove_leaving_bases();
    adopt_running(&mut state);
    // Required replicas come first. Nothing is preempted for the others.
    place_all(&mut state, |model| model.required_replicas());
    preempt_for_required(&mut state);
    place_all(&mut state, |model| model.target);
    // An optional replica may have taken the only node that fits a required one. Each round places
    // at least one more required replica, so the loop ends.
    while preempt_for_required(&mut state) {
        place_all(&mut state, |model| model.target);
    }
    // A flapping node is better than none.
    state.allow_flapping = true;
    place_all(&mut state, |model| model.required_replicas());
    plan_changes(&state)
}

/// Returns the difference between the current and the planned replicas.
fn plan_changes(state: &PlacementState<'_>) -> PlacementPlan {
    let problem = state.problem;
    let mut plan = PlacementPlan::default();
    let mut kept = HashSet::new();
    for (index, model) in problem.models.iter().enumerate() {
        for planned in &state.replicas[index] {
            if planned.is_new {
                plan.assign.insert(Assignment {
                    node: planned.replica.node.clone(),
                    model: model.name.clone(),
                });
            } else {
                kept.insert((planned.replica.node, planned.replica.model));
            }
        }
        let missing = missing_replicas(state, index, model.target);
        if missing > 0 {
            plan.missing.insert(model.name.clone(), missing);
        }
    }
    for current in &problem.current {
        if !kept.contains(&(current.node, current.model)) {
            plan.evict.insert(Assignment {
                node: current.node.clone(),
                model: current.model.clone(),
            });
        }
    }
    plan
}

/// Explains per node why `model` has fewer replicas than its target after the plan that solves the
/// problem. `None`: it misses none.
#[must_use]
pub fn explain_plan(
    problem: &PlacementProblem<'_>,
    plan: &PlacementPlan,
    model: &ModelName,
) -> Option<UnplacedReplicas> {
    let missing = *plan.missing.get(model)?;
    // The reasons refer to the fleet after the plan, so that replicas of other models count.
    let mut after = problem.clone();
    after.current.retain(|current| {
        !plan
            .evict
            .iter()
            .any(|evicted| evicted.node == *current.node && evicted.model == *current.model)
    });
    after
        .current
        .extend(plan.assign.iter().map(|assigned| CurrentReplica {
            node: &assigned.node,
            model: &assigned.model,
            readiness: ReplicaReadiness::NotReady,
            outdated: false,
            gpu: None,
            idle_for: None,
        }));
    let mut state = PlacementState::new(&after);
    let index = after
        .models
        .iter()
        .position(|demand| demand.name == model)?;
    if let Some(base) = state.links.placed_base(index) {
        let surplus = surplus_replicas(&state, base);
        state.mark_leaving_bases(surplus);
    }
    let demand = state.model(index);
    state.allow_flapping = missing_replicas(&state, index, demand.required_replicas()) > 0;
    // A node whose replica leaves is not suitable.
    let staying = state.replicas[index].iter();
    let used: BTreeSet<usize> = staying
        .filter(|planned| !state.is_leaving(planned))
        .map(|planned| planned.node)
        .collect();
    let leaving = state.replicas[index].len() - used.len();
    let base = state.links.placed_base(index);
    let reasons = state
        .nodes
        .iter()
        .enumerate()
        .filter(|(node, _)| !used.contains(node))
        .filter_map(|(node_index, node)| {
            let reason = state
                .unschedulable(index, node_index)
                .or_else(|| node.insufficient_resource(demand, base))?;
            Some((node.capacity.name.clone(), reason))
        })
        .collect();
    Some(UnplacedReplicas {
        missing,
        leaving: missing.min(u32::try_from(leaving).unwrap_or(u32::MAX)),
        nodes: state.nodes.len(),
        reasons,
    })
}

/// Returns whether a replica of `model` fits on a node once each other model has lost the replica there that
/// its spec does not require, if it has one. Its requests then wait until the others are idle. An adapter
/// fits where its base is or fits beside it.
#[must_use]
pub fn fits_when_others_sleep(problem: &PlacementProblem<'_>, model: &ModelName) -> bool {
    let mut state = PlacementState::new(problem);
    let position = problem.models.iter().position(|m| m.name == model);
    let Some(index) = position else { return false };
    let base = state.links.placed_base(index);
    // Adapters go before their bases.
    let others = state.model_order.clone().into_iter().rev();
    for other in others.filter(|other| *other != index && Some(*other) != base) {
        // Those that leave their nodes do not stand in for those that stay.
        let replicas = state.replicas[other].iter().copied();
        let staying: Vec<_> = replicas.filter(|r| !state.is_leaving(r)).collect();
        if staying.len() > state.model(other).spec.replicas.min as usize {
            for planned in &staying {
                if state.adapters_on(other, planned.node).next().is_none() {
                    state.remove(planned);
                }
            }
        }
    }
    let fits = |state: &PlacementState<'_>, index: usize, node: usize| {
        let demand = state.model(index);
        let base = state.links.placed_base(index);
        let allocation = &state.nodes[node];
        allocation.insufficient_resource(demand, base).is_none()
            && state.unschedulable(index, node).is_none()
    };
    (0..state.nodes.len()).any(|node| {
        if let Some(base) = base
            && state.missing_base(index, node).is_some()
            && fits(&state, base, node)
        {
            state.add_new(node, base);
        }
        fits(&state, index, node)
    })
}

/// Returns the indices of the nodes that have a replica of a model.
pub(super) fn nodes_with_replica(state: &PlacementState<'_>, index: usize) -> BTreeSet<usize> {
    let replicas = state.replicas[index].iter();
    replicas.map(|planned| planned.node).collect()
}

/// Returns the number of replicas that a model misses of `goal`. Replicas that leave their nodes do not
/// count as placed.
pub(super) fn missing_replicas(state: &PlacementState<'_>, index: usize, goal: u32) -> u32 {
    let staying = state.replicas[index]
        .iter()
        .filter(|planned| !state.is_leaving(planned))
        .count();
    goal.saturating_sub(u32::try_from(staying).unwrap_or(u32::MAX))
}

/// Returns the replicas that a model has too many. A replica on a draining or a lost node is surplus
/// once enough others answer. Of the other replicas, those above the target are surplus in this order:
/// first those that do not answer, then those of which nothing is known, then outdated ones, then those
/// in the domain with the most replicas, then those with the fewest adapters, then those that are idle for
/// longest. One of which nothing is
/// known is surplus only if enough others answer.
fn surplus_replicas<'a>(state: &PlacementState<'a>, index: usize) -> Vec<PlannedReplica<'a>> {
    let model = state.model(index);
    let target = model.target as usize;
    let (leaving, mut staying): (Vec<_>, Vec<PlannedReplica<'a>>) = state.replicas[index]
        .iter()
        .copied()
        .partition(|planned| state.is_leaving(planned));
    let ready = staying
        .iter()
        .filter(|planned| planned.replica.readiness.is_ready())
        .count();
    let mut surplus = Vec::new();
    // As many leaving replicas stay as other replicas are not yet ready.
    let mut needed = target.saturating_sub(ready);
    for planned in leaving {
        if needed > 0 && planned.replica.readiness.may_answer() {
            // One of which nothing is known does not stand in for another.
            needed -= usize::from(planned.replica.readiness.is_ready());
        } else {
            surplus.push(planned);
        }
    }
    for _ in target..staying.len() {
        let nodes: Vec<usize> = staying.iter().map(|planned| planned.node).collect();
        let counts = state.count_by_domain(model, &nodes);
        let worst = staying.iter().enumerate().max_by_key(|(_, planned)| {
            let domain = state.domain(model, planned.node);
            (
                planned.preference(),
                planned.replica.outdated,
                counts.get(domain).copied().unwrap_or(0),
                Reverse(state.adapters_on(index, planned.node).count()),
                planned.replica.idle_for,
                planned.node,
            )
        });
        let Some((worst, planned)) = worst else { break };
        if planned.replica.readiness == ReplicaReadiness::Unknown && ready < target {
            break;
        }
        surplus.push(staying.swap_remove(worst));
    }
    surplus
}

/// Places the replicas that the models miss of a goal.
fn place_all(state: &mut PlacementState<'_>, goal: impl Fn(&ModelDemand<'_>) -> u32) {
    for index in state.model_order.clone() {
        let goal = goal(state.model(index));
        place(state, index, goal);
    }
}

/// Places the replicas that a model misses of `goal`, as far as nodes have memory and disk space for them.
fn place(state: &mut PlacementState<'_>, index: usize, goal: u32) {
    let missing = missing_replicas(state, index, goal) as usize;
    if missing == 0 {
        return;
    }
    let model = state.model(index);
    let base = state.links.placed_base(index);
    let best = BestPerformance::of(model);
    let used = nodes_with_replica(state, index);
    let mut candidates: Vec<(i64, usize)> = state
        .nodes
        .iter()
        .enumerate()
        .filter(|(node_index, node)| {
            node.insufficient_resource(model, base).is_none()
                && !used.contains(node_index)
                && state.unschedulable(index, *node_index).is_none()
        })
        .map(|(node_index, node)| (score(model, base, best, node), node_index))
        .collect();
    // The best score comes first; nodes are sorted by name. Since a node gets one replica of a model
    // at most, placing a replica does not change the scores of other candidates.
    let rank = |(score, node): &(i64, usize)| (Reverse(*score), *node);
    let chosen = if model.spec.spread_by.is_some() {
        candidates.sort_unstable_by_key(rank);
        let used: Vec<usize> = used.into_iter().collect();
        choose_spread(state, model, &used, &candidates, missing)
    } else {
        if candidates.len() > missing {
            candidates.select_nth_unstable_by_key(missing, rank);
            candidates.truncate(missing);
        }
        candidates.into_iter().map(|(_, node)| node).collect()
    };
    for node in chosen {
        state.add_new(node, index);
    }
}

/// Chooses up to `count` of the candidates, which are sorted best first, so that the domains of the
/// model's `spreadBy` label get equally many replicas. `used` are the nodes with a replica.
fn choose_spread<'a>(
    state: &PlacementState<'a>,
    model: &ModelDemand<'a>,
    used: &[usize],
    candidates: &[(i64, usize)],
    count: usize,
) -> Vec<usize> {
    let replicas = state.count_by_domain(model, used);
    let mut queues: BTreeMap<&str, VecDeque<(usize, usize)>> = BTreeMap::new();
    for (rank, (_, node)) in candidates.iter().enumerate() {
        let queue = queues.entry(state.domain(model, *node)).or_default();
        queue.push_back((rank, *node));
    }
    // The domain with the fewest replicas comes first, then the one with the best candidate.
    let mut heap: BinaryHeap<Reverse<(u32, usize, &str)>> = queues
        .iter()
        .filter_map(|(domain, queue)| {
            let replicas = replicas.get(domain).copied().unwrap_or(0);
            Some(Reverse((replicas, queue.front()?.0, *domain)))
        })
        .collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let Some(Reverse((replicas, _, domain))) = heap.pop() else {
            break;
        };
        let Some(queue) = queues.get_mut(domain) else {
            break;
        };
        chosen.extend(queue.pop_front().map(|(_, node)| node));
        if let Some((rank, _)) = queue.front() {
            heap.push(Reverse((replicas + 1, *rank, domain)));
        }
    }
    chosen
}

/// Places missing required replicas by preempting idle ones that are not required. Returns whether
/// any was placed.
fn preempt_for_required(state: &mut PlacementState<'_>) -> bool {
    let mut placed = false;
    let mut victims: Option<PreemptionVictims<'_>> = None;
    for index in state.model_order.clone() {
        let model = state.model(index);
        if model.memory.largest().is_none() {
            continue;
        }
        while missing_replicas(state, index, model.required_replicas()) > 0 {
            let victims = victims.get_or_insert_with(|| PreemptionVictims::new(state));
            let used = nodes_with_replica(state, index);
            let found = victims.find(state, index, |node| {
                let allocation = &state.nodes[node];
                !used.contains(&node)
                    && state.unschedulable(index, node).is_none()
                    && allocation.insufficient_disk(model).is_none()
            });
            let Some((node, preempted)) = found else {
                break;
            };
            victims.remove(state, node, &preempted);
            for victim in &preempted {
                state.remove(victim);
            }
            state.add_new(node, index);
            placed = true;
        }
    }
    placed
}
