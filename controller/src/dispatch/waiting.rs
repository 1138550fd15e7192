//! Where requests wait for a first replica: in order of their arrival, up to their deadline.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_core::generate::RequestError;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::RETRY_AFTER;
use crate::fleet::FleetHandle;
use crate::reconcile;
use crate::registrar::WaitingCounts;

/// Where requests wait. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PendingQueue {
    inner: Arc<PendingState>,
}

struct PendingState {
    lines: Mutex<HashMap<ModelName, ModelQueue>>,
    /// Requests in all lines, so that requests that need not wait see at a glance that nobody
    /// does.
    total: AtomicUsize,
    counts: watch::Sender<WaitingCounts>,
    nudges: mpsc::Sender<ModelName>,
}

/// Models that somebody would ask if they were loaded, as they are named.
pub(crate) type WakeUps = mpsc::Receiver<ModelName>;

/// Nudges that may be on their way; one more is left out, as others say the same.
const NUDGES: usize = 64;
/// How long a nudged model counts as waited for.
const NUDGED: Duration = Duration::from_secs(10);

/// The requests that wait for one model.
struct ModelQueue {
    /// Nudges included.
    waiting: u32,
    /// Places in which nobody stands.
    nudges: u32,
    /// One place: who has it is next. Given in order of arrival.
    head: Arc<Semaphore>,
    verdict: watch::Sender<Option<RequestError>>,
}

impl PendingQueue {
    /// An empty one, with where it tells what is nudged.
    pub(crate) fn new() -> (Self, WakeUps) {
        let (nudges, nudged) = mpsc::channel(NUDGES);
        let inner = Arc::new(PendingState {
            lines: Mutex::default(),
            total: AtomicUsize::new(0),
            counts: watch::Sender::default(),
            nudges,
        });
        (Self { inner }, nudged)
    }

    /// Has a model be loaded as if a request waited for it, for one that does not.
    pub(super) fn nudge(&self, model: &ModelName) {
        let _ = self.inner.nudges.try_send(model.clone());
    }

    /// How many wait for which model.
    pub(crate) fn counts(&self) -> watch::Receiver<WaitingCounts> {
        self.inner.counts.subscribe()
    }

    /// Whether any request waits for this model.
    pub(super) fn is_used(&self, model: &ModelName) -> bool {
        self.inner.total.load(Ordering::Relaxed) > 0 && self.inner.lock().contains_key(model)
    }

    /// Joins the line of a model.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] where `most` wait already.
    pub(super) fn enter(&self, model: &ModelName, most: u32) -> Result<Waiter, RequestError> {
        self.join(model, Some(most))
    }

    /// Joins a line; without a `most` it is for nobody who asks, and takes nobody's place.
    fn join(&self, model: &ModelName, most: Option<u32>) -> Result<Waiter, RequestError> {
        let mut lines = self.inner.lock();
        let line = lines.entry(model.clone()).or_insert_with(|| ModelQueue {
            waiting: 0,
            nudges: 0,
            head: Arc::new(Semaphore::new(1)),
            verdict: watch::Sender::default(),
        });
        // The first may always wait: somebody has to wake the model.
        if most.is_some_and(|most| line.waiting - line.nudges >= most.max(1)) {
            return Err(RequestError::Overloaded {
                message: format!(
                    "Too many requests wait for the model '{model}': try again later."
                ),
                retry_after: RETRY_AFTER,
            });
        }
        line.waiting += 1;
        line.nudges += u32::from(most.is_none());
        self.inner.total.fetch_add(1, Ordering::Relaxed);
        let waiting = line.waiting;
        self.inner.counts.send_modify(|counts| {
            counts.insert(model.clone(), waiting);
        });
        Ok(Waiter {
            inner: self.inner.clone(),
            model: model.clone(),
            head: line.head.clone(),
            verdict: line.verdict.subscribe(),
            turn: None,
            nudge: most.is_none(),
        })
    }

    /// Sends all away that wait for a model.
    fn send_away(&self, model: &ModelName, error: &RequestError) {
        if let Some(line) = self.inner.lock().get(model) {
            line.verdict.send_replace(Some(error.clone()));
        }
    }
}

impl PendingState {
    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<ModelName, ModelQueue>> {
        self.lines.lock()
    }
}

/// A place in a line, left when dropped.
pub(super) struct Waiter {
    inner: Arc<PendingState>,
    model: ModelName,
    head: Arc<Semaphore>,
    verdict: watch::Receiver<Option<RequestError>>,
    turn: Option<OwnedSemaphorePermit>,
    /// Whether nobody stands in it.
    nudge: bool,
}

impl Waiter {
    /// Waits until this one is next. Resolves with an error when all are sent away instead.
    pub(super) async fn turn(&mut self) -> Option<RequestError> {
        let head = self.head.clone();
        tokio::select! {
            turn = head.acquire_owned() => {
                // The semaphore is never closed.
                self.turn = turn.ok();
                None
            }
            verdict = self.verdict() => Some(verdict),
        }
    }

    /// Waits until all are sent away.
    pub(super) async fn verdict(&mut self) -> RequestError {
        loop {
            if let Some(verdict) = self.verdict.borrow_and_update().clone() {
                return verdict;
            }
            // The line is there as long as somebody is in it.
            if self.verdict.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut lines = self.inner.lock();
        self.inner.total.fetch_sub(1, Ordering::Relaxed);
        let mut left = 0;
        if let Some(line) = lines.get_mut(&self.model) {
            line.waiting -= 1;
            line.nudges -= u32::from(self.nudge);
            left = line.waiting;
        }
        if left == 0 {
            lines.remove(&self.model);
        }
        self.inner
            .counts
            .send_modify(|counts: &mut BTreeMap<_, _>| {
                if left == 0 {
                    counts.remove(&self.model);
                } else {
                    counts.insert(self.model.clone(), left);
                }
            });
    }
}

/// Sends away, until `stop`, whoever waits for a model that has no place to go; waits for those that
/// are `nudged`.
pub(crate) async fn judge(
    fleet: FleetHandle,
    lobby: PendingQueue,
    mut nudged: WakeUps,
    stop: CancellationToken,
) {
    let mut changes = fleet.changes();
    let mut counts = lobby.counts();
    let mut waits: HashMap<ModelName, (Instant, Waiter)> = HashMap::new();
    loop {
        let oldest = waits.values().map(|(since, _)| *since).min();
        let over = oldest.unwrap_or_else(Instant::now) + NUDGED;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(over.into()), if oldest.is_some() => {
                waits.retain(|_, (since, _)| since.elapsed() < NUDGED);
                continue;
            }
            Some(name) = nudged.recv() => {
                if !waits.contains_key(&name)
                    && let Ok(place) = lobby.join(&name, None)
                {
                    waits.insert(name, (Instant::now(), place));
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
        waits.retain(|name, _| {
            let model = view.models.get(name);
            model.is_some_and(|model| model.replicas.is_empty())
        });
        let placeless = waited_for.into_iter().filter(|name| {
            // The leader knows that somebody waits once the view says so.
            let model = view.models.get(name);
            model.is_some_and(|model| model.assigned.is_empty() && model.waiting > 0)
        });
        for name in placeless {
            if let Some(unplaced) = reconcile::explain(&view, &name) {
                let why = format!("The model '{name}' cannot be placed: {unplaced}.");
                lobby.send_away(&name, &RequestError::Unavailable(why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn they_are_next_in_order_of_arrival_and_counted_until_they_leave() {
        let (lobby, _nudges) = PendingQueue::new();
        let model = ModelName::new("m").unwrap();
        let counts = lobby.counts();
        let mut places: Vec<_> = (0..3).map(|_| lobby.enter(&model, 3).unwrap()).collect();
        assert!(matches!(
            lobby.enter(&model, 3).err(),
            Some(RequestError::Overloaded { .. })
        ));
        assert_eq!(counts.borrow()[&model], 3);
        let nudge = lobby.join(&model, None).unwrap();
        assert_eq!(counts.borrow()[&model], 4);
        drop(nudge);
        let mut third = places.pop().unwrap();
        let mut second = places.pop().unwrap();
        let mut first = places.pop().unwrap();
        assert!(first.turn().await.is_none());
        let mut waiting = Box::pin(second.turn());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(third.turn().now_or_never().is_none());
        drop(first);
        assert!(waiting.await.is_none());
        assert!(lobby.is_used(&model));
        drop((second, third));
        assert!(!lobby.is_used(&model) && counts.borrow().is_empty());
    }

    #[tokio::test]
    async fn all_are_sent_away_with_the_reason() {
        let (lobby, _nudges) = PendingQueue::new();
        let model = ModelName::new("m").unwrap();
        let mut first = lobby.enter(&model, 9).unwrap();
        let mut second = lobby.enter(&model, 9).unwrap();
        assert!(first.turn().await.is_none());
        let error = RequestError::Unavailable("no node".into());
        lobby.send_away(&model, &error);
        assert_eq!(first.verdict().await, error);
        assert_eq!(second.turn().await, Some(error));
        drop((first, second));
        assert!(lobby.enter(&model, 9).unwrap().turn().await.is_none());
    }
}
