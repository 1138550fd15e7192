//! The permit to have one sequence in the engine.
//!
//! When nobody reads an answer any more, mistral.rs notices it only at the next token. Until it has
//! dropped the sequence, no other sequence may get the permit: on a CPU two sequences would overwrite
//! each other's attention. The sequence owns a [`SequenceGuard`], so that dropping the sequence gives
//! the permit back. An engine that never drops it is found by the [`ProgressWatch`].

use std::convert::Infallible;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::progress::{ProgressWatch, ReaderGuard, SequenceProgress};

/// Owned by a sequence in the engine. Dropping it gives the sequence's permit back.
pub(super) struct SequenceGuard {
    progress: SequenceProgress,
    _sender: oneshot::Sender<Infallible>,
}

impl SequenceGuard {
    /// Records that a token was sampled.
    pub(super) fn token_sampled(&self) {
        self.progress.token_sampled();
    }
}

/// The permit of one sequence. After it is dropped, the permit is given back as soon as the engine has
/// dropped the sequence.
pub(super) struct EnginePermit {
    permit: Option<OwnedSemaphorePermit>,
    /// Closed when the engine has dropped the sequence.
    dropped: oneshot::Receiver<Infallible>,
    _reader: ReaderGuard,
}

/// Creates the permit of a sequence with a prompt of this many tokens, and the guard that the sequence owns.
pub(super) fn engine_permit(
    permit: OwnedSemaphorePermit,
    progress: &Arc<ProgressWatch>,
    prompt_tokens: usize,
) -> (EnginePermit, SequenceGuard) {
    let (sender, dropped) = oneshot::channel();
    let (progress, reader) = progress.begin(prompt_tokens);
    let permit = EnginePermit {
        permit: Some(permit),
        dropped,
        _reader: reader,
    };
    let guard = SequenceGuard {
        progress,
        _sender: sender,
    };
    (permit, guard)
}

impl Drop for EnginePermit {
    fn drop(&mut self) {
        // Nothing is ever sent: the channel only closes.
        if self.dropped.try_recv() == Err(TryRecvError::Closed) {
            return;
        }
        let (_, never) = oneshot::channel();
        let dropped = std::mem::replace(&mut self.dropped, never);
        let permit = self.permit.take();
        // Without a runtime the process is shutting down, and nobody waits for the permit.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = dropped.await;
                drop(permit);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    async fn permit(permits: &Arc<Semaphore>) -> (EnginePermit, SequenceGuard) {
        let permit = permits.clone().acquire_owned().await.unwrap();
        engine_permit(permit, &ProgressWatch::new(), 1)
    }

    #[tokio::test]
    async fn permit_is_given_back_at_once_after_the_sequence() {
        let permits = Arc::new(Semaphore::new(1));
        let (permit, guard) = permit(&permits).await;
        drop(guard);
        assert_eq!(permits.available_permits(), 0);
        drop(permit);
        assert_eq!(permits.available_permits(), 1);
    }

    #[tokio::test]
    async fn permit_is_kept_until_the_engine_drops_the_sequence() {
        let permits = Arc::new(Semaphore::new(1));
        let (permit, guard) = permit(&permits).await;
        drop(permit);
        tokio::task::yield_now().await;
        assert_eq!(permits.available_permits(), 0);
        // The engine drops it on a thread without a runtime.
        std::thread::spawn(move || drop(guard)).join().unwrap();
        let next = tokio::time::timeout(Duration::from_secs(5), permits.acquire()).await;
        assert!(next.is_ok(), "the permit was not given back");
    }
}
