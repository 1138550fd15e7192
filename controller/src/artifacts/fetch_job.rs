//! The fetch of one source, with its retries and its record in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::task::AbortHandle;

use super::fetched_file::FetchError;
use crate::fleet::FetchRecord;
use crate::fleet::records::encode;
use crate::store::{StoreWrite, keys};

/// Delay before the first retry of a fetch; it doubles with each failure.
pub(super) const MIN_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Longest delay before a retry.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);

/// The fetch of one source, which runs or waits for its next attempt. Dropping it ends the attempt.
pub(super) struct FetchJob {
    /// Bytes fetched so far.
    bytes: Arc<AtomicU64>,
    /// The task of the last attempt.
    task: Option<AbortHandle>,
    /// When the last attempt began, unless it has failed.
    began: Option<SystemTime>,
    /// The progress that was recorded last.
    recorded: Option<FetchRecord>,
    delays: ExponentialBackoff,
    /// When the next attempt starts. `None` while one runs.
    pub(super) retry_at: Option<Instant>,
}

impl FetchJob {
    /// A job whose first attempt is due. `recorded` is the progress that the store has of it.
    pub(super) fn new(recorded: Option<FetchRecord>) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(MIN_RETRY_DELAY)
            .with_max_delay(MAX_RETRY_DELAY)
            .with_factor(2.0)
            .without_max_times();
        Self {
            bytes: Arc::default(),
            task: None,
            began: None,
            recorded,
            delays: delays.build(),
            retry_at: Some(Instant::now()),
        }
    }

    /// Whether the next attempt is due.
    pub(super) fn is_due(&self) -> bool {
        self.retry_at.is_some_and(|at| at <= Instant::now())
    }

    /// Starts an attempt: `spawn` starts its task with the counter of its bytes.
    pub(super) fn start(&mut self, spawn: impl FnOnce(Arc<AtomicU64>) -> AbortHandle) {
        self.retry_at = None;
        self.began = Some(SystemTime::now());
        self.bytes.store(0, Ordering::Relaxed);
        self.task = Some(spawn(self.bytes.clone()));
    }

    /// Returns when the attempt began that runs, or that was successful: the view does not have its
    /// manifest yet.
    pub(super) fn running_since(&self) -> Option<SystemTime> {
        self.began
    }

    /// Schedules the next attempt after a failure.
    pub(super) fn schedule_retry(&mut self) {
        self.began = None;
        let delay = self.delays.next().unwrap_or(MAX_RETRY_DELAY);
        self.retry_at = Some(Instant::now() + delay);
    }

    /// The write that records the job's progress, and its `error` if it has failed. `None` when the
    /// store already has it.
    pub(super) fn record(
        &mut self,
        source_id: &str,
        error: Option<&FetchError>,
    ) -> Option<StoreWrite> {
        let record = FetchRecord {
            fetched_bytes: self.bytes.load(Ordering::Relaxed),
            error: error.map(ToString::to_string).unwrap_or_default(),
            remedy: error.map(|e| e.remedy().to_owned()).unwrap_or_default(),
        };
        if self.recorded.as_ref() == Some(&record) {
            return None;
        }
        let write = StoreWrite::put(keys::fetch_progress(source_id), encode(&record));
        self.recorded = Some(record);
        Some(write)
    }
}

impl Drop for FetchJob {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn fetch_of_a_source_that_nobody_names_any_more_is_ended() {
        let mut tasks = JoinSet::new();
        let mut job = FetchJob::new(None);
        assert!(job.is_due() && job.running_since().is_none());
        job.start(|_| tasks.spawn(std::future::pending::<()>()));
        assert!(!job.is_due() && job.running_since().is_some());
        // It has ended, and its manifest is recorded.
        job.retry_at = Some(Instant::now());
        assert!(job.is_due() && job.running_since().is_some());
        job.schedule_retry();
        assert!(job.running_since().is_none());
        drop(job);
        let ended = tasks.join_next().await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}
