//! A request with several turns.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use flotilla_core::admission::QueueKey;
use flotilla_core::generate::RequestError;

use super::{AdmissionQueue, Permit, TurnOwner};

/// A request of which the first turn has been admitted and others follow. The queue counts it once, until
/// it is dropped.
pub(in crate::models) struct SplitRequest {
    queue: Arc<AdmissionQueue>,
    queue_key: QueueKey,
    /// The number of its turns that are computed.
    computing: Arc<AtomicU32>,
}

impl Permit {
    /// Makes this permit the first turn of a request that has several. `queue_key` is the key with which
    /// the permit was acquired.
    pub(in crate::models) fn split(&mut self, queue_key: QueueKey) -> SplitRequest {
        if self.waited.is_zero() {
            // A request that went at once has had its turn: its second one goes after other clients.
            self.queue.lock().waiting.count_turn(queue_key);
        }
        let computing = Arc::new(AtomicU32::new(1));
        self.owner = TurnOwner::Split(queue_key.priority, computing.clone());
        SplitRequest {
            queue: self.queue.clone(),
            queue_key,
            computing,
        }
    }
}

impl SplitRequest {
    /// Waits for the permit of a further turn. It is not refused when the queue is full, since its request
    /// has its place there already: call it for one turn at a time. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`RequestError::DeadlineUnmet`] after the deadline.
    pub(in crate::models) async fn acquire(
        &self,
        deadline: Option<Duration>,
    ) -> Result<Permit, RequestError> {
        let owner = TurnOwner::Split(self.queue_key.priority, self.computing.clone());
        let queue = &self.queue;
        let queued = {
            let mut state = queue.lock();
            if state.computing < queue.concurrency && state.waiting.is_empty() {
                state.waiting.count_turn(self.queue_key);
                state.start_computing(&owner);
                drop(state);
                return Ok(queue.clone().permit(owner, Duration::ZERO));
            }
            queue.push(state, self.queue_key, owner)
        };
        queued.permit(deadline).await
    }
}

impl Drop for SplitRequest {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.requests[self.queue_key.priority as usize] -= 1;
        drop(state);
        self.queue.departures.notify_waiters();
    }
}
