//! Turns a placement plan and the next steps of rollouts into writes to the store.

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_core::artifact::Manifest;
use flotilla_core::json_value;
use flotilla_core::placement::{self, Assignment, PlacementPlan};
use flotilla_core::revision_trial::RevisionHealth;
use flotilla_core::spec::Model;
use flotilla_core::{ModelName, ModelRevision, NodeName};

use super::Observations;
use super::problem::ProblemInputs;
use super::rollout_step::RolloutAction;
use crate::fleet::records::encode;
use crate::fleet::{
    AssignmentRecord, FailedRevisionRecord, FleetView, ModelView, NodePhase, StableRecord,
};
use crate::store::{Precondition, StoreWrite, keys};

/// Number of assignments that a line of the log names.
const MAX_LOGGED: usize = 8;
/// The most of a failure's reason that is stored, in bytes.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// The writes of one pass.
#[derive(Debug, Default)]
pub(super) struct PlannedWrites {
    /// Assignments, and which lost nodes are given up.
    pub(super) placement: Vec<StoreWrite>,
    /// Stable and failed revisions, each after the requirement that its model has not changed: a model that
    /// is deleted meanwhile leaves none behind.
    pub(super) marks: Vec<StoreWrite>,
}

/// Plans what to write so that the fleet of this view approaches the desired state.
pub(super) fn plan(view: &FleetView, observations: &Observations, now: Instant) -> PlannedWrites {
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
    let mut marks = Vec::new();
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
            let ends_surge = matches!(input.action, RolloutAction::EndSurge(_));
            let adapter_is_missing = ends_surge
                && inputs
                    .adapters_of(name)
                    .any(|adapter| plan.missing.contains_key(adapter));
            writes.extend(rollout.assignments(&input.action, adapter_is_missing));
            marks.extend(rollout.mark(&input.action));
        }
    }
    PlannedWrites {
        placement: writes,
        marks: marks.into_iter().flatten().collect(),
    }
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
    /// Returns the assignments of the rollout's next action. `adapter_is_missing` says whether an adapter of
    /// the model misses a replica.
    fn assignments(&self, action: &RolloutAction, adapter_is_missing: bool) -> Vec<StoreWrite> {
        let Self { name, target, .. } = *self;
        match action {
            RolloutAction::Change(nodes) => {
                let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                tracing::info!(model = %name, nodes = names.join(", "), "changing the revision");
                self.assign_target(nodes.iter())
            }
            RolloutAction::EndSurge(nodes) if adapter_is_missing => {
                self.assign_target(nodes.iter())
            }
            // No other node can take the second replica: the only one changes, and requests wait
            // until it answers again.
            RolloutAction::Surge(node) if self.plan.missing.contains_key(name) => {
                tracing::info!(model = %name, %node, "changing the revision of the only replica");
                vec![assign(self.assignment_on(node), target)]
            }
            RolloutAction::RollBackFailing(health) if health.fails_most() => {
                let assigned = self.model.assigned.iter();
                let failing = assigned.filter(|(_, revision)| **revision != target);
                self.assign_target(failing.map(|(node, _)| node))
            }
            // The later passes go back step by step: replicas that answer most requests are needed.
            RolloutAction::RollBack(_) | RolloutAction::RollBackFailing(_) => Vec::new(),
            RolloutAction::Wait
            | RolloutAction::Surge(_)
            | RolloutAction::EndSurge(_)
            | RolloutAction::MarkStable
            | RolloutAction::MarkReplacedStable => Vec::new(),
        }
    }

    /// Returns the mark that the rollout's next action sets, after its requirement.
    fn mark(&self, action: &RolloutAction) -> Option<[StoreWrite; 2]> {
        let Self { name, model, .. } = *self;
        let mark = match action {
            RolloutAction::Wait
            | RolloutAction::Change(_)
            | RolloutAction::Surge(_)
            | RolloutAction::EndSurge(_) => None,
            RolloutAction::MarkStable => mark_stable(name, model, self.target),
            RolloutAction::MarkReplacedStable => {
                let replaced = model.replaced.as_ref()?;
                tracing::info!(model = %name, "recording the first revision, which is replaced already");
                let manifest = replaced.manifest.as_deref();
                Some(stable_record(name, &replaced.model, manifest))
            }
            RolloutAction::RollBack(node) => {
                let failure = model.failures.get(node);
                let error = failure.map_or(String::new(), |failure| failure.error.clone());
                let reason = format!("it did not load on {node}: {error}");
                Some(mark_failed(name, model, reason))
            }
            RolloutAction::RollBackFailing(RevisionHealth { requests, failures }) => {
                let reason = format!("{failures} of its {requests} requests failed");
                Some(mark_failed(name, model, reason))
            }
        }?;
        let unchanged = StoreWrite::Require {
            key: keys::model(name),
            precondition: Precondition::Revision(model.stored_revision),
        };
        Some([unchanged, mark])
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
    Some(stable_record(name, served, manifest))
}

/// Records a model, as it is at one of its revisions, as the stable revision.
fn stable_record(name: &ModelName, served: &Model, manifest: Option<&Manifest>) -> StoreWrite {
    // The resource was parsed from JSON, so that converting it back cannot fail.
    let resource = json_value::to_value(served).unwrap_or_default();
    let record = StableRecord {
        resource,
        manifest: manifest.cloned(),
    };
    StoreWrite::put(keys::stable_revision(name), encode(&record))
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

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use flotilla_core::StoreRevision;
    use flotilla_core::rollout::ModelRevisions;
    use flotilla_core::spec::{Model, ModelSpec};
    use flotilla_dispatch::ModelEndpoints;
    use flotilla_proto::v1::{ModelPhase, ModelStatus};

    use super::*;
    use crate::fleet::{ModelAtRevision, NodeReport};
    use crate::reconcile::problem::tests::node;
    use crate::store::{EmbeddedStore, Store, StoreError};

    const STABLE: ModelRevision = ModelRevision(1);
    const DESIRED: ModelRevision = ModelRevision(2);

    /// A model with this many replicas of the desired revision.
    pub(in crate::reconcile) fn model(replicas: usize) -> ModelView {
        let name = ModelName::new("m").unwrap();
        model_view(Model::new(name, ModelSpec::default()), replicas)
    }

    /// A model with this many replicas of the desired revision, on the nodes `n0` and so on.
    pub(crate) fn model_view(spec: Model, replicas: usize) -> ModelView {
        let revisions = ModelRevisions {
            desired: DESIRED,
            stable: Some(STABLE),
            failed: None,
        };
        let node = |i| NodeName::new(&format!("n{i}")).unwrap();
        ModelView {
            endpoints: Arc::new(ModelEndpoints::new(spec, revisions, Vec::new())),
            stored_revision: StoreRevision(1),
            manifest: None,
            loadable: true,
            fetch: None,
            stable_manifest: None,
            replaced: None,
            failed_revision: None,
            assigned: (0..replicas).map(|i| (node(i), DESIRED)).collect(),
            failures: Default::default(),
            memory: Default::default(),
            ignored_fields: Vec::new(),
            waiting: 0,
        }
    }

    fn rollout<'a>(model: &'a ModelView, plan: &'a PlacementPlan) -> ModelRollout<'a> {
        ModelRollout {
            name: model.endpoints.model.name(),
            model,
            target: STABLE,
            plan,
        }
    }

    #[test]
    fn rollback_changes_all_replicas_at_once_only_if_they_fail_most_requests() {
        let (model, plan) = (model(8), PlacementPlan::default());
        let rollout = rollout(&model, &plan);
        let changed = |action| {
            assert!(rollout.mark(&action).is_some());
            rollout.assignments(&action, false).len()
        };
        let failing = |failures| {
            let requests = 100;
            RolloutAction::RollBackFailing(RevisionHealth { requests, failures })
        };
        assert_eq!(changed(failing(30)), 0);
        assert_eq!(changed(failing(80)), 8);
        let node = NodeName::new("n0").unwrap();
        assert_eq!(changed(RolloutAction::RollBack(node)), 0);
    }

    #[test]
    fn replica_that_stays_for_an_adapter_at_the_end_of_a_surge_gets_the_target_revision() {
        let (model, mut plan) = (model(1), PlacementPlan::default());
        let node = NodeName::new("n0").unwrap();
        let action = RolloutAction::EndSurge(vec![node.clone()]);
        assert!(
            rollout(&model, &plan)
                .assignments(&action, false)
                .is_empty()
        );
        assert_eq!(rollout(&model, &plan).assignments(&action, true).len(), 1);
        let replica = rollout(&model, &plan).assignment_on(&node);
        plan.evict.insert(replica);
        assert!(rollout(&model, &plan).assignments(&action, true).is_empty());
    }

    #[test]
    fn first_revision_that_is_replaced_at_once_is_recorded_before_a_replica_changes() {
        let node_name = NodeName::new("n0").unwrap();
        let name = ModelName::new("m").unwrap();
        let replaced_model = |is_replaced: bool| {
            let mut model = model(1);
            let spec = model.endpoints.model.clone();
            let revisions = ModelRevisions {
                stable: None,
                ..model.endpoints.revisions
            };
            model.endpoints = Arc::new(ModelEndpoints::new(spec.clone(), revisions, Vec::new()));
            model.assigned = [(node_name.clone(), STABLE)].into();
            model.replaced = is_replaced.then(|| ModelAtRevision {
                revision: STABLE,
                model: Arc::new(spec),
                manifest: None,
            });
            model
        };
        let node = Arc::new(node(&node_name, &name));
        let plan_with = |phase: ModelPhase, model: ModelView| {
            let status = ModelStatus {
                name: name.to_string(),
                revision: STABLE.0,
                phase: i32::from(phase),
                ..ModelStatus::default()
            };
            node.report.store(Arc::new(NodeReport {
                models: vec![status],
                ..NodeReport::default()
            }));
            let view = FleetView {
                synced: true,
                nodes: [(node_name.clone(), node.clone())].into(),
                models: [(name.clone(), Arc::new(model))].into(),
                ..FleetView::default()
            };
            plan(&view, &Observations::default(), Instant::now())
        };
        let planned = plan_with(ModelPhase::Ready, replaced_model(true));
        assert!(planned.placement.is_empty(), "{planned:?}");
        let [_, StoreWrite::Put { key, .. }] = &planned.marks[..] else {
            panic!("{planned:?}");
        };
        assert_eq!(*key, keys::stable_revision(&name));
        // Nothing serves it: there is nothing to return to.
        let unserved = plan_with(ModelPhase::Failed, replaced_model(true));
        let first = plan_with(ModelPhase::Ready, replaced_model(false));
        for planned in [unserved, first] {
            assert!(planned.marks.is_empty(), "{planned:?}");
            assert_eq!(planned.placement.len(), 1, "{planned:?}");
        }
    }

    #[tokio::test]
    async fn model_that_is_deleted_during_a_pass_gets_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).await.unwrap();
        let (mut model, plan) = (model(1), PlacementPlan::default());
        let name = model.endpoints.model.name().clone();
        let applied = StoreWrite::put(keys::model(&name), b"{}".to_vec());
        let revision = store.write(vec![applied]).await.unwrap();
        model.stored_revision = revision;
        let node = NodeName::new("n0").unwrap();
        let mark = rollout(&model, &plan).mark(&RolloutAction::RollBack(node));
        let mark = Vec::from(mark.unwrap());
        store.write_all(None, mark.clone()).await.unwrap();
        let keys = [keys::model(&name), keys::failed_revision(&name)];
        let deletes = keys.map(|key| StoreWrite::Delete { key });
        store.write(deletes.into()).await.unwrap();
        let written = store.write_all(None, mark).await;
        assert!(
            matches!(written, Err(StoreError::Conflict(_))),
            "{written:?}"
        );
        let failed = store.get(&keys::failed_revision(&name)).await.unwrap();
        assert_eq!(failed, None);
    }
}
