//! Requests that wait for the first replica of a model, in the order of their arrival.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flotilla_core::ModelName;
use flotilla_core::generate::RequestError;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::refusal::RETRY_AFTER;

/// The number of requests that wait for each model.
pub type WaitingCounts = BTreeMap<ModelName, u32>;

/// Receives the names of models to wake up. A wake-up comes from a request that would use the model
/// if it were loaded, but does not wait for it.
pub type WakeUpReceiver = mpsc::Receiver<ModelName>;

/// The capacity of the channel of wake-ups. One that does not fit is dropped: the request that sent it is
/// answered by another model, and the next request wakes the model again.
const WAKE_UPS: usize = 64;

/// Requests that wait for the first replica of a model. Cheap to clone.
#[derive(Clone)]
pub struct PendingQueue {
    state: Arc<PendingState>,
}

struct PendingState {
    queues: Mutex<HashMap<ModelName, ModelQueue>>,
    /// Waiters of all models. While it is 0, requests need not take the lock.
    total: AtomicUsize,
    /// The number of waiters that have ever entered: the arrival number of the next one.
    arrivals: AtomicU64,
    counts: watch::Sender<WaitingCounts>,
    wake_ups: mpsc::Sender<ModelName>,
}

/// The waiters of one model.
struct ModelQueue {
    /// The number of waiters, placeholders included.
    waiting: u32,
    /// The number of placeholders among them.
    placeholders: u32,
    /// Has one permit, granted in order of arrival. Its holder is dispatched next.
    head: Arc<Semaphore>,
    /// The last rejection.
    rejection: watch::Sender<Option<Rejection>>,
}

/// Rejects the waiters of a model with an error.
#[derive(Clone)]
struct Rejection {
    /// Waiters with a lower arrival number are rejected.
    arrived_before: u64,
    error: RequestError,
}

impl PendingQueue {
    /// Creates an empty queue, and the receiver of its wake-ups.
    #[must_use]
    pub fn new() -> (Self, WakeUpReceiver) {
        let (wake_ups, receiver) = mpsc::channel(WAKE_UPS);
        let state = Arc::new(PendingState {
            queues: Mutex::default(),
            total: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
            counts: watch::Sender::default(),
            wake_ups,
        });
        (Self { state }, receiver)
    }

    /// Sends a wake-up: the model is loaded as if a request waited for it.
    pub fn wake_up(&self, model: &ModelName) {
        let _ = self.state.wake_ups.try_send(model.clone());
    }

    /// Returns a receiver of the number of waiters of each model.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<WaitingCounts> {
        self.state.counts.subscribe()
    }

    /// Returns whether any request waits for this model.
    pub(crate) fn has_waiters(&self, model: &ModelName) -> bool {
        self.state.total.load(Ordering::Relaxed) > 0 && self.state.lock().contains_key(model)
    }

    /// Adds a request to the queue of a model.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when `limit` requests wait already. A `limit` of 0 counts as 1,
    /// because a waiting request is what loads a sleeping model.
    pub(crate) fn enter(&self, model: &ModelName, limit: u32) -> Result<Waiter, RequestError> {
        let mut queues = self.state.lock();
        let queue = queues.entry(model.clone()).or_default();
        if queue.waiting - queue.placeholders >= limit.max(1) {
            return Err(RequestError::Overloaded {
                message: format!(
                    "Too many requests wait for the model '{model}': try again later."
                ),
                retry_after: RETRY_AFTER,
            });
        }
        Ok(self.add(model, queue, false))
    }

    /// Adds a placeholder: a waiter without a request, which keeps a model counted as needed. It does not
    /// count towards the limit of the queue.
    #[must_use]
    pub fn enter_placeholder(&self, model: &ModelName) -> Waiter {
        let mut queues = self.state.lock();
        let queue = queues.entry(model.clone()).or_default();
        self.add(model, queue, true)
    }

    fn add(&self, model: &ModelName, queue: &mut ModelQueue, placeholder: bool) -> Waiter {
        queue.waiting += 1;
        queue.placeholders += u32::from(placeholder);
        self.state.total.fetch_add(1, Ordering::Relaxed);
        self.state.set_count(model, queue.waiting);
        Waiter {
            state: self.state.clone(),
            model: model.clone(),
            arrival: self.state.arrivals.fetch_add(1, Ordering::Relaxed),
            head: queue.head.clone(),
            rejection: queue.rejection.subscribe(),
            permit: None,
            placeholder,
        }
    }

    /// Returns the number of waiters that have entered so far, in the queues of all models.
    #[must_use]
    pub fn arrivals(&self) -> u64 {
        self.state.arrivals.load(Ordering::Relaxed)
    }

    /// Rejects the waiters of a model that entered before there were this many [`arrivals`](Self::arrivals).
    /// Those that entered later stay.
    pub fn reject_earlier(&self, model: &ModelName, than: u64, error: &RequestError) {
        if let Some(queue) = self.state.lock().get(model) {
            queue.rejection.send_modify(|last| {
                // A waiter of an earlier rejection may not have read it yet.
                let earlier = last.as_ref().map_or(0, |last| last.arrived_before);
                *last = Some(Rejection {
                    arrived_before: than.max(earlier),
                    error: error.clone(),
                });
            });
        }
    }
}

impl Default for ModelQueue {
    fn default() -> Self {
        Self {
            waiting: 0,
            placeholders: 0,
            head: Arc::new(Semaphore::new(1)),
            rejection: watch::Sender::default(),
        }
    }
}

impl PendingState {
    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<ModelName, ModelQueue>> {
        // Nothing panics while the lock is held.
        self.queues.lock()
    }

    /// Publishes the number of waiters of a model.
    fn set_count(&self, model: &ModelName, waiting: u32) {
        self.counts.send_modify(|counts| {
            if waiting == 0 {
                counts.remove(model);
            } else {
                counts.insert(model.clone(), waiting);
            }
        });
    }
}

/// A place in the queue of a model. Dropping it leaves the queue.
pub struct Waiter {
    state: Arc<PendingState>,
    model: ModelName,
    /// The number of waiters that entered before this one, in the queues of all models.
    arrival: u64,
    head: Arc<Semaphore>,
    rejection: watch::Receiver<Option<Rejection>>,
    /// `None` until this waiter is at the head of its queue.
    permit: Option<OwnedSemaphorePermit>,
    placeholder: bool,
}

impl Waiter {
    /// Waits until this waiter is at the head of its queue.
    ///
    /// # Errors
    /// The error that this waiter is rejected with.
    pub(crate) async fn wait_for_turn(&mut self) -> Result<(), RequestError> {
        let head = self.head.clone();
        tokio::select! {
            permit = head.acquire_owned() => {
                // The semaphore is never closed.
                self.permit = permit.ok();
                Ok(())
            }
            error = self.wait_for_rejection() => Err(error),
        }
    }

    /// Waits until this waiter is rejected, and returns the error.
    pub async fn wait_for_rejection(&mut self) -> RequestError {
        let arrival = self.arrival;
        let concerns =
            |last: &Option<Rejection>| last.as_ref().is_some_and(|r| arrival < r.arrived_before);
        // The sender exists as long as the queue does, and the queue as long as this waiter is in it.
        let rejection = self.rejection.wait_for(concerns).await;
        let rejection = rejection.ok().and_then(|last| last.clone());
        match rejection {
            Some(rejection) => rejection.error,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut queues = self.state.lock();
        self.state.total.fetch_sub(1, Ordering::Relaxed);
        let mut waiting = 0;
        if let Some(queue) = queues.get_mut(&self.model) {
            queue.waiting -= 1;
            queue.placeholders -= u32::from(self.placeholder);
            waiting = queue.waiting;
        }
        if waiting == 0 {
            queues.remove(&self.model);
        }
        self.state.set_count(&self.model, waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn waiters_take_turns_in_order_of_arrival_and_are_counted_until_they_leave() {
        let (pending, _wake_ups) = PendingQueue::new();
        let model = ModelName::new("m").unwrap();
        let counts = pending.counts();
        let mut waiters: Vec<_> = (0..3).map(|_| pending.enter(&model, 3).unwrap()).collect();
        assert!(matches!(
            pending.enter(&model, 3).err(),
            Some(RequestError::Overloaded { .. })
        ));
        assert_eq!(counts.borrow()[&model], 3);
        let placeholder = pending.enter_placeholder(&model);
        assert_eq!(counts.borrow()[&model], 4);
        drop(placeholder);
        let mut third = waiters.pop().unwrap();
        let mut second = waiters.pop().unwrap();
        let mut first = waiters.pop().unwrap();
        assert!(first.wait_for_turn().await.is_ok());
        let mut waiting = Box::pin(second.wait_for_turn());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(third.wait_for_turn().now_or_never().is_none());
        drop(first);
        assert!(waiting.await.is_ok());
        assert!(pending.has_waiters(&model));
        drop((second, third));
        assert!(!pending.has_waiters(&model) && counts.borrow().is_empty());
    }

    #[tokio::test]
    async fn all_waiters_are_rejected_with_the_reason() {
        let (pending, _wake_ups) = PendingQueue::new();
        let model = ModelName::new("m").unwrap();
        let mut first = pending.enter(&model, 9).unwrap();
        let mut second = pending.enter(&model, 9).unwrap();
        assert!(first.wait_for_turn().await.is_ok());
        let error = RequestError::unavailable("no node");
        pending.reject_earlier(&model, pending.arrivals(), &error);
        assert_eq!(first.wait_for_rejection().await, error);
        assert_eq!(second.wait_for_turn().await, Err(error));
        drop((first, second));
        assert!(
            pending
                .enter(&model, 9)
                .unwrap()
                .wait_for_turn()
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn rejection_reaches_those_who_were_waiting_at_its_time_and_not_those_who_came_later() {
        let (pending, _wake_ups) = PendingQueue::new();
        let model = ModelName::new("m").unwrap();
        let _placeholder = pending.enter_placeholder(&model);
        let mut early = pending.enter(&model, 9).unwrap();
        let mut unread = pending.enter(&model, 9).unwrap();
        let arrivals = pending.arrivals();
        let mut late = pending.enter(&model, 9).unwrap();
        let first = RequestError::unavailable("no node");
        pending.reject_earlier(&model, arrivals, &first);
        assert_eq!(early.wait_for_rejection().await, first);
        assert!(late.wait_for_rejection().now_or_never().is_none());
        // One of an earlier time leaves none of those behind that were rejected already.
        let second = RequestError::unavailable("no memory");
        pending.reject_earlier(&model, 1, &second);
        assert_eq!(unread.wait_for_rejection().await, second);
        assert!(late.wait_for_rejection().now_or_never().is_none());
        pending.reject_earlier(&model, pending.arrivals(), &second);
        assert_eq!(late.wait_for_rejection().await, second);
    }
}
