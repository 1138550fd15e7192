//! What a person should know about a model besides its phase.

use std::sync::Arc;

use flotilla_core::{NodeName, ReplicaReadiness};

use super::model_status::ModelStatus;
use crate::fleet::{FleetView, ModelView, NodeView};

impl ModelStatus {
    /// Returns the first line of what is most wrong with the model. `None` if nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let failing = self
            .replicas
            .iter()
            .find(|replica| !replica.error.is_empty());
        let error = failing.map(|replica| format!("{}: {}", replica.node, replica.error));
        let requests = self.replicas.iter().find_map(|replica| {
            let text = replica.failing_requests.as_ref()?;
            Some(format!("{}: {text}", replica.node))
        });
        let texts = [
            error,
            requests,
            self.last_error.clone(),
            self.fetch.clone(),
            self.unplaced_reason.clone(),
            self.rollback_reason.clone(),
            self.notes.first().cloned(),
        ];
        let text = texts.into_iter().flatten().next()?;
        text.lines().next().map(str::to_owned)
    }
}

/// Returns the conditions of a model that a person should know.
pub(super) fn notes(model: &ModelView, view: &FleetView) -> Vec<String> {
    let nodes = || {
        model
            .assigned
            .keys()
            .filter_map(|name| view.nodes.get(name))
    };
    let names = |nodes: &mut dyn Iterator<Item = &Arc<NodeView>>| {
        let names: Vec<_> = nodes.map(|node| node.name.as_str()).collect();
        names.join(", ")
    };
    let held = names(&mut nodes().filter(|node| node.keeps_models));
    let target = model.endpoints.revisions.target();
    let is_updating = model.assigned.values().any(|revision| *revision != target);
    let name = model.endpoints.model.name();
    let is_unheard = |node: &&Arc<NodeView>| {
        !node.keeps_models && node.replica_readiness(name) == ReplicaReadiness::Unknown
    };
    let unheard = names(&mut nodes().filter(is_unheard));
    let mut notes = Vec::new();
    if !held.is_empty() {
        notes.push(format!(
            "its replicas on {held} stay there for now: too many nodes were lost at once"
        ));
    }
    if is_updating && !unheard.is_empty() {
        notes.push(format!(
            "the rollout waits until this controller has heard from {unheard}"
        ));
    }
    let is_unreachable = |node: &&Arc<NodeView>| node.unheard;
    let unreachable = names(&mut nodes().filter(is_unreachable));
    if !unreachable.is_empty() {
        notes.push(format!(
            "its replicas on {unreachable} count as down here: the node is linked to other controllers, but not to this one"
        ));
    }
    notes
}

/// Returns what the last requests to a replica said, if none was answered since they began to fail.
pub(super) fn failing_requests(model: &ModelView, node: &NodeName) -> Option<String> {
    let mut replicas = model.endpoints.replicas().iter();
    let failing = replicas
        .find(|replica| replica.node == *node)?
        .stats
        .failing_requests()?;
    Some(match failing.count {
        1 => format!("the last attempt failed: {}", failing.last_error),
        count => format!("the last {count} attempts failed: {}", failing.last_error),
    })
}

/// Returns the first line of the last failure to load the model, with its node.
pub(super) fn last_error(model: &ModelView) -> Option<String> {
    let (node, failure) = model.failures.iter().next()?;
    let line = failure.error.lines().next().unwrap_or_default();
    Some(format!("{node}: {line}"))
}
