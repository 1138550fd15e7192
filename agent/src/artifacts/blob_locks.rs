//! One fetch for each file, however many models need it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use flotilla_core::spec::Sha256Digest;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A lock for each file that is being fetched.
#[derive(Default)]
pub(super) struct BlobLocks {
    locks: Mutex<HashMap<Sha256Digest, Weak<AsyncMutex<()>>>>,
}

/// The right to write a file, for one task at a time.
pub(super) type BlobLock = OwnedMutexGuard<()>;

impl BlobLocks {
    /// Waits until no other task fetches the file.
    pub(super) async fn lock(&self, digest: Sha256Digest) -> BlobLock {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(&digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::default();
                locks.insert(digest, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_task_at_a_time_has_the_lock_of_a_file() {
        let locks = Arc::new(BlobLocks::default());
        let (one, other) = (Sha256Digest([1; 32]), Sha256Digest([2; 32]));
        let first = locks.lock(one).await;
        let _independent = locks.lock(other).await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock(one).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        assert_eq!(locks.locks.lock().len(), 2);
        drop(locks.lock(one).await);
    }
}
