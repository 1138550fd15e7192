//! The admission queue in front of a model: a fixed number of turns is computed at once, and the turns of
//! a bounded number of requests wait in the order of [`FairQueue`].
//!
//! Most requests are one turn. A request with several, such as one for several choices, becomes a
//! [`SplitRequest`]: each of its turns waits in the same order as everybody's, while the request counts
//! once towards the queue's capacity.

mod split_request;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::admission::{FairQueue, Priority, QueueEntryId, QueueKey};
use flotilla_core::generate::RequestError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

pub(super) use split_request::SplitRequest;

/// The `Retry-After` of a refused request.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The admission queue of one model.
pub(super) struct AdmissionQueue {
    state: Mutex<QueueState>,
    /// Number of turns that are computed at once, at least 1.
    pub(super) concurrency: u32,
    /// Number of requests that may wait while others are computed.
    capacity: u32,
    /// Notified whenever a turn or a request leaves.
    departures: Notify,
}

/// The outcome for a waiting turn: its permit, or the error with which it leaves the queue.
type AdmissionOutcome = Result<(), RequestError>;

struct QueueState {
    /// Turns that are computed.
    computing: u32,
    waiting: FairQueue<WaitingTurn>,
    /// By priority: the requests that wait or have been admitted. Each counts once, however many turns it
    /// has.
    requests: [u32; Priority::ALL.len()],
    /// By priority: the requests of which a turn is computed.
    computing_requests: [u32; Priority::ALL.len()],
    /// Why the queue admits nothing any more. `None` while it is open.
    closed: Option<&'static str>,
}

struct WaitingTurn {
    outcome: oneshot::Sender<AdmissionOutcome>,
    owner: TurnOwner,
}

/// The request that a turn belongs to.
#[derive(Clone)]
enum TurnOwner {
    /// A request of this priority, which is counted together with the turn.
    Request(Priority),
    /// A [`SplitRequest`] of this priority, which counts itself. Holds the number of its turns that are
    /// computed, which changes only under the lock of the queue.
    Split(Priority, Arc<AtomicU32>),
}

/// The right to compute one turn, given back when dropped.
pub(super) struct Permit {
    queue: Arc<AdmissionQueue>,
    owner: TurnOwner,
    /// How long the turn waited for it.
    pub(super) waited: Duration,
}

impl QueueState {
    /// Returns the number of requests of at least this priority.
    fn requests_from(&self, priority: Priority) -> u32 {
        self.requests[priority as usize..].iter().sum()
    }

    /// Counts a turn that is computed from now on.
    fn start_computing(&mut self, owner: &TurnOwner) {
        self.computing += 1;
        let (priority, is_first) = match owner {
            TurnOwner::Request(priority) => (priority, true),
            TurnOwner::Split(priority, turns) => {
                (priority, turns.fetch_add(1, Ordering::Relaxed) == 0)
            }
        };
        self.computing_requests[*priority as usize] += u32::from(is_first);
    }

    /// Counts the end of a turn, and of its request if that has no other turn.
    fn stop_computing(&mut self, owner: &TurnOwner) {
        self.computing -= 1;
        let (priority, is_last) = match owner {
            TurnOwner::Request(priority) => {
                self.requests[*priority as usize] -= 1;
                (priority, true)
            }
            TurnOwner::Split(priority, turns) => {
                (priority, turns.fetch_sub(1, Ordering::Relaxed) == 1)
            }
        };
        self.computing_requests[*priority as usize] -= u32::from(is_last);
    }

    /// Grants permits to waiting turns, in order, as long as turns may be computed.
    fn grant_permits(&mut self, concurrency: u32) {
        while self.computing < concurrency
            && let Some(next) = self.waiting.pop()
        {
            self.start_computing(&next.owner);
            if next.outcome.send(Ok(())).is_err() {
                // The turn has left meanwhile.
                self.stop_computing(&next.owner);
            }
        }
    }

    /// Makes a turn that was removed from the waiting ones leave with an error.
    fn reject(&mut self, turn: WaitingTurn, error: RequestError) {
        if let TurnOwner::Request(priority) = turn.owner {
            self.requests[priority as usize] -= 1;
        }
        // The request may have left meanwhile.
        let _ = turn.outcome.send(Err(error));
    }
}

impl AdmissionQueue {
    pub(super) fn new(concurrency: u32, capacity: u32) -> Self {
        Self {
            state: Mutex::new(QueueState {
                computing: 0,
                waiting: FairQueue::default(),
                requests: Default::default(),
                computing_requests: Default::default(),
                closed: None,
            }),
            concurrency: concurrency.max(1),
            capacity,
            departures: Notify::new(),
        }
    }

    /// Waits for the permit of a request. Dropping the future leaves the queue.
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
        let queued = {
            let mut state = self.lock();
            if let Some(reason) = state.closed {
                return Err(RequestError::unavailable(reason));
            }
            self.make_room(&mut state, queue_key)?;
            state.requests[queue_key.priority as usize] += 1;
            let owner = TurnOwner::Request(queue_key.priority);
            if state.computing < self.concurrency && state.waiting.is_empty() {
                state.start_computing(&owner);
                drop(state);
                return Ok(self.permit(owner, Duration::ZERO));
            }
            self.push(state, queue_key, owner)
        };
        queued.permit(deadline).await
    }

    /// Makes room for one more request with this key if the queue is full.
    fn make_room(&self, state: &mut QueueState, queue_key: QueueKey) -> Result<(), RequestError> {
        let limit = self.concurrency.saturating_add(self.capacity);
        if state.requests_from(Priority::Low) < limit {
            return Ok(());
        }
        // A request of which a turn has been computed is not displaced: that work would be lost.
        let has_not_begun = |turn: &WaitingTurn| matches!(turn.owner, TurnOwner::Request(_));
        if let Some(displaced) = state.waiting.displace(queue_key, has_not_begun) {
            state.reject(
                displaced,
                overloaded(
                    "The model's queue is full of requests with a higher priority: try again later.",
                ),
            );
            return Ok(());
        }
        // But one that waits does not keep out requests of a higher priority.
        let lower = &state.computing_requests[..queue_key.priority as usize];
        if lower.iter().sum::<u32>() + state.requests_from(queue_key.priority) < limit {
            return Ok(());
        }
        Err(overloaded("The model's queue is full: try again later."))
    }

    fn push(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, QueueState>,
        queue_key: QueueKey,
        owner: TurnOwner,
    ) -> QueuedTurn {
        let (sender, outcome) = oneshot::channel();
        let turn = WaitingTurn {
            outcome: sender,
            owner: owner.clone(),
        };
        QueuedTurn {
            queue: self.clone(),
            owner,
            arrived: Instant::now(),
            entry: state.waiting.push(queue_key, turn),
            outcome,
            is_settled: false,
        }
    }

    fn permit(self: Arc<Self>, owner: TurnOwner, waited: Duration) -> Permit {
        Permit {
            queue: self,
            owner,
            waited,
        }
    }

    /// Closes the queue for this reason: it admits no further request and rejects the waiting ones. Requests of
    /// which a turn has been computed go on to their end.
    pub(super) fn close(&self, reason: &'static str) {
        let mut state = self.lock();
        state.closed = Some(reason);
        let waiting = state
            .waiting
            .remove_where(|turn| matches!(turn.owner, TurnOwner::Request(_)));
        for turn in waiting {
            state.reject(turn, RequestError::unavailable(reason));
        }
        drop(state);
        self.departures.notify_waiters();
    }

    /// Returns the number of turns that are computed, and the number of requests that wait with all their
    /// turns.
    pub(super) fn counts(&self) -> (u32, u32) {
        let state = self.lock();
        let requests = state.requests_from(Priority::Low);
        let computing: u32 = state.computing_requests.iter().sum();
        (state.computing, requests - computing)
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

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.stop_computing(&self.owner);
        state.grant_permits(self.queue.concurrency);
        drop(state);
        self.queue.departures.notify_waiters();
    }
}

/// A turn in the queue. Dropping it leaves the queue.
struct QueuedTurn {
    queue: Arc<AdmissionQueue>,
    owner: TurnOwner,
    arrived: Instant,
    entry: QueueEntryId,
    outcome: oneshot::Receiver<AdmissionOutcome>,
    /// Whether the outcome was received.
    is_settled: bool,
}

impl QueuedTurn {
    /// Waits for the permit.
    async fn permit(mut self, deadline: Option<Duration>) -> Result<Permit, RequestError> {
        let outcome = match deadline {
            None => (&mut self.outcome).await,
            Some(limit) => match tokio::time::timeout(limit, &mut self.outcome).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    return Err(RequestError::DeadlineUnmet(format!(
                        "The request's deadline passed while it waited for {} ms.",
                        self.arrived.elapsed().as_millis()
                    )));
                }
            },
        };
        self.is_settled = true;
        // The sender is dropped without an outcome only together with the queue.
        outcome.unwrap_or_else(|_| Err(RequestError::unavailable("the queue has ended")))?;
        let queue = self.queue.clone();
        Ok(queue.permit(self.owner.clone(), self.arrived.elapsed()))
    }
}

impl Drop for QueuedTurn {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let mut state = self.queue.lock();
        if state.waiting.remove(self.entry).is_some() {
            if let TurnOwner::Request(priority) = self.owner {
                state.requests[priority as usize] -= 1;
            }
        } else if matches!(self.outcome.try_recv(), Ok(Ok(()))) {
            // The permit was granted just before the turn left.
            state.stop_computing(&self.owner);
            state.grant_permits(self.queue.concurrency);
        }
        drop(state);
        self.queue.departures.notify_waiters();
    }
}

fn overloaded(message: &str) -> RequestError {
    RequestError::Overloaded {
        message: message.into(),
        retry_after: RETRY_AFTER,
    }
}

#[cfg(test)]
mod tests;
