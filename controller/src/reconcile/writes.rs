//! Turns a placement plan and the next steps of rollouts into writes to the store.

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_core::json_value;
use flotilla_core::placement::{self, Assignment, PlacementPlan};
use flotilla_core::{ModelName, ModelRevision, NodeName};

use super::Observations;
use super::problem::ProblemInputs;
use super::rollout_step::RolloutAction;
use crate::fleet::records::encode;
use crate::fleet::{
    AssignmentRecord, FailedRevisionRecord, FleetView, ModelView, NodePhase, StableRecord,
};
use crate::store::{StoreWrite, keys};

/// Number of assignments that a line of the log names.
const MAX_LOGGED: usize = 8;
/// The most of a failure's reason that is stored, in bytes.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// Plans what to write so that the fleet of this view approaches the desired state.
pub(super) fn plan(view: &FleetView, observations: &Observations, now: Instant) -> Vec<StoreWrite> {
    let inputs = ProblemInputs::new(view, observations, now);
    let plan = placement::solve(&inputs.problem(view, now));
    if !plan.is_empty() {
        tracing::info!(
            assign = names(&plan.assign),
            evict = names(&plan.evict),
            "the placement changes"
        );
    }
    let mut writes = given_up_marks(view);
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
        if let Some(input) = inputs.get(name) {
            let rollout = ModelRollout {
                name,
                model,
                target: input.revisions.target(),
                plan: &plan,
            };
            writes.extend(rollout.writes(&input.action));
        }
    }
    writes
}

/// Records which lost nodes are given up, so that a controller that starts does not take them for lost
/// at once with a node that fails then.
fn given_up_marks(view: &FleetView) -> Vec<StoreWrite> {
    let given_up = view.nodes.iter().filter(|(_, node)| node.is_given_up());
    let unmarked = given_up.filter(|(name, _)| !view.given_up.contains(*name));
    let marks = unmarked.map(|(name, _)| StoreWrite::put(keys::given_up(name), b"{}".to_vec()));
    let is_outdated = |name: &&NodeName| {
        let node = view.nodes.get(*name);
        node.is_none_or(|node| matches!(node.phase, NodePhase::Joining | NodePhase::Ready))
    };
    let outdated = view.given_up.iter().filter(is_outdated);
    let deletes = outdated.map(|name| StoreWrite::Delete {
        key: keys::given_up(name),
    });
    marks.chain(deletes).collect()
}

/// Returns the first assignments as a text for the log, such as `a on n1, b on n2 and 3 more`.
fn names(assignments: &BTreeSet<Assignment>) -> String {
    let first = assignments.iter().take(MAX_LOGGED);
    let texts: Vec<String> = first
        .map(|a| format!("{} on {}", a.model, a.node))
        .collect();
    let text = texts.join(", ");
    match assignments.len().saturating_sub(MAX_LOGGED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// The rollout of one model beside a placement plan.
struct ModelRollout<'a> {
    name: &'a ModelName,
    model: &'a ModelView,
    /// The revision to serve.
    target: ModelRevision,
    plan: &'a PlacementPlan,
}

impl ModelRollout<'_> {
    /// The writes of the rollout's next action.
    fn writes(&self, action: &RolloutAction) -> Vec<StoreWrite> {
        let Self {
            name,
            model,
            target,
            ..
        } = *self;
        match action {
            RolloutAction::Wait => Vec::new(),
            RolloutAction::Change(nodes) => {
                let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                tracing::info!(model = %name, nodes = names.join(", "), "changing the revision");
                self.assign_target(nodes.iter())
            }
            // No other node can take the second replica: the only one changes, and requests wait
            // until it answers again.
            RolloutAction::Surge(node) if self.plan.missing.contains_key(name) => {
                tracing::info!(model = %name, %node, "changing the revision of the only replica");
                vec![assign(self.assignment_on(node), target)]
            }
            RolloutAction::Surge(_) => Vec::new(),
            RolloutAction::MarkStable => mark_stable(name, model, target).into_iter().collect(),
            RolloutAction::RollBack(node) => {
                let failure = model.failures.get(node);
                let error = failure.map_or(String::new(), |failure| failure.error.clone());
                self.roll_back(format!("it did not load on {node}: {error}"))
            }
            RolloutAction::RollBackFailing(health) => self.roll_back(format!(
                "{} of its {} requests failed",
                health.failures, health.requests
            )),
        }
    }

    /// Records why the desired revision has failed, and assigns the target revision, now the stable one, to
    /// all replicas with another.
    fn roll_back(&self, reason: String) -> Vec<StoreWrite> {
        let outdated = self.model.assigned.iter();
        let outdated = outdated.filter(|(_, revision)| **revision != self.target);
        let mut writes = vec![mark_failed(self.name, self.model, reason)];
        writes.extend(self.assign_target(outdated.map(|(node, _)| node)));
        writes
    }

    /// Assigns the target revision to the nodes that the plan does not evict the model from.
    fn assign_target<'n>(&self, nodes: impl Iterator<Item = &'n NodeName>) -> Vec<StoreWrite> {
        nodes
            .map(|node| self.assignment_on(node))
            .filter(|assignment| !self.plan.evict.contains(assignment))
            .map(|assignment| assign(assignment, self.target))
            .collect()
    }

    fn assignment_on(&self, node: &NodeName) -> Assignment {
        Assignment {
            node: node.clone(),
            model: self.name.clone(),
        }
    }
}

fn assign(assignment: Assignment, revision: ModelRevision) -> StoreWrite {
    let record = AssignmentRecord { revision };
    StoreWrite::put(keys::assignment(&assignment), encode(&record))
}

/// Records the target revision as the stable revision, unless it is recorded already.
fn mark_stable(name: &ModelName, model: &ModelView, target: ModelRevision) -> Option<StoreWrite> {
    if model.endpoints.revisions.stable == Some(target) {
        return None;
    }
    let (served, manifest) = model.at_revision(target)?;
    // The resource was parsed from JSON, so that converting it back cannot fail.
    let resource = json_value::to_value(served).unwrap_or_default();
    let record = StableRecord {
        resource,
        manifest: manifest.cloned(),
    };
    Some(StoreWrite::put(
        keys::stable_revision(name),
        encode(&record),
    ))
}

/// Records why the desired revision has failed.
fn mark_failed(name: &ModelName, model: &ModelView, mut reason: String) -> StoreWrite {
    reason.truncate(reason.floor_char_boundary(MAX_ERROR_BYTES));
    tracing::error!(model = %name, reason, "the new revision has failed: rolling back");
    let record = FailedRevisionRecord {
        revision: model.endpoints.revisions.desired,
        reason,
    };
    StoreWrite::put(keys::failed_revision(name), encode(&record))
}
