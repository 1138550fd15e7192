//! The solver: keep what may stay, then give each missing replica its best node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};

use super::placement_state::{PlacementState, PlannedReplica};
use super::preempt::PreemptionVictims;
use super::problem::{Assignment, ModelDemand, PlacementPlan, PlacementProblem};
use super::score::{BestPerformance, score};
use super::unschedulable::UnplacedReplicas;
use crate::ModelName;

/// Plans the fewest changes that bring what stands to what the models ask of the nodes.
///
/// Models are served largest first, so that small ones fill the gaps; equal ones by name.
/// Among the nodes that pass the filters, those in the label's value with the fewest replicas
/// come first, then the best score, then the first by name. Unsteady nodes get what is required
/// and has no other place. Only for replicas that are
/// required do idle ones leave that their own models can do without, least recently used
/// first.
#[must_use]
pub fn solve(problem: &PlacementProblem<'_>) -> PlacementPlan {
    let mut board = PlacementState::new(problem);
    for index in board.order.clone() {
        for gone in surplus(&board, index) {
            board.remove(&gone);
        }
    }
    // What is required first; then the rest, for which nobody leaves.
    place_all(&mut board, |model| model.goal());
    make_room(&mut board);
    place_all(&mut board, |model| model.target);
    // Some of the rest may stand where something required has its only place. Every round
    // gives one more of those a place, so that this ends.
    while make_room(&mut board) {
        place_all(&mut board, |model| model.target);
    }
    // A node that comes and goes is better than none.
    board.last_resort = true;
    place_all(&mut board, |model| model.goal());

    let mut plan = PlacementPlan::default();
    let mut stays = HashSet::new();
    for (index, model) in problem.models.iter().enumerate() {
        for kept in &board.kept[index] {
            if kept.new {
                plan.assign.insert(Assignment {
                    node: kept.standing.node.clone(),
                    model: model.name.clone(),
                });
            } else {
                stays.insert((kept.standing.node, kept.standing.model));
            }
        }
        let missing = missing(&board, index, model.target);
        if missing > 0 {
            plan.missing.insert(model.name.clone(), missing);
        }
    }
    for standing in &problem.current {
        if !stays.contains(&(standing.node, standing.model)) {
            plan.evict.insert(Assignment {
                node: standing.node.clone(),
                model: standing.model.clone(),
            });
        }
    }
    plan
}

/// Why `model` has fewer replicas than it should, per node. `None` when it has them all.
///
/// Looks at every node, so this is for who asks about one model, not for every plan.
#[must_use]
pub fn explain(problem: &PlacementProblem<'_>, model: &ModelName) -> Option<UnplacedReplicas> {
    let plan = solve(problem);
    let missing = *plan.missing.get(model)?;
    // The fleet as it will be, so that what others take counts.
    let mut after = problem.clone();
    after.current.retain(|standing| {
        !plan
            .evict
            .iter()
            .any(|gone| gone.node == *standing.node && gone.model == *standing.model)
    });
    after
        .current
        .extend(plan.assign.iter().map(|new| super::CurrentReplica {
            node: &new.node,
            model: &new.model,
            ready: false,
            outdated: false,
            idle_for: None,
        }));
    let mut board = PlacementState::new(&after);
    let index = after.models.iter().position(|m| m.name == model)?;
    let demand = board.model(index);
    board.last_resort = self::missing(&board, index, demand.goal()) > 0;
    let has: BTreeSet<usize> = board.kept[index].iter().map(|kept| kept.slot).collect();
    let refusals = board
        .slots
        .iter()
        .enumerate()
        .filter(|(i, _)| !has.contains(i))
        .filter_map(|(_, slot)| {
            let refusal = board
                .refuses(demand, slot)
                .or_else(|| board.lacks(demand, slot))?;
            Some((board.node(slot).name.clone(), refusal))
        })
        .collect();
    Some(UnplacedReplicas {
        missing,
        nodes: board.slots.len(),
        reasons: refusals,
    })
}

/// Replicas that the model of `index` still misses of `goal`. One that is about to leave does
/// not count.
fn missing(board: &PlacementState<'_>, index: usize, goal: u32) -> u32 {
    let steady = board.kept[index]
        .iter()
        .filter(|kept| !board.is_leaving(kept))
        .count();
    goal.saturating_sub(u32::try_from(steady).unwrap_or(u32::MAX))
}

/// What a model has too much of, to be given back. A replica on a draining node goes once
/// enough others answer; of the others the ones go that do not answer, then the outdated, then those
/// where the label's value has most, then those unused for longest.
fn surplus<'a>(board: &PlacementState<'a>, index: usize) -> Vec<PlannedReplica<'a>> {
    let model = board.model(index);
    let target = model.target as usize;
    let kept = &board.kept[index];
    let steady = kept.iter().filter(|k| !board.is_leaving(k)).count();
    let answering = kept
        .iter()
        .filter(|k| !board.is_leaving(k) && k.standing.ready)
        .count();
    let mut gone = Vec::new();
    // As many leaving ones stay as answering ones are missing elsewhere.
    let mut needed = target.saturating_sub(answering);
    for leaving in kept.iter().filter(|k| board.is_leaving(k)) {
        if needed > 0 && leaving.standing.ready {
            needed -= 1;
        } else {
            gone.push(*leaving);
        }
    }
    let mut rest: Vec<PlannedReplica<'a>> = kept
        .iter()
        .filter(|k| !board.is_leaving(k))
        .copied()
        .collect();
    for _ in target..steady {
        let slots: Vec<usize> = rest.iter().map(|k| k.slot).collect();
        let domains = board.domains(model, &slots);
        let worst = rest.iter().enumerate().max_by_key(|(_, k)| {
            let crowd = domains
                .get(board.domain(model, k.slot))
                .copied()
                .unwrap_or(0);
            (
                !k.standing.ready,
                k.standing.outdated,
                crowd,
                k.standing.idle_for,
                k.slot,
            )
        });
        let Some((at, _)) = worst else { break };
        gone.push(rest.swap_remove(at));
    }
    gone
}

/// Gives all models the replicas they miss of a goal.
fn place_all(board: &mut PlacementState<'_>, goal: impl Fn(&ModelDemand<'_>) -> u32) {
    for index in board.order.clone() {
        let goal = goal(board.model(index));
        place(board, index, goal);
    }
}

/// Gives the model of `index` the replicas it misses of `goal`, where there is room.
fn place(board: &mut PlacementState<'_>, index: usize, goal: u32) {
    let wanted = missing(board, index, goal) as usize;
    if wanted == 0 {
        return;
    }
    let model = board.model(index);
    let best = BestPerformance::of(model);
    let taken: BTreeSet<usize> = board.kept[index].iter().map(|kept| kept.slot).collect();
    let mut candidates: Vec<(i64, usize)> = board
        .slots
        .iter()
        .enumerate()
        .filter(|(i, slot)| {
            board.lacks(model, slot).is_none()
                && !taken.contains(i)
                && board.refuses(model, slot).is_none()
        })
        .map(|(i, slot)| (score(board, model, best, slot), i))
        .collect();
    // Best first; slots are in order of names. Placing changes no other candidate's score,
    // since a node gets one replica at most.
    let rank = |(score, slot): &(i64, usize)| (Reverse(*score), *slot);
    let chosen = if model.spec.spread_by.is_some() {
        candidates.sort_unstable_by_key(rank);
        let has: Vec<usize> = taken.into_iter().collect();
        spread(board, model, &has, &candidates, wanted)
    } else {
        if candidates.len() > wanted {
            candidates.select_nth_unstable_by_key(wanted, rank);
            candidates.truncate(wanted);
        }
        candidates.into_iter().map(|(_, slot)| slot).collect()
    };
    for slot in chosen {
        board.add(slot, index);
    }
}

/// Chooses `wanted` of the candidates, best first, so that the values of the label have
/// evenly many.
fn spread<'a>(
    board: &PlacementState<'a>,
    model: &ModelDemand<'a>,
    has: &[usize],
    candidates: &[(i64, usize)],
    wanted: usize,
) -> Vec<usize> {
    let counts = board.domains(model, has);
    let mut queues: BTreeMap<&str, VecDeque<(usize, usize)>> = BTreeMap::new();
    for (rank, (_, slot)) in candidates.iter().enumerate() {
        let queue = queues.entry(board.domain(model, *slot)).or_default();
        queue.push_back((rank, *slot));
    }
    // The value with the fewest replicas first, then the one with the best candidate.
    let mut heap: BinaryHeap<Reverse<(u32, usize, &str)>> = queues
        .iter()
        .filter_map(|(domain, queue)| {
            let count = counts.get(domain).copied().unwrap_or(0);
            Some(Reverse((count, queue.front()?.0, *domain)))
        })
        .collect();
    let mut chosen = Vec::with_capacity(wanted);
    while chosen.len() < wanted {
        let Some(Reverse((count, _, domain))) = heap.pop() else {
            break;
        };
        let Some(queue) = queues.get_mut(domain) else {
            break;
        };
        chosen.extend(queue.pop_front().map(|(_, slot)| slot));
        if let Some((rank, _)) = queue.front() {
            heap.push(Reverse((count + 1, *rank, domain)));
        }
    }
    chosen
}

/// Gives models the replicas they require by sending away what others can do without. Returns
/// whether any was given.
fn make_room(board: &mut PlacementState<'_>) -> bool {
    let mut any = false;
    let mut victims: Option<PreemptionVictims<'_>> = None;
    for index in board.order.clone() {
        let model = board.model(index);
        let Some(needed) = model.memory else { continue };
        while missing(board, index, model.goal()) > 0 {
            let victims = victims.get_or_insert_with(|| PreemptionVictims::new(board));
            let has: BTreeSet<usize> = board.kept[index].iter().map(|kept| kept.slot).collect();
            let found = victims.find(board, needed, |slot| {
                !has.contains(&slot) && board.refuses(model, &board.slots[slot]).is_none()
            });
            let Some((slot, gone)) = found else { break };
            victims.left(slot, &gone);
            for victim in &gone {
                board.remove(victim);
            }
            board.add(slot, index);
            any = true;
        }
    }
    any
}
