//! The leader's loop, which makes the fleet follow the wish: view → rollouts and scaling →
//! [`placement::solve`] → assignments.

mod changes;
mod problem;
mod scale;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::placement::{self, UnplacedReplicas};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetHandle, FleetView};
use crate::store::{Leadership, MAX_WRITES, Store, StoreError, StoreWrite};
use problem::ProblemInputs;
use scale::ModelScalers;

/// Pause after the store failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often load is looked at when nothing else happens.
const LOOK: Duration = Duration::from_secs(1);
/// Changes within this time are planned for together.
const GATHER: Duration = Duration::from_millis(5);

/// Runs until `stop`; acts while this controller leads.
pub(crate) async fn run(
    fleet: FleetHandle,
    store: Arc<dyn Store>,
    mut leader: watch::Receiver<Option<Arc<dyn Leadership>>>,
    stop: CancellationToken,
) {
    let mut changes = fleet.changes();
    let mut scalers = ModelScalers::default();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            changed = leader.changed() => if changed.is_err() {
                return;
            },
            _ = look.tick() => {}
        }
        // What is planned from a view becomes part of a later view, which wakes this loop
        // again; a plan that changes nothing ends the chain.
        //
        // The fence is taken before the view is looked at: what an earlier leadership
        // planned cannot be written in a later one.
        let Some(leadership) = leader.borrow_and_update().clone() else {
            scalers = ModelScalers::default();
            continue;
        };
        tokio::time::sleep(GATHER).await;
        changes.borrow_and_update();
        let view = fleet.view();
        if !view.synced || view.store_problem.is_some() {
            continue;
        }
        let now = Instant::now();
        scalers.observe(&view, now);
        let writes = changes::plan(&view, &scalers, now);
        if let Err(error) = carry_out(store.as_ref(), leadership.fence(), &writes).await {
            tracing::warn!(%error, "the placement could not be changed");
            changes.mark_changed();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
    }
}

/// Why a model of this view has fewer replicas than it should. Its own load is not known
/// here: asleep counts as it should be.
#[must_use]
pub(crate) fn explain(view: &FleetView, model: &ModelName) -> Option<UnplacedReplicas> {
    let inputs = ProblemInputs::new(view, &ModelScalers::default());
    placement::explain(&inputs.problem(view, Instant::now()), model)
}

/// The models of this view that miss replicas.
#[must_use]
pub(crate) fn missing(view: &FleetView) -> Vec<ModelName> {
    let inputs = ProblemInputs::new(view, &ModelScalers::default());
    let plan = placement::solve(&inputs.problem(view, Instant::now()));
    plan.missing.into_keys().collect()
}

async fn carry_out(
    store: &dyn Store,
    fence: Option<StoreWrite>,
    writes: &[StoreWrite],
) -> Result<(), StoreError> {
    // Each part is right by itself, since a later plan does what is missing.
    for part in writes.chunks(MAX_WRITES - 1) {
        store
            .write(fence.iter().chain(part).cloned().collect())
            .await?;
    }
    Ok(())
}
