//! The permit to have one sequence in the engine.
//!
//! When nobody reads an answer any more, mistral.rs notices it only at the next token. Until it has
//! dropped the sequence, no other sequence may get the permit: on a CPU two sequences would overwrite
//! each other's attention. The sequence owns a [`SequenceGuard`], so that dropping the sequence gives
//! the permit back.

use std::convert::Infallible;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot::{self, error::TryRecvError};

/// How long the engine may keep a sequence that nobody reads before its permit is given back anyway.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Owned by a sequence in the engine. Dropping it notifies the [`SequenceRelease`].
pub(super) struct SequenceGuard {
    _sender: oneshot::Sender<Infallible>,
}

/// Completes when the engine has dropped a sequence.
pub(super) struct SequenceRelease(oneshot::Receiver<Infallible>);

/// Creates a guard and the release that it notifies.
pub(super) fn sequence_guard() -> (SequenceGuard, SequenceRelease) {
    let (sender, receiver) = oneshot::channel();
    (SequenceGuard { _sender: sender }, SequenceRelease(receiver))
}

impl SequenceRelease {
    /// Whether the guard was dropped already.
    fn is_released(&mut self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Closed)
    }

    /// Waits until the guard is dropped.
    async fn released(self) {
        // Nothing is ever sent: the channel only closes.
        let _ = self.0.await;
    }
}

/// The permit of one sequence. After it is dropped, the permit is given back as soon as the engine has
/// dropped the sequence.
pub(super) struct EnginePermit(Option<(OwnedSemaphorePermit, SequenceRelease)>);

impl EnginePermit {
    pub(super) fn new(permit: OwnedSemaphorePermit, release: SequenceRelease) -> Self {
        Self(Some((permit, release)))
    }
}

impl Drop for EnginePermit {
    fn drop(&mut self) {
        let Some((permit, mut release)) = self.0.take() else {
            return;
        };
        if release.is_released() {
            return;
        }
        // Without a runtime the process is shutting down, and nobody waits for the permit.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let released = tokio::time::timeout(RELEASE_TIMEOUT, release.released()).await;
            if released.is_err() {
                tracing::warn!("the engine keeps a sequence that nobody reads");
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    async fn permit(permits: &Arc<Semaphore>) -> (EnginePermit, SequenceGuard) {
        let (guard, release) = sequence_guard();
        let permit = permits.clone().acquire_owned().await.unwrap();
        (EnginePermit::new(permit, release), guard)
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
        let next = tokio::time::timeout(RELEASE_TIMEOUT / 2, permits.acquire()).await;
        assert!(next.is_ok(), "the permit was not given back");
    }
}
