//! Serves the pending queue: keeps sleeping models awake that a request wakes up, and rejects the
//! waiters of models that cannot be placed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::generate::RequestError;
use flotilla_dispatch::{PendingQueue, Waiter, WakeUpReceiver};
use tokio_util::sync::CancellationToken;

use crate::fleet::FleetHandle;
use crate::reconcile;

/// How long a wake-up keeps a placeholder in the pending queue, so that the leader loads the model.
const WAKE_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until `stop` is cancelled. Each of the `wake_ups` enters a placeholder into `pending`, so that
/// the model is loaded; waiters of a model that cannot be placed are rejected.
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
        let expiry = oldest.unwrap_or_else(Instant::now) + WAKE_UP_TIMEOUT;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(expiry.into()), if oldest.is_some() => {
                placeholders.retain(|_, (since, _)| since.elapsed() < WAKE_UP_TIMEOUT);
                continue;
            }
            Some(name) = wake_ups.recv() => {
                if let Entry::Vacant(entry) = placeholders.entry(name) {
                    let waiter = pending.enter_placeholder(entry.key());
                    entry.insert((Instant::now(), waiter));
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
        let waiting_models: Vec<ModelName> = counts.borrow_and_update().keys().cloned().collect();
        let view = fleet.view();
        placeholders.retain(|name, _| {
            let model = view.models.get(name);
            model.is_some_and(|model| model.endpoints.replicas().is_empty())
        });
        let known = waiting_models.into_iter().filter(|name| {
            // The leader sees a waiting request once the view contains it.
            let model = view.models.get(name);
            model.is_some_and(|model| model.waiting > 0)
        });
        let known: Vec<_> = known.collect();
        if known.is_empty() {
            continue;
        }
        // Solving the placement of a large fleet takes long.
        let explained = tokio::task::spawn_blocking({
            let view = view.clone();
            move || {
                let explain =
                    |name: ModelName| Some((reconcile::explain_wait(&view, &name)?, name));
                known.into_iter().filter_map(explain).collect::<Vec<_>>()
            }
        });
        for (reason, name) in explained.await.unwrap_or_default() {
            let reason = format!("No replica of the model '{name}' will answer soon: {reason}.");
            pending.reject_all(&name, &RequestError::unavailable(reason));
        }
    }
}
