//! The admission queue in front of a model: a fixed number of requests is computed at once, and a
//! bounded number waits in the order of [`FairQueue`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::{FairQueue, QueueEntryId, QueueKey};
use flotilla_core::generate::RequestError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

/// The `Retry-After` of a refused request.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The admission queue of one model.
pub(super) struct AdmissionQueue {
    state: Mutex<QueueState>,
    /// Number of requests that are computed at once, at least 1.
    pub(super) concurrency: u32,
    /// Number of further requests that may wait.
    capacity: u32,
    /// Notified whenever a request leaves.
    departures: Notify,
}

/// The outcome for a waiting request: its permit, or the error with which it leaves the queue.
type AdmissionOutcome = Result<(), RequestError>;

struct QueueState {
    computing: u32,
    waiting: FairQueue<oneshot::Sender<AdmissionOutcome>>,
    is_closed: bool,
}

/// The right to compute one request, given back when dropped.
pub(super) struct Permit {
    queue: Arc<AdmissionQueue>,
    /// How long the request waited for it.
    pub(super) waited: Duration,
}

impl AdmissionQueue {
    pub(super) fn new(concurrency: u32, capacity: u32) -> Self {
        Self {
            state: Mutex::new(QueueState {
                computing: 0,
                waiting: FairQueue::default(),
                is_closed: false,
            }),
            concurrency: concurrency.max(1),
            capacity,
            departures: Notify::new(),
        }
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue is full or a request of higher priority displaced
    /// this one, [`RequestError::DeadlineUnmet`] after the deadline, [`RequestError::Unavailable`] when the
    /// queue is closed.
    pub(super) async fn acquire(
        self: Arc<Self>,
        queue_key: QueueKey,
        deadline: Option<Duration>,
    ) -> Result<Permit, RequestError> {
        let arrived = Instant::now();
        let mut queued = {
            let mut state = self.lock();
            if state.is_closed {
                return Err(closed());
            }
            if state.computing < self.concurrency && state.waiting.is_empty() {
                state.computing += 1;
                drop(state);
                return Ok(self.permit(Duration::ZERO));
            }
            if state.waiting.len() >= self.capacity as usize {
                let displaced = state.waiting.displace(queue_key);
                let displaced = displaced
                    .ok_or_else(|| overloaded("The model's queue is full: try again later."))?;
                // The displaced request may have left meanwhile.
                let _ = displaced.send(Err(overloaded(
                    "The model's queue is full of requests with a higher priority: try again later.",
                )));
            }
            let (sender, outcome) = oneshot::channel();
            QueuedRequest {
                queue: &self,
                entry: state.waiting.push(queue_key, sender),
                outcome,
                is_settled: false,
            }
        };
        let outcome = match deadline {
            None => (&mut queued.outcome).await,
            Some(limit) => match tokio::time::timeout(limit, &mut queued.outcome).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    return Err(RequestError::DeadlineUnmet(format!(
                        "The request's deadline passed while it waited for {} ms.",
                        arrived.elapsed().as_millis()
                    )));
                }
            },
        };
        queued.is_settled = true;
        drop(queued);
        // The sender is dropped without an outcome only together with the queue.
        outcome.unwrap_or_else(|_| Err(closed()))?;
        Ok(self.permit(arrived.elapsed()))
    }

    fn permit(self: Arc<Self>, waited: Duration) -> Permit {
        Permit {
            queue: self,
            waited,
        }
    }

    /// Closes the queue: it grants no further permit and rejects the waiting requests.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        while let Some(waiting) = state.waiting.pop() {
            let _ = waiting.send(Err(closed()));
        }
        drop(state);
        self.departures.notify_waiters();
    }

    /// Returns the numbers of requests that are computed and that wait.
    pub(super) fn counts(&self) -> (u32, u32) {
        let state = self.lock();
        (state.computing, state.waiting.len() as u32)
    }

    /// Waits until no request is computed or waits.
    pub(super) async fn drained(&self) {
        loop {
            let departure = self.departures.notified();
            if self.counts() == (0, 0) {
                return;
            }
            departure.await;
        }
    }

    /// Passes a permit on to the next waiting request, or frees it.
    fn release(&self, mut state: MutexGuard<'_, QueueState>) {
        loop {
            let Some(next) = state.waiting.pop() else {
                state.computing -= 1;
                return;
            };
            // Sending fails if the request has left meanwhile.
            if next.send(Ok(())).is_ok() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.release(self.queue.lock());
        self.queue.departures.notify_waiters();
    }
}

/// A request in the queue. Dropping it leaves the queue.
struct QueuedRequest<'a> {
    queue: &'a AdmissionQueue,
    entry: QueueEntryId,
    outcome: oneshot::Receiver<AdmissionOutcome>,
    /// Whether the outcome was received.
    is_settled: bool,
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let mut state = self.queue.lock();
        let was_waiting = state.waiting.remove(self.entry).is_some();
        if !was_waiting && matches!(self.outcome.try_recv(), Ok(Ok(()))) {
            // The permit was sent just before the request left.
            self.queue.release(state);
        } else {
            drop(state);
        }
        self.queue.departures.notify_waiters();
    }
}

fn closed() -> RequestError {
    RequestError::unavailable("the model is being unloaded")
}

fn overloaded(message: &str) -> RequestError {
    RequestError::Overloaded {
        message: message.into(),
        retry_after: RETRY_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::admission::Priority;
    use futures::FutureExt;

    fn queue(concurrency: u32, capacity: u32) -> Arc<AdmissionQueue> {
        Arc::new(AdmissionQueue::new(concurrency, capacity))
    }

    fn key(priority: Priority, fairness_key: u64) -> QueueKey {
        QueueKey {
            priority,
            fairness_key,
        }
    }

    async fn acquire(queue: &Arc<AdmissionQueue>) -> Permit {
        let acquired = queue.clone().acquire(QueueKey::default(), None).await;
        acquired.ok().unwrap()
    }

    #[tokio::test]
    async fn permit_passes_to_the_next_waiting_request() {
        let queue = queue(1, 2);
        let first = acquire(&queue).await;
        let mut second = Box::pin(acquire(&queue));
        let mut third = Box::pin(acquire(&queue));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        assert_eq!(queue.counts(), (1, 2));
        drop(first);
        assert_eq!(queue.counts(), (1, 1));
        assert!((&mut third).now_or_never().is_none());
        // It has received the permit, but leaves without taking it.
        drop(second);
        let third = third.await;
        assert!(third.waited > Duration::ZERO);
        drop(third);
        assert_eq!(queue.counts(), (0, 0));
    }

    #[tokio::test]
    async fn higher_priority_displaces_a_waiting_request() {
        let queue = queue(1, 1);
        let computing = acquire(&queue).await;
        let low = tokio::spawn(queue.clone().acquire(key(Priority::Low, 0), None));
        while queue.counts().1 == 0 {
            tokio::task::yield_now().await;
        }
        let refused = queue.clone().acquire(key(Priority::Low, 0), None).await;
        assert!(matches!(
            refused.err(),
            Some(RequestError::Overloaded { .. })
        ));
        let mut high = Box::pin(queue.clone().acquire(key(Priority::High, 0), None));
        assert!((&mut high).now_or_never().is_none());
        let displaced = low.await.unwrap().err();
        assert!(matches!(displaced, Some(RequestError::Overloaded { .. })));
        drop(computing);
        assert!(high.await.is_ok());
    }

    #[tokio::test]
    async fn request_leaves_the_queue_at_its_deadline() {
        let queue = queue(1, 5);
        let computing = acquire(&queue).await;
        let deadline = Some(Duration::from_millis(5));
        let late = queue.clone().acquire(QueueKey::default(), deadline).await;
        assert!(matches!(late.err(), Some(RequestError::DeadlineUnmet(_))));
        assert_eq!(queue.counts(), (1, 0));
        drop(computing);
        assert_eq!(queue.counts(), (0, 0));
    }

    #[tokio::test]
    async fn closed_queue_rejects_the_waiting_and_drains_the_computing() {
        let queue = queue(1, 1);
        let computing = acquire(&queue).await;
        let waiting = tokio::spawn(queue.clone().acquire(QueueKey::default(), None));
        while queue.counts().1 == 0 {
            tokio::task::yield_now().await;
        }
        queue.close();
        let rejected = waiting.await.unwrap().err();
        assert!(matches!(rejected, Some(RequestError::Unavailable { .. })));
        let late = queue.clone().acquire(QueueKey::default(), None).await;
        assert!(matches!(late.err(), Some(RequestError::Unavailable { .. })));
        assert!(queue.drained().now_or_never().is_none());
        drop(computing);
        queue.drained().await;
    }
}
