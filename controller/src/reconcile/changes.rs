//! A plan as writes to the store.

use std::time::Instant;

use flotilla_core::ModelRevision;
use flotilla_core::placement::{self, Assignment};
use flotilla_core::{ModelName, NodeName};

use super::problem::{ProblemInputs, RolloutAction};
use super::scale::ModelScalers;
use crate::fleet::records::encode;
use crate::fleet::{AssignmentRecord, FailedRevisionRecord, FleetView, ModelView, StableRecord};
use crate::store::{StoreWrite, keys};

/// What the leader has to write so that the fleet of this view follows the wish.
pub(super) fn plan(view: &FleetView, scalers: &ModelScalers, now: Instant) -> Vec<StoreWrite> {
    let inputs = ProblemInputs::new(view, scalers);
    let plan = placement::solve(&inputs.problem(view, now));
    if !plan.is_empty() {
        tracing::info!(assign = ?plan.assign, evict = ?plan.evict, "placement changes");
    }
    let mut writes = Vec::new();
    for assignment in &plan.evict {
        let key = keys::assignment(assignment);
        writes.push(StoreWrite::Delete { key });
    }
    for assignment in &plan.assign {
        if let Some(input) = inputs.get(&assignment.model) {
            writes.push(assign(assignment.clone(), input.revisions.target()));
        }
    }
    for (name, model) in &view.models {
        let Some(input) = inputs.get(name) else {
            continue;
        };
        let goal = input.revisions.target();
        let at = |node: &NodeName| Assignment {
            node: node.clone(),
            model: name.clone(),
        };
        let stays = |node: &&NodeName| !plan.evict.contains(&at(node));
        match &input.step {
            RolloutAction::Wait => {}
            RolloutAction::Change(nodes) => {
                tracing::info!(model = %name, ?nodes, "changing the revision");
                writes.extend(
                    nodes
                        .iter()
                        .filter(stays)
                        .map(|node| assign(at(node), goal)),
                );
            }
            // Nowhere else to go: there is a gap, which requests wait out.
            RolloutAction::Surge(node) if plan.missing.contains_key(name) => {
                tracing::info!(model = %name, %node, "changing the revision of the only replica");
                writes.push(assign(at(node), goal));
            }
            RolloutAction::Surge(_) => {}
            RolloutAction::Settled => writes.extend(settle(name, model, goal)),
            RolloutAction::RollBack(node) => {
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

fn assign(assignment: Assignment, revision: ModelRevision) -> StoreWrite {
    let record = AssignmentRecord { revision };
    StoreWrite::put(keys::assignment(&assignment), encode(&record))
}

/// Notes the stable revision, if that is news.
fn settle(name: &ModelName, model: &ModelView, goal: ModelRevision) -> Option<StoreWrite> {
    if model.revisions.stable == Some(goal) {
        return None;
    }
    let (served, files) = model.at(goal)?;
    // A resource came from JSON: it goes back to JSON.
    let resource = serde_json::to_value(served).unwrap_or_default();
    let record = StableRecord {
        resource,
        manifest: files.cloned(),
    };
    Some(StoreWrite::put(
        keys::stable_revision(name),
        encode(&record),
    ))
}

fn condemn(name: &ModelName, model: &ModelView, node: &NodeName) -> StoreWrite {
    let problem = model
        .failures
        .get(node)
        .map(|failed| failed.problem.clone());
    let problem = problem.unwrap_or_default();
    tracing::error!(model = %name, %node, problem, "the new revision does not load: rolling back");
    let record = FailedRevisionRecord {
        revision: model.revisions.desired,
        node: node.clone(),
        error: problem,
    };
    StoreWrite::put(keys::failed_revision(name), encode(&record))
}
