//! The gate before a model: so many requests compute at once, a bounded number waits in the order of
//! [`FairQueue`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::{FairQueue, QueueEntryId, QueueKey};
use flotilla_core::generate::RequestError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The gate of one model.
pub(super) struct AdmissionQueue {
    state: Mutex<QueueState>,
    /// Requests that compute at once.
    pub(super) concurrency: u32,
    /// Requests that may wait beyond them.
    queue: u32,
    /// Told whenever a request leaves.
    idle: Notify,
}

/// What a waiting request is told: it is its turn, or why it has to leave.
type AdmissionOutcome = Result<(), RequestError>;

struct QueueState {
    computing: u32,
    waiting: FairQueue<oneshot::Sender<AdmissionOutcome>>,
    closed: bool,
}

/// A way through, given back when dropped.
pub(super) struct Permit {
    gate: Arc<AdmissionQueue>,
    /// How long it was waited for.
    pub(super) waited: Duration,
}

impl AdmissionQueue {
    pub(super) fn new(concurrency: u32, queue: u32) -> Self {
        Self {
            state: Mutex::new(QueueState {
                computing: 0,
                waiting: FairQueue::default(),
                closed: false,
            }),
            concurrency: concurrency.max(1),
            queue,
            idle: Notify::new(),
        }
    }

    /// Waits for its turn. A caller that goes away leaves the queue.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue is full or a request of better queue_key took the
    /// place, [`RequestError::TooLate`] after the deadline, [`RequestError::Unavailable`] when the
    /// gate was closed.
    pub(super) async fn enter(
        self: Arc<Self>,
        queue_key: QueueKey,
        deadline: Option<Duration>,
    ) -> Result<Permit, RequestError> {
        let came = Instant::now();
        let mut waiting = {
            let mut state = self.lock();
            if state.closed {
                return Err(closed());
            }
            if state.computing < self.concurrency && state.waiting.is_empty() {
                state.computing += 1;
                drop(state);
                return Ok(self.permit(Duration::ZERO));
            }
            if state.waiting.len() >= self.queue as usize {
                let displaced = state.waiting.displace(queue_key);
                let displaced = displaced
                    .ok_or_else(|| overloaded("The model's queue is full: try again later."))?;
                // Whoever is gone needs no word.
                let _ = displaced.send(Err(overloaded(
                    "The model's queue is full, and others went before: try again later.",
                )));
            }
            let (turn, word) = oneshot::channel();
            QueuedRequest {
                gate: &self,
                place: state.waiting.push(queue_key, turn),
                word,
                over: false,
            }
        };
        let word = match deadline {
            None => (&mut waiting.word).await,
            Some(left) => match tokio::time::timeout(left, &mut waiting.word).await {
                Ok(word) => word,
                Err(_) => {
                    return Err(RequestError::TooLate(format!(
                        "The request's deadline passed while it waited for {} ms.",
                        came.elapsed().as_millis()
                    )));
                }
            },
        };
        waiting.over = true;
        drop(waiting);
        // The sender is dropped without a word only with the gate.
        word.unwrap_or_else(|_| Err(closed()))?;
        Ok(self.permit(came.elapsed()))
    }

    fn permit(self: Arc<Self>, waited: Duration) -> Permit {
        Permit { gate: self, waited }
    }

    /// Lets nobody through any more; those waiting are sent elsewhere.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        while let Some(waiting) = state.waiting.pop() {
            let _ = waiting.send(Err(closed()));
        }
        drop(state);
        self.idle.notify_waiters();
    }

    /// Requests that compute, and that wait.
    pub(super) fn counts(&self) -> (u32, u32) {
        let state = self.lock();
        (state.computing, state.waiting.len() as u32)
    }

    /// Waits until nobody is beyond the gate or before it.
    pub(super) async fn drained(&self) {
        loop {
            let left = self.idle.notified();
            if self.counts() == (0, 0) {
                return;
            }
            left.await;
        }
    }

    /// A place is free: who is next takes it.
    fn release(&self, mut state: MutexGuard<'_, QueueState>) {
        loop {
            let Some(next) = state.waiting.pop() else {
                state.computing -= 1;
                return;
            };
            // One that has gone meanwhile takes nothing.
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
        self.gate.release(self.gate.lock());
        self.gate.idle.notify_waiters();
    }
}

/// A place in the queue, left when dropped.
struct QueuedRequest<'a> {
    gate: &'a AdmissionQueue,
    place: QueueEntryId,
    word: oneshot::Receiver<AdmissionOutcome>,
    /// Whether the word came and is heeded.
    over: bool,
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.gate.lock();
        if state.waiting.remove(self.place).is_none() && matches!(self.word.try_recv(), Ok(Ok(())))
        {
            // Its turn came just when it went away.
            self.gate.release(state);
        } else {
            drop(state);
        }
        self.gate.idle.notify_waiters();
    }
}

fn closed() -> RequestError {
    RequestError::Unavailable("the model is being unloaded".into())
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

    fn gate(concurrency: u32, queue: u32) -> Arc<AdmissionQueue> {
        Arc::new(AdmissionQueue::new(concurrency, queue))
    }

    fn of(priority: Priority, fairness_key: u64) -> QueueKey {
        QueueKey {
            priority,
            fairness_key,
        }
    }

    async fn enter(gate: &Arc<AdmissionQueue>) -> Permit {
        let entered = gate.clone().enter(QueueKey::default(), None).await;
        entered.ok().unwrap()
    }

    #[tokio::test]
    async fn who_leaves_lets_the_next_one_through() {
        let gate = gate(1, 2);
        let first = enter(&gate).await;
        let mut second = Box::pin(enter(&gate));
        let mut third = Box::pin(enter(&gate));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        assert_eq!(gate.counts(), (1, 2));
        drop(first);
        assert_eq!(gate.counts(), (1, 1));
        assert!((&mut third).now_or_never().is_none());
        // Its turn came, but it goes away without having looked.
        drop(second);
        let third = third.await;
        assert!(third.waited > Duration::ZERO);
        drop(third);
        assert_eq!(gate.counts(), (0, 0));
    }

    #[tokio::test]
    async fn the_urgent_take_the_places_of_others() {
        let gate = gate(1, 1);
        let computing = enter(&gate).await;
        let low = tokio::spawn(gate.clone().enter(of(Priority::Low, 0), None));
        while gate.counts().1 == 0 {
            tokio::task::yield_now().await;
        }
        let refused = gate.clone().enter(of(Priority::Low, 0), None).await;
        assert!(matches!(
            refused.err(),
            Some(RequestError::Overloaded { .. })
        ));
        let mut high = Box::pin(gate.clone().enter(of(Priority::High, 0), None));
        assert!((&mut high).now_or_never().is_none());
        let displaced = low.await.unwrap().err();
        assert!(matches!(displaced, Some(RequestError::Overloaded { .. })));
        drop(computing);
        assert!(high.await.is_ok());
    }

    #[tokio::test]
    async fn nobody_waits_beyond_its_deadline() {
        let gate = gate(1, 5);
        let computing = enter(&gate).await;
        let deadline = Some(Duration::from_millis(5));
        let late = gate.clone().enter(QueueKey::default(), deadline).await;
        assert!(matches!(late.err(), Some(RequestError::TooLate(_))));
        assert_eq!(gate.counts(), (1, 0));
        drop(computing);
        assert_eq!(gate.counts(), (0, 0));
    }

    #[tokio::test]
    async fn closing_sends_the_waiting_away_and_waits_for_the_computing() {
        let gate = gate(1, 1);
        let computing = enter(&gate).await;
        let waiting = tokio::spawn(gate.clone().enter(QueueKey::default(), None));
        while gate.counts().1 == 0 {
            tokio::task::yield_now().await;
        }
        gate.close();
        let sent_away = waiting.await.unwrap().err();
        assert!(matches!(sent_away, Some(RequestError::Unavailable(_))));
        let late = gate.clone().enter(QueueKey::default(), None).await;
        assert!(matches!(late.err(), Some(RequestError::Unavailable(_))));
        assert!(gate.drained().now_or_never().is_none());
        drop(computing);
        gate.drained().await;
    }
}
