//! Serves the pending queue: keeps sleeping models awake that a request wakes up, and rejects the
//! waiters of models that cannot be placed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::generate::RequestError;
use flotilla_dispatch::{PendingQueue, Waiter, WakeUpReceiver};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetHandle, FleetView};
use crate::reconcile;

/// How long a wake-up keeps a placeholder in the pending queue, so that the leader loads the model.
const WAKE_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Explains why no request for some of the models can be answered soon. Solves the placement, which
/// takes long in a large fleet.
type ExplainWaits = fn(&FleetView, &[ModelName]) -> BTreeMap<ModelName, String>;

/// Runs until `stop` is cancelled. Each of the `wake_ups` enters a placeholder into `pending`, so that
/// the model is loaded; waiters of a model that cannot be placed are rejected.
pub(crate) async fn run(
    fleet: FleetHandle,
    pending: PendingQueue,
    wake_ups: WakeUpReceiver,
    stop: CancellationToken,
) {
    let explanations = Explanations::new(reconcile::explain_waits);
    serve(fleet, pending, wake_ups, explanations, stop).await;
}

async fn serve(
    fleet: FleetHandle,
    pending: PendingQueue,
    mut wake_ups: WakeUpReceiver,
    mut explanations: Explanations,
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
            () = explanations.wait() => {}
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
        for (name, reason) in explanations.get(&view, known.collect()) {
            let reason = format!("No replica of the model '{name}' will answer soon: {reason}.");
            pending.reject_all(name, &RequestError::unavailable(reason));
        }
    }
}

/// Why models cannot answer; without a reason if a replica can be expected.
type WaitReasons = BTreeMap<ModelName, Option<String>>;

/// What is known about the waiters of one view, and the computation of more.
struct Explanations {
    explain: ExplainWaits,
    /// The view that the explanations are about.
    generation: u64,
    /// The models that have been explained.
    reasons: WaitReasons,
    /// It returns the view and what it has explained.
    running: Option<JoinHandle<(u64, WaitReasons)>>,
}

impl Explanations {
    fn new(explain: ExplainWaits) -> Self {
        Self {
            explain,
            generation: 0,
            reasons: BTreeMap::new(),
            running: None,
        }
    }

    /// Waits until a computation has ended. Waits for ever while none runs. Cancel-safe.
    async fn wait(&mut self) {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let ended = running.await;
        self.running = None;
        match ended {
            Ok((generation, reasons)) => {
                if generation != self.generation {
                    self.generation = generation;
                    self.reasons.clear();
                }
                self.reasons.extend(reasons);
            }
            Err(error) => tracing::error!(%error, "explaining why requests wait has failed"),
        }
    }

    /// Returns the models among `waiting` that cannot be placed in this view, as far as it is known. What
    /// is not known begins to be computed; one computation runs at a time. An explanation of an earlier
    /// view says nothing: the replica may come in this one.
    fn get(
        &mut self,
        view: &Arc<FleetView>,
        waiting: Vec<ModelName>,
    ) -> impl Iterator<Item = (&ModelName, &String)> {
        let is_current = self.generation == view.generation;
        let (known, unknown): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|name| is_current && self.reasons.contains_key(name));
        if !unknown.is_empty() && self.running.is_none() {
            let (view, explain) = (view.clone(), self.explain);
            self.running = Some(tokio::task::spawn_blocking(move || {
                let mut reasons = explain(&view, &unknown);
                let explained = unknown.into_iter().map(|name| {
                    let reason = reasons.remove(&name);
                    (name, reason)
                });
                (view.generation, explained.collect())
            }));
        }
        let reasons = self.reasons.iter();
        reasons.filter_map(move |(name, reason)| {
            let reason = reason.as_ref()?;
            known.contains(name).then_some((name, reason))
        })
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use flotilla_core::StoreRevision;
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;
    use crate::fleet::FleetEvent;
    use crate::store::{StoreChange, StoreEntry, keys};

    /// An explanation that is computed: the view, and the sender of its result.
    type Computation = (u64, std::sync::mpsc::Sender<bool>);

    static COMPUTATIONS: Mutex<Vec<Computation>> = Mutex::new(Vec::new());

    /// Waits until the test says whether the models can be placed in this view.
    fn explain(view: &FleetView, models: &[ModelName]) -> BTreeMap<ModelName, String> {
        let (sender, receiver) = std::sync::mpsc::channel();
        COMPUTATIONS.lock().push((view.generation, sender));
        let unplaced = receiver.recv().unwrap();
        let reason = |name: &ModelName| (name.clone(), format!("view {}", view.generation));
        models.iter().filter(|_| unplaced).map(reason).collect()
    }

    async fn computation() -> Computation {
        loop {
            if let Some(computation) = COMPUTATIONS.lock().pop() {
                return computation;
            }
            tokio::task::yield_now().await;
        }
    }

    fn entry(key: String, value: &serde_json::Value) -> StoreEntry {
        StoreEntry {
            key,
            value: serde_json::to_vec(value).unwrap(),
            revision: StoreRevision(1),
        }
    }

    #[tokio::test]
    async fn request_is_rejected_by_an_explanation_of_the_current_view_and_wake_ups_do_not_wait_for_it()
     {
        let stop = CancellationToken::new();
        let (fleet, run_fleet) = FleetHandle::new("c", Duration::from_secs(5), stop.clone());
        let fleet_task = tokio::spawn(run_fleet);
        let model = ModelName::new("m").unwrap();
        let resource = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model",
            "metadata": {"name": "m"}, "spec": {"engine": "simulated"},
        });
        let stored = vec![
            entry(
                keys::model(&model),
                &json!({"created": 1, "resource": resource}),
            ),
            entry(keys::waiting(&model, "c"), &json!({"requests": 1})),
        ];
        let (pending, wake_ups) = PendingQueue::new();
        let waiter = pending.enter_placeholder(&model);
        let (rejected, mut rejection) = oneshot::channel();
        tokio::spawn(async move {
            let mut waiter = waiter;
            let _ = rejected.send(waiter.wait_for_rejection().await);
        });
        let explanations = Explanations::new(explain);
        let served = serve(
            fleet.clone(),
            pending.clone(),
            wake_ups,
            explanations,
            stop.clone(),
        );
        let served = tokio::spawn(served);
        let revision = StoreRevision(1);
        fleet
            .send(FleetEvent::StoreSnapshot {
                entries: stored,
                revision,
            })
            .await;
        let (first, answer) = computation().await;

        // While it is computed, a wake-up is served and the view changes.
        let mut counts = pending.counts();
        pending.wake_up(&model);
        counts
            .wait_for(|counts| counts.get(&model) == Some(&2))
            .await
            .unwrap();
        let change = StoreChange::Put(entry(keys::waiting(&model, "d"), &json!({"requests": 1})));
        fleet.send(FleetEvent::StoreChanged(change)).await;
        fleet
            .changes()
            .wait_for(|generation| *generation > first)
            .await
            .unwrap();
        answer.send(true).unwrap();

        let (second, answer) = computation().await;
        assert!(second > first);
        assert!(
            rejection.try_recv().is_err(),
            "rejected by an outdated view"
        );
        answer.send(true).unwrap();
        let error = rejection.await.unwrap();
        assert!(
            error.to_string().contains(&format!("view {second}")),
            "{error}"
        );
        stop.cancel();
        served.await.unwrap();
        fleet_task.await.unwrap();
    }
}
