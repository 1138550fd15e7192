//! The leader's control loop. It moves the fleet towards the desired state:
//! view → [`PlacementProblem`](flotilla_core::placement::PlacementProblem) with rollouts and scaling →
//! [`solve`](flotilla_core::placement::solve) → writes to the store.
//!
//! `problem.rs` assembles the problem from `node_capacity.rs` (nodes), `replica_count.rs` and
//! `model_scalers.rs` (how many replicas), `rollout_step.rs` and `surge.rs` (which revision next), and
//! `revision_trials.rs` (whether it answers).
//! `writes.rs` turns the plan into writes; `explanation.rs` says why replicas are missing.

mod explanation;
mod model_scalers;
mod node_capacity;
mod problem;
mod replica_count;
mod revision_trials;
mod rollout_step;
mod surge;
mod writes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetHandle, FleetView};
use crate::store::backoff::RetryDelays;
use crate::store::{Leadership, Store, StoreError};
pub(crate) use explanation::{explain, explain_waits, unplaced};
use model_scalers::{ModelScalers, SCALING_INTERVAL};
use revision_trials::RevisionTrials;
use writes::PlannedWrites;
#[cfg(test)]
pub(crate) use writes::tests::model_view;

/// Changes within this time are planned for together.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// What a leader has observed since it leads.
#[derive(Default)]
struct Observations {
    scalers: ModelScalers,
    trials: RevisionTrials,
}

/// Runs until `stop` is cancelled; plans and writes only while this controller leads.
pub(crate) async fn run(
    fleet: FleetHandle,
    store: Arc<dyn Store>,
    mut leader: watch::Receiver<Option<Arc<dyn Leadership>>>,
    stop: CancellationToken,
) {
    let mut changes = fleet.changes();
    let mut observations = Observations::default();
    let mut scaling = tokio::time::interval(SCALING_INTERVAL);
    let mut delays = RetryDelays::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            changed = leader.changed() => if changed.is_err() {
                return;
            },
            _ = scaling.tick() => {}
        }
        // The writes of a pass show up in a later view, which starts the next pass. The chain ends
        // with a plan that changes nothing.
        //
        // The fence is taken before the view is read, so that the plan of an earlier leadership
        // can never be written under a later one.
        let Some(leadership) = leader.borrow_and_update().clone() else {
            observations = Observations::default();
            continue;
        };
        tokio::time::sleep(DEBOUNCE).await;
        changes.borrow_and_update();
        let view = fleet.view();
        if !view.is_of_store() || view.store_error.is_some() {
            continue;
        }
        let writes;
        (observations, writes) = plan(view, observations).await;
        // Each write is correct by itself: what is missing after an error is part of the next plan.
        match write(store.as_ref(), leadership.as_ref(), writes).await {
            Ok(()) => delays.reset(),
            // The next pass tries again: it will be too large for as long as the model is.
            Err(error @ StoreError::TooLarge { .. }) => {
                tracing::error!(%error, "a part of the placement could not be written");
            }
            Err(error) => {
                if error.blocks_changes() {
                    // The monitored store has logged it once.
                    tracing::debug!(%error, "the placement could not be written");
                } else {
                    tracing::warn!(%error, "the placement could not be written");
                }
                changes.mark_changed();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = delays.wait() => {}
                }
            }
        }
    }
}

/// Writes what a pass planned.
async fn write(
    store: &dyn Store,
    leadership: &dyn Leadership,
    writes: PlannedWrites,
) -> Result<(), StoreError> {
    let PlannedWrites { placement, marks } = writes;
    store.write_all(leadership.fence(), placement).await?;
    match store.write_all(leadership.fence(), marks).await {
        // A model has changed: the next view shows it, and the marks of the others are planned again.
        Err(StoreError::Conflict(key)) => {
            tracing::debug!(key, "the revisions of models could not be marked");
            Ok(())
        }
        written => written,
    }
}

/// Plans what to write, on a thread that may block: for a large fleet it takes up to a second, in which
/// the threads of requests must not wait.
async fn plan(
    view: Arc<FleetView>,
    mut observations: Observations,
) -> (Observations, PlannedWrites) {
    let planned = tokio::task::spawn_blocking(move || {
        let now = Instant::now();
        observations.scalers.observe(&view, now);
        observations.trials.observe(&view, now);
        let writes = writes::plan(&view, &observations, now);
        (observations, writes)
    });
    planned.await.unwrap_or_else(|error| {
        tracing::error!(%error, "planning the placement has failed");
        (Observations::default(), PlannedWrites::default())
    })
}
