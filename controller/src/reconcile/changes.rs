//! A plan as writes to the store.

use std::time::Instant;

use flotilla_core::placement::{self, Assignment};
use flotilla_core::rollout::Revision;
use flotilla_core::{ModelName, NodeName};

use super::problem::{Inputs, Outcome};
use super::scale::Scalers;
use crate::fleet::records::encode;
use crate::fleet::{AssignmentRecord, CondemnedRecord, FleetView, ModelView, StableRecord};
use crate::store::{Write, keys};

/// What the leader has to write so that the fleet of this view follows the wish.
pub(super) fn plan(view: &FleetView, scalers: &Scalers, now: Instant) -> Vec<Write> {
    let inputs = Inputs::new(view, scalers);
    let plan = placement::solve(&inputs.problem(view, now));
    if !plan.is_empty() {
        tracing::info!(assign = ?plan.assign, evict = ?plan.evict, "placement changes");
    }
    let mut writes = Vec::new();
    for assignment in &plan.evict {
        let key = keys::assignment(assignment);
        writes.push(Write::Delete { key });
    }
    for assignment in &plan.assign {
        if let Some(input) = inputs.get(&assignment.model) {
            writes.push(assign(assignment.clone(), input.revisions.goal()));
        }
    }
    for (name, model) in &view.models {
        let Some(input) = inputs.get(name) else {
            continue;
        };
        let goal = input.revisions.goal();
        let at = |node: &NodeName| Assignment {
            node: node.clone(),
            model: name.clone(),
        };
        let stays = |node: &&NodeName| !plan.evict.contains(&at(node));
        match &input.step {
            Outcome::Wait => {}
            Outcome::Change(nodes) => {
                tracing::info!(model = %name, ?nodes, "changing the revision");
                writes.extend(
                    nodes
                        .iter()
                        .filter(stays)
                        .map(|node| assign(at(node), goal)),
                );
            }
            // Nowhere else to go: there is a gap, which requests wait out.
            Outcome::Surge(node) if plan.missing.contains_key(name) => {
                tracing::info!(model = %name, %node, "changing the revision of the only replica");
                writes.push(assign(at(node), goal));
            }
            Outcome::Surge(_) => {}
            Outcome::Settled => writes.extend(settle(name, model, goal)),
            Outcome::RollBack(node) => {
                writes.push(condemn(name, model, node));
                let back = model
                    .assigned
                    .iter()
                    .filter(|(_, revision)| **revision != goal);
                let back = back.map(|(node, _)| node).filter(stays);
                writes.extend(back.map(|node| assign(at(node), goal)));
            }
        }
    }
    writes
}

fn assign(assignment: Assignment, revision: Revision) -> Write {
    let record = AssignmentRecord { revision };
    Write::put(keys::assignment(&assignment), encode(&record))
}

/// Notes the stable revision, if that is news.
fn settle(name: &ModelName, model: &ModelView, goal: Revision) -> Option<Write> {
    if model.revisions.stable == Some(goal) {
        return None;
    }
    let (served, files) = model.at(goal)?;
    // A resource came from JSON: it goes back to JSON.
    let resource = serde_json::to_value(served).unwrap_or_default();
    let record = StableRecord {
        resource,
        files: files.cloned(),
    };
    Some(Write::put(keys::stable(name), encode(&record)))
}

fn condemn(name: &ModelName, model: &ModelView, node: &NodeName) -> Write {
    let problem = model
        .failures
        .get(node)
        .map(|failed| failed.problem.clone());
    let problem = problem.unwrap_or_default();
    tracing::error!(model = %name, %node, problem, "the new revision does not load: rolling back");
    let record = CondemnedRecord {
        revision: model.revisions.wished,
        node: node.clone(),
        problem,
    };
    Write::put(keys::condemned(name), encode(&record))
}
