//! Explains why models have fewer replicas than desired, and why requests for them wait in vain.

use std::collections::BTreeMap;
use std::time::Instant;

use flotilla_core::ModelName;
use flotilla_core::placement::{
    self, PlacementPlan, PlacementProblem, Schedulability, UnplacedReplicas,
};

use super::problem::ProblemInputs;
use super::{Observations, node_capacity};
use crate::fleet::{FleetView, NodePhase};

/// Models of a view that are explained together: each one costs a pass over all nodes.
const MAX_EXPLAINED: usize = 20;

/// Explains why models of a view have fewer replicas than desired. Solves the placement once for each
/// view, which takes long in a large fleet. The models' current load is not known here, so that a model
/// that is scaled to zero counts as complete.
struct Explainer<'a> {
    view: &'a FleetView,
    inputs: ProblemInputs,
}

impl<'a> Explainer<'a> {
    fn new(view: &'a FleetView) -> Self {
        Self {
            view,
            inputs: ProblemInputs::new(view, &Observations::default(), Instant::now()),
        }
    }

    fn problem(&self) -> PlacementProblem<'_> {
        self.inputs.problem(self.view, Instant::now())
    }

    fn plan(&self, problem: &PlacementProblem<'_>) -> &'a PlacementPlan {
        self.view.plan.get_or_init(|| placement::solve(problem))
    }
}

/// Explains why models have fewer replicas than desired: the first ones of those that have.
pub(crate) fn unplaced(view: &FleetView) -> &BTreeMap<ModelName, UnplacedReplicas> {
    view.unplaced.get_or_init(|| {
        let explainer = Explainer::new(view);
        let problem = explainer.problem();
        let plan = explainer.plan(&problem);
        let missing = plan.missing.keys().take(MAX_EXPLAINED);
        missing
            .filter_map(|model| {
                let unplaced = placement::explain_plan(&problem, plan, model)?;
                Some((model.clone(), unplaced))
            })
            .collect()
    })
}

/// Explains why a model has fewer replicas than desired.
#[must_use]
pub(crate) fn explain(view: &FleetView, model: &ModelName) -> Option<UnplacedReplicas> {
    let unplaced = unplaced(view);
    if unplaced.contains_key(model) || unplaced.len() < MAX_EXPLAINED {
        return unplaced.get(model).cloned();
    }
    let explainer = Explainer::new(view);
    let problem = explainer.problem();
    placement::explain_plan(&problem, explainer.plan(&problem), model)
}

/// Explains why no request for these models can be answered soon, although it waits for a replica: none
/// can be placed, also when other models sleep and nodes that are away for a moment return, or the model
/// stays on lost nodes for now. Models of which a replica can be expected are left out.
#[must_use]
pub(crate) fn explain_waits(view: &FleetView, models: &[ModelName]) -> BTreeMap<ModelName, String> {
    let explainer = Explainer::new(view);
    let problem = explainer.problem();
    let mut with_returned_nodes = explainer.problem();
    for capacity in &mut with_returned_nodes.nodes {
        let node = view.nodes.get(capacity.name);
        if node.is_some_and(|node| node_capacity::may_return(node)) {
            capacity.schedulability = Schedulability::Schedulable;
        }
    }
    let explain = |model: &ModelName| {
        let reason = explain_wait(&explainer, &problem, &with_returned_nodes, model)?;
        Some((model.clone(), reason))
    };
    models.iter().filter_map(explain).collect()
}

/// Explains it for one model. In the problem `with_returned_nodes`, the nodes have returned that are away for
/// a moment.
fn explain_wait(
    explainer: &Explainer<'_>,
    problem: &PlacementProblem<'_>,
    with_returned_nodes: &PlacementProblem<'_>,
    model: &ModelName,
) -> Option<String> {
    let view = explainer.view;
    let assigned = view.models.get(model)?.assigned.keys();
    let nodes: Vec<_> = assigned.map(|name| view.nodes.get(name)).collect();
    if nodes
        .iter()
        .any(|node| node.is_none_or(|node| node.phase != NodePhase::Lost))
    {
        return None;
    }
    if let Some(unplaced) = placement::explain_plan(problem, explainer.plan(problem), model) {
        let may_be_placed = placement::fits_when_others_sleep(with_returned_nodes, model);
        return (!may_be_placed).then(|| format!("it cannot be placed: {unplaced}"));
    }
    let hold = view.placement_hold.as_ref();
    let is_held = nodes.into_iter().flatten().any(|node| node.keeps_models);
    hold.filter(|_| is_held)
        .map(|hold| format!("its node is lost. {hold}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{problem, writes};
    use flotilla_core::NodeName;
    use std::sync::Arc;

    #[test]
    fn requests_wait_while_a_node_may_return_and_not_once_all_are_lost() {
        let (name, model) = (NodeName::new("n1").unwrap(), writes::tests::model(0));
        let key = model.endpoints.model.name().clone();
        let model = Arc::new(model);
        let explained = |phase, cordoned| {
            let mut node = problem::tests::node(&name, &key);
            node.phase = phase;
            node.operation.cordoned = cordoned;
            node.assigned.clear();
            let view = FleetView {
                synced: true,
                nodes: [(name.clone(), Arc::new(node))].into(),
                models: [(key.clone(), model.clone())].into(),
                ..FleetView::default()
            };
            explain_waits(&view, std::slice::from_ref(&key)).remove(&key)
        };
        for phase in [NodePhase::Ready, NodePhase::Suspect, NodePhase::Joining] {
            assert_eq!(explained(phase, false), None, "{phase:?}");
            assert!(explained(phase, true).is_some(), "{phase:?}");
        }
        let reason = explained(NodePhase::Lost, false).unwrap();
        assert!(reason.contains("0/1 nodes"), "{reason}");
    }
}
