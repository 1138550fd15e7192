//! Looks after the requests that wait for the first replica of a model: wakes models up, and turns
//! waiters away when a model cannot be placed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::generate::RequestError;
use flotilla_dispatch::{PendingQueue, Waiter, WakeUpReceiver};
use tokio_util::sync::CancellationToken;

use crate::fleet::FleetHandle;
use crate::reconcile;

/// How long a model that was asked to wake up counts as waited for.
const WAKE_UP: Duration = Duration::from_secs(10);

/// Until `stop`, waits in `pending` for the models of `wake_ups`, so that they are loaded, and turns
/// away those that wait for a model that cannot be placed.
pub(crate) async fn run(
    fleet: FleetHandle,
    pending: PendingQueue,
    mut wake_ups: WakeUpReceiver,
    stop: CancellationToken,
) {
    let mut changes = fleet.changes();
    let mut counts = pending.counts();
    let mut placeholders: HashMap<ModelName, (Instant, Waiter)> = HashMap::new();
    loop {
        let oldest = placeholders.values().map(|(since, _)| *since).min();
        let expiry = oldest.unwrap_or_else(Instant::now) + WAKE_UP;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(expiry.into()), if oldest.is_some() => {
                placeholders.retain(|_, (since, _)| since.elapsed() < WAKE_UP);
                continue;
            }
            Some(name) = wake_ups.recv() => {
                if !placeholders.contains_key(&name) {
                    let waiter = pending.enter_placeholder(&name);
                    placeholders.insert(name, (Instant::now(), waiter));
                }
                continue;
            }
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            changed = counts.changed() => if changed.is_err() {
                return;
            },
        }
        changes.borrow_and_update();
        let waited_for: Vec<ModelName> = counts.borrow_and_update().keys().cloned().collect();
        let view = fleet.view();
        placeholders.retain(|name, _| {
            let model = view.models.get(name);
            model.is_some_and(|model| model.endpoints.replicas().is_empty())
        });
        let unassigned = waited_for.into_iter().filter(|name| {
            // The leader knows that a request waits once the view says so.
            let model = view.models.get(name);
            model.is_some_and(|model| model.assigned.is_empty() && model.waiting > 0)
        });
        for name in unassigned {
            if let Some(unplaced) = reconcile::explain(&view, &name) {
                let reason = format!("The model '{name}' cannot be placed: {unplaced}.");
                pending.reject_all(&name, &RequestError::Unavailable(reason));
            }
        }
    }
}
