//! Serves the pending queue: keeps sleeping models awake that a request wakes up, and rejects the
//! waiters of models that cannot be placed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use flotilla_core::{ModelName, ModelRevision, NodeName};
use flotilla_dispatch::{PendingQueue, Waiter, WakeUpReceiver};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetHandle, FleetView};
use crate::reconcile;

/// How long a wake-up keeps a placeholder in the pending queue, so that the leader loads the model.
const WAKE_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a computation that has panicked the next one begins at the earliest.
const RESUME_DELAY: Duration = Duration::from_secs(1);

/// Explains why no request for some of the models can be answered soon. Solves the placement, which
/// takes long in a large fleet.
type ExplainWaits =
    Arc<dyn Fn(&FleetView, &[ModelName]) -> BTreeMap<ModelName, String> + Send + Sync>;

/// Runs until `stop` is cancelled. Each of the `wake_ups` enters a placeholder into `pending`, so that
/// the model is loaded; waiters of a model that cannot be placed are rejected.
pub(crate) async fn run(
    fleet: FleetHandle,
    pending: PendingQueue,
    wake_ups: WakeUpReceiver,
    stop: CancellationToken,
) {
    let explanations = Explanations::new(Arc::new(reconcile::explain_waits));
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
        // Counted before the view is read: the view is not older than any of these requests.
        let arrivals = pending.arrivals();
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
        for refusal in explanations.get(&view, arrivals, known.collect()) {
            let WaitRefusal {
                model,
                arrived_before,
                reason,
            } = refusal;
            let reason = format!("No replica of the model '{model}' will answer soon: {reason}.");
            pending.reject_earlier(&model, arrived_before, &RequestError::unavailable(reason));
        }
    }
}

/// The explanations of one view.
#[derive(Default)]
struct ExplainedView {
    generation: u64,
    models: BTreeMap<ModelName, WaitReason>,
}

/// Why a model cannot answer.
struct WaitReason {
    /// `None` if a replica can be expected.
    text: Option<String>,
    /// The assignments of the model.
    assigned: BTreeMap<NodeName, ModelRevision>,
    /// The number of waiters that had entered when the view was read.
    arrivals: u64,
}

/// The waiters of a model that are rejected, and why.
struct WaitRefusal {
    model: ModelName,
    /// Waiters with a lower arrival number are rejected.
    arrived_before: u64,
    reason: String,
}

/// The explanations of the latest view that was explained, and the computation of those of the next one.
struct Explanations {
    explain: ExplainWaits,
    latest: ExplainedView,
    /// Whether nobody has been rejected by the latest explanations yet.
    is_new: bool,
    running: Option<JoinHandle<(ExplainedView, Duration)>>,
    /// The next computation begins at this time at the earliest.
    resume_at: Instant,
    /// Whether a computation waits for this time.
    is_paused: bool,
}

impl Explanations {
    fn new(explain: ExplainWaits) -> Self {
        Self {
            explain,
            latest: ExplainedView::default(),
            is_new: false,
            running: None,
            resume_at: Instant::now(),
            is_paused: false,
        }
    }

    /// Waits until a computation has ended or can begin. Waits for ever if there is none. Cancel-safe.
    async fn wait(&mut self) {
        let Some(running) = &mut self.running else {
            if self.is_paused {
                tokio::time::sleep_until(self.resume_at.into()).await;
                self.is_paused = false;
                return;
            }
            return std::future::pending().await;
        };
        let ended = running.await;
        self.running = None;
        match ended {
            Ok((explained, took)) => {
                // Where views change all the time, the computations take half of the time of a thread.
                self.resume_at = Instant::now() + took;
                if explained.generation == self.latest.generation {
                    self.latest.models.extend(explained.models);
                } else {
                    self.latest = explained;
                }
                self.is_new = true;
            }
            Err(error) => {
                tracing::error!(%error, "explaining why requests wait has failed: it is tried again");
                self.resume_at = Instant::now() + RESUME_DELAY;
            }
        }
    }

    /// Returns which of the `waiting` models cannot answer, and why, as far as it is known. What is not
    /// known of this view begins to be computed; one computation runs at a time.
    ///
    /// `arrivals` is the number of waiters that had entered when the view was read.
    ///
    /// Views may change faster than they are explained. So the explanation of an earlier view counts once,
    /// when it has been computed, for the requests that were waiting then, unless the model has been
    /// assigned to other nodes since.
    fn get(
        &mut self,
        view: &Arc<FleetView>,
        arrivals: u64,
        waiting: Vec<ModelName>,
    ) -> Vec<WaitRefusal> {
        let is_current = self.latest.generation == view.generation;
        let is_new = std::mem::take(&mut self.is_new);
        let unexplained =
            |name: &&ModelName| !is_current || !self.latest.models.contains_key(*name);
        let unexplained: Vec<_> = waiting.iter().filter(unexplained).cloned().collect();
        if !unexplained.is_empty() && self.running.is_none() {
            self.start(view, arrivals, unexplained);
        }
        let refusal = |model: ModelName| {
            let reason = self.latest.models.get(&model)?;
            let assigned = &view.models.get(&model)?.assigned;
            let counts = is_current || (is_new && *assigned == reason.assigned);
            let text = reason.text.clone().filter(|_| counts)?;
            Some(WaitRefusal {
                model,
                arrived_before: if is_current {
                    arrivals
                } else {
                    reason.arrivals
                },
                reason: text,
            })
        };
        waiting.into_iter().filter_map(refusal).collect()
    }

    /// Begins to explain a view, or notes that it is to be explained after the pause.
    fn start(&mut self, view: &Arc<FleetView>, arrivals: u64, models: Vec<ModelName>) {
        let began = Instant::now();
        if began < self.resume_at {
            self.is_paused = true;
            return;
        }
        let (view, explain) = (view.clone(), self.explain.clone());
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut texts = explain(&view, &models);
            let explained = models.into_iter().map(|name| {
                let model = view.models.get(&name);
                let reason = WaitReason {
                    text: texts.remove(&name),
                    assigned: model
                        .map(|model| model.assigned.clone())
                        .unwrap_or_default(),
                    arrivals,
                };
                (name, reason)
            });
            let explained = ExplainedView {
                generation: view.generation,
                models: explained.collect(),
            };
            (explained, began.elapsed())
        }));
    }
}

#[cfg(test)]
mod tests {
    use flotilla_core::StoreRevision;
    use flotilla_core::placement::Assignment;
    use serde_json::json;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::fleet::FleetEvent;
    use crate::store::{StoreChange, StoreEntry, keys};

    /// An explanation that is computed: its view, and the sender of whether the models can be placed.
    type Computation = (u64, std::sync::mpsc::Sender<bool>);

    fn entry(key: String, value: &serde_json::Value) -> StoreEntry {
        StoreEntry {
            key,
            value: serde_json::to_vec(value).unwrap(),
            revision: StoreRevision(1),
        }
    }

    /// A fleet with the model `m`, for which requests wait, and its served queue.
    struct TestQueue {
        fleet: FleetHandle,
        pending: PendingQueue,
        model: ModelName,
        computations: mpsc::UnboundedReceiver<Computation>,
        stop: CancellationToken,
        tasks: tokio::task::JoinSet<()>,
    }

    impl TestQueue {
        async fn start() -> Self {
            let (begun, computations) = mpsc::unbounded_channel();
            let explain = move |view: &FleetView, models: &[ModelName]| {
                let (answer, answered) = std::sync::mpsc::channel();
                begun.send((view.generation, answer)).unwrap();
                let is_placed: bool = answered.recv().unwrap();
                let reason = |name: &ModelName| (name.clone(), format!("view {}", view.generation));
                models.iter().filter(|_| !is_placed).map(reason).collect()
            };
            let stop = CancellationToken::new();
            let (fleet, run_fleet) = FleetHandle::new("c", Duration::from_secs(5), stop.clone());
            let model = ModelName::new("m").unwrap();
            let resource = json!({
                "apiVersion": "flotilla.dev/v1", "kind": "Model",
                "metadata": {"name": "m"}, "spec": {"engine": "simulated"},
            });
            let desired = json!({"created": 1, "resource": resource});
            let (pending, wake_ups) = PendingQueue::new();
            let explanations = Explanations::new(Arc::new(explain));
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(run_fleet);
            let (served, queue) = (fleet.clone(), pending.clone());
            tasks.spawn(serve(served, queue, wake_ups, explanations, stop.clone()));
            let entries = vec![
                entry(keys::model(&model), &desired),
                entry(keys::waiting(&model, "c"), &json!({"requests": 1})),
            ];
            let revision = StoreRevision(1);
            let snapshot = FleetEvent::StoreSnapshot { entries, revision };
            fleet.send(snapshot).await;
            Self {
                fleet,
                pending,
                model,
                computations,
                stop,
                tasks,
            }
        }

        /// Adds a request, and returns the receiver of the error that it is rejected with.
        fn enter(&self) -> oneshot::Receiver<RequestError> {
            let mut waiter = self.pending.enter_placeholder(&self.model);
            let (rejected, rejection) = oneshot::channel();
            tokio::spawn(async move {
                let _ = rejected.send(waiter.wait_for_rejection().await);
            });
            rejection
        }

        /// Puts an entry and waits for a view later than `seen`.
        async fn change(&self, entry: StoreEntry, seen: u64) {
            let change = FleetEvent::StoreChanged(StoreChange::Put(entry));
            self.fleet.send(change).await;
            let mut changes = self.fleet.changes();
            changes
                .wait_for(|generation| *generation > seen)
                .await
                .unwrap();
        }

        async fn stop(mut self) {
            self.stop.cancel();
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn wake_up_does_not_wait_for_an_explanation_which_counts_although_the_view_has_changed() {
        let mut queue = TestQueue::start().await;
        let rejection = queue.enter();
        let (first, answer) = queue.computations.recv().await.unwrap();
        // While it is computed, a wake-up is served and the view changes.
        let mut counts = queue.pending.counts();
        queue.pending.wake_up(&queue.model);
        counts
            .wait_for(|counts| counts.get(&queue.model) == Some(&2))
            .await
            .unwrap();
        let waiting = keys::waiting(&queue.model, "d");
        queue
            .change(entry(waiting, &json!({"requests": 1})), first)
            .await;
        answer.send(false).unwrap();
        let error = rejection.await.unwrap().to_string();
        assert!(error.contains(&format!("view {first}")), "{error}");
        // It counts only once.
        let mut later = queue.enter();
        let (second, answer) = queue.computations.recv().await.unwrap();
        assert!(second > first && later.try_recv().is_err());
        answer.send(false).unwrap();
        let error = later.await.unwrap().to_string();
        assert!(error.contains(&format!("view {second}")), "{error}");
        queue.stop().await;
    }

    #[tokio::test]
    async fn explanation_of_an_earlier_view_does_not_reach_those_who_came_after_it() {
        let mut queue = TestQueue::start().await;
        let early = queue.enter();
        let (first, answer) = queue.computations.recv().await.unwrap();
        let waiting = keys::waiting(&queue.model, "d");
        queue
            .change(entry(waiting, &json!({"requests": 1})), first)
            .await;
        let mut late = queue.enter();
        answer.send(false).unwrap();
        let error = early.await.unwrap().to_string();
        assert!(error.contains(&format!("view {first}")), "{error}");
        let (second, answer) = tokio::select! {
            computation = queue.computations.recv() => computation.unwrap(),
            error = &mut late => panic!("{error:?}"),
        };
        answer.send(false).unwrap();
        let error = late.await.unwrap().to_string();
        assert!(error.contains(&format!("view {second}")), "{error}");
        queue.stop().await;
    }

    #[tokio::test]
    async fn explanation_that_panics_is_computed_again_after_a_while() {
        let mut queue = TestQueue::start().await;
        let rejection = queue.enter();
        let (_, answer) = queue.computations.recv().await.unwrap();
        let began = Instant::now();
        // Without an answer the computation panics.
        drop(answer);
        let (_, answer) = queue.computations.recv().await.unwrap();
        assert!(began.elapsed() >= RESUME_DELAY);
        answer.send(false).unwrap();
        rejection.await.unwrap();
        queue.stop().await;
    }

    #[tokio::test]
    async fn explanation_does_not_count_once_the_model_is_assigned() {
        let mut queue = TestQueue::start().await;
        let mut rejection = queue.enter();
        let (first, answer) = queue.computations.recv().await.unwrap();
        let node = NodeName::new("n1").unwrap();
        let model = queue.model.clone();
        let assignment = keys::assignment(&Assignment { node, model });
        queue
            .change(entry(assignment, &json!({"revision": 1})), first)
            .await;
        answer.send(false).unwrap();
        let (second, answer) = queue.computations.recv().await.unwrap();
        assert!(second > first && rejection.try_recv().is_err());
        answer.send(true).unwrap();
        queue.stop().await;
    }
}
