//! The loop that makes the fleet follow the wish: view → [`placement::solve`] → assignments.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::placement::{self, Assignment, ModelDemand, NodeCapacity, Plan};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, FleetView, NodePhase};
use crate::store::{Expect, Leadership, MAX_WRITES, Store, StoreError, Write, keys};

/// Pause after the store failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Runs until `stop`.
pub(crate) async fn run(
    fleet: Fleet,
    store: Arc<dyn Store>,
    leader: watch::Receiver<Arc<dyn Leadership>>,
    stop: CancellationToken,
) {
    let mut changes = fleet.changes();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
        // What is planned from a view becomes part of a later view, which wakes this loop
        // again; a plan that changes nothing ends the chain.
        //
        // The fence is taken before the view is looked at: what an earlier leadership
        // planned cannot be written in a later one.
        let fence = leader.borrow().fence();
        let view = fleet.view();
        if !view.synced {
            continue;
        }
        if let Err(error) = carry_out(store.as_ref(), fence, plan(&view)).await {
            tracing::error!(%error, "assignments could not be written");
            changes.mark_changed();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
    }
}

/// What to change in the assignments of this view.
#[must_use]
pub(crate) fn plan(view: &FleetView) -> Plan {
    let nodes: Vec<_> = view
        .nodes
        .values()
        .filter(|node| node.phase != NodePhase::Lost)
        .map(|node| NodeCapacity {
            name: node.name.clone(),
            memory: node.record.memory,
        })
        .collect();
    let models: Vec<_> = view
        .models
        .values()
        .map(|model| ModelDemand {
            name: model.model.name().clone(),
            replicas: model.model.spec.replicas,
            memory: model.model.spec.memory,
            refused_by: model.failures.clone(),
        })
        .collect();
    let of_models = view.models.iter().flat_map(|(name, model)| {
        model.assigned.iter().map(|node| Assignment {
            node: node.clone(),
            model: name.clone(),
        })
    });
    // Assignments of models that are gone are known from the nodes only.
    let of_nodes = view.nodes.iter().flat_map(|(name, node)| {
        node.assigned.iter().map(|model| Assignment {
            node: name.clone(),
            model: model.clone(),
        })
    });
    let current: BTreeSet<_> = of_models.chain(of_nodes).collect();
    placement::solve(&nodes, &models, &current)
}

async fn carry_out(store: &dyn Store, fence: Option<Write>, plan: Plan) -> Result<(), StoreError> {
    let evictions = plan.evict.iter().map(|assignment| Write::Delete {
        key: keys::assignment(assignment),
    });
    let assignments = plan.assign.iter().map(|assignment| Write::Put {
        key: keys::assignment(assignment),
        value: b"{}".to_vec(),
        expect: Expect::Any,
    });
    let writes: Vec<_> = evictions.chain(assignments).collect();
    if writes.is_empty() {
        return Ok(());
    }
    tracing::info!(assign = ?plan.assign, evict = ?plan.evict, "placement changes");
    // Each part is right by itself, since a later plan does what is missing.
    for part in writes.chunks(MAX_WRITES - 1) {
        store
            .write(fence.iter().chain(part).cloned().collect())
            .await?;
    }
    Ok(())
}
