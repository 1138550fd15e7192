//! What a person should know about a model besides its phase.

use std::sync::Arc;

use flotilla_core::{NodeName, ReplicaReadiness};

use flotilla_proto::desired_state_parts::{MAX_MODEL_BYTES, MAX_STATE_BYTES};

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
    let leaves_out = |node: &&Arc<NodeView>| {
        let link = node.link.as_ref();
        link.is_some_and(|link| link.leaves_out(name))
    };
    let left_out = names(&mut nodes().filter(leaves_out));
    let mut notes = Vec::new();
    if !left_out.is_empty() {
        notes.push(format!(
            "it is left out on {left_out}: the list of its files and its settings have more than {} MiB, or those of all models there more than {} MiB. Give it fewer files, or the node fewer models",
            MAX_MODEL_BYTES >> 20,
            MAX_STATE_BYTES >> 20
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{FleetEvent, FleetHandle, LinkRecord, NodeLink, NodeRecord, SessionId};
    use crate::store::{StoreEntry, StoreRevision, keys};
    use flotilla_core::ModelName;
    use flotilla_core::placement::Assignment;
    use serde_json::json;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn model_that_is_left_out_on_a_node_says_so() {
        let (node, model) = (NodeName::new("n1").unwrap(), ModelName::new("m").unwrap());
        let stop = CancellationToken::new();
        let (fleet, run) = FleetHandle::new("c", Duration::from_secs(5), stop.clone());
        let task = tokio::spawn(run);
        let entry = |key, value: serde_json::Value| StoreEntry {
            key,
            value: value.to_string().into_bytes(),
            revision: StoreRevision(1),
        };
        let assignment = Assignment {
            node: node.clone(),
            model: model.clone(),
        };
        let resource = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model",
            "metadata": {"name": "m"}, "spec": {"engine": "simulated"},
        });
        let entries = vec![
            entry(
                keys::model(&model),
                json!({"created": 1, "resource": resource}),
            ),
            entry(keys::assignment(&assignment), json!({"revision": 1})),
        ];
        let revision = StoreRevision(1);
        fleet
            .send(FleetEvent::StoreSnapshot { entries, revision })
            .await;
        let session = SessionId("s".into());
        let link = NodeLink::new(node.clone(), session, LinkRecord::default(), stop.clone());
        let link = Arc::new(link);
        fleet
            .send(FleetEvent::NodeJoined {
                node: node.clone(),
                record: NodeRecord::example(),
                link: link.clone(),
            })
            .await;
        let mut changes = fleet.changes();
        while !fleet.view().nodes.contains_key(&node) {
            changes.changed().await.unwrap();
        }
        let view = fleet.view();
        let notes = || notes(&view.models[&model], &view);
        let is_left_out = || notes().iter().any(|note| note.contains("left out on n1"));
        assert!(!is_left_out());
        assert!(link.set_left_out(vec!["m".into()]) && is_left_out());
        assert!(!link.set_left_out(vec!["m".into()]));
        assert!(link.set_left_out(Vec::new()) && !is_left_out());
        stop.cancel();
        task.await.unwrap();
    }
}
