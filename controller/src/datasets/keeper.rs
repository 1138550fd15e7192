//! The task that owns the files of datasets, and the handle by which others reach it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use flotilla_core::TaskName;
use flotilla_core::dataset::DatasetRecord;
use flotilla_dispatch::DatasetSink;
use flotilla_telemetry::server_metrics::{DropReason, ServerMetrics};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::files::DatasetFiles;

/// The most operations that wait for the disk. A record takes at most about 64 kB. When they are as many,
/// records are dropped and counted, and requests to the admin API wait.
const QUEUE: usize = 256;

/// An operation on the files.
enum DatasetOperation {
    /// Adds a record to the dataset of its task, which keeps this many records.
    Keep(Box<DatasetRecord>, u32),
    /// Anything else.
    Run(Box<dyn FnOnce(&mut DatasetFiles) + Send>),
}

/// Reaches the files of datasets. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DatasetHandle {
    operations: mpsc::Sender<DatasetOperation>,
}

/// Owns the files of datasets, and works on them in the order of the operations.
pub(crate) struct DatasetKeeper {
    dir: PathBuf,
    files: DatasetFiles,
    operations: mpsc::Receiver<DatasetOperation>,
    metrics: Arc<ServerMetrics>,
    /// Whether the last record could not be written, so that it is logged once.
    is_failing: bool,
}

impl DatasetKeeper {
    /// Creates the keeper of the files in `dir`, and its handle. `metrics` counts the records that the disk
    /// refuses.
    pub(crate) fn new(dir: PathBuf, metrics: Arc<ServerMetrics>) -> (Self, DatasetHandle) {
        let (sender, operations) = mpsc::channel(QUEUE);
        let keeper = Self {
            files: DatasetFiles::in_dir(dir.clone()),
            dir,
            operations,
            metrics,
            is_failing: false,
        };
        let handle = DatasetHandle { operations: sender };
        (keeper, handle)
    }

    /// Works until `stop`, and then on what was handed over before.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let remove_partial = DatasetOperation::Run(Box::new(|files| {
            if let Err(error) = files.remove_partial() {
                tracing::warn!(%error, "the folder of datasets may have files that are not complete");
            }
        }));
        self.work(vec![remove_partial]).await;
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                received = self.operations.recv_many(&mut batch, QUEUE) => if received == 0 {
                    return;
                },
                () = stop.cancelled(), if !self.operations.is_closed() => self.operations.close(),
            }
            self.work(batch).await;
        }
    }

    async fn work(&mut self, batch: Vec<DatasetOperation>) {
        if batch.is_empty() {
            return;
        }
        let replacement = DatasetFiles::in_dir(self.dir.clone());
        let mut files = std::mem::replace(&mut self.files, replacement);
        let work = move || {
            let failed = work(&mut files, batch);
            (files, failed)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((files, failed)) => {
                self.files = files;
                self.report(&failed);
            }
            Err(error) => tracing::error!(%error, "an operation on datasets has failed"),
        }
    }

    /// Counts the records that could not be written, and logs the first of a series.
    fn report(&mut self, writes: &[WriteResult]) {
        for WriteResult {
            task,
            records,
            error,
        } in writes
        {
            let Some(error) = error else {
                self.is_failing = false;
                continue;
            };
            for _ in 0..*records {
                self.metrics
                    .record_dropped_record(task.as_str(), DropReason::DiskFailed);
            }
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(%task, error, "a dataset cannot be written: its new records are lost until it can");
            }
        }
    }
}

/// How the writing of records went.
struct WriteResult {
    task: TaskName,
    records: usize,
    error: Option<String>,
}

/// Does the operations in their order; records that follow each other are written together. Blocks.
fn work(files: &mut DatasetFiles, batch: Vec<DatasetOperation>) -> Vec<WriteResult> {
    let mut results = Vec::new();
    let mut unwritten: BTreeMap<TaskName, (u32, Vec<DatasetRecord>)> = BTreeMap::new();
    for operation in batch {
        match operation {
            DatasetOperation::Keep(record, keep) => {
                let of_task = unwritten.entry(record.task.clone()).or_default();
                of_task.0 = keep;
                of_task.1.push(*record);
            }
            DatasetOperation::Run(run) => {
                write(files, &mut unwritten, &mut results);
                run(files);
            }
        }
    }
    write(files, &mut unwritten, &mut results);
    results
}

fn write(
    files: &mut DatasetFiles,
    unwritten: &mut BTreeMap<TaskName, (u32, Vec<DatasetRecord>)>,
    results: &mut Vec<WriteResult>,
) {
    for (task, (keep, records)) in std::mem::take(unwritten) {
        let count = records.len();
        let written = files.append(&task, records, keep as usize);
        results.push(WriteResult {
            task,
            records: count,
            error: written.err().map(|error| error.to_string()),
        });
    }
}

impl DatasetHandle {
    /// Does `work` on the files, after everything that was handed over before. Waits for it. `None` if the
    /// controller stops.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DatasetFiles) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let work = move |files: &mut DatasetFiles| {
            // Who has asked may be gone.
            let _ = sender.send(work(files));
        };
        let operation = DatasetOperation::Run(Box::new(work));
        self.operations.send(operation).await.ok()?;
        receiver.await.ok()
    }
}

impl DatasetSink for DatasetHandle {
    fn keep(&self, record: DatasetRecord, keep: u32) -> bool {
        let operation = DatasetOperation::Keep(Box::new(record), keep);
        self.operations.try_send(operation).is_ok()
    }

    fn remove(&self, task: &TaskName, decision: &str) -> bool {
        let (task, decision) = (task.clone(), decision.to_owned());
        let work = move |files: &mut DatasetFiles| {
            if let Err(error) = files.remove(&task, &decision) {
                tracing::error!(%task, decision, %error, "the record of a request that is held to privacy zones cannot be removed: delete it with `flotilla dataset delete`");
            }
        };
        let operation = DatasetOperation::Run(Box::new(work));
        self.operations.try_send(operation).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::dataset::DatasetMessage;
    use flotilla_core::spec::LearnSource;
    use flotilla_telemetry::Telemetry;

    fn record(number: u64) -> DatasetRecord {
        DatasetRecord {
            messages: vec![DatasetMessage::user("hi")],
            answer: None,
            source: LearnSource::Feedback,
            task: TaskName::new("t").unwrap(),
            feedback: None,
            model: None,
            confidence: None,
            decision: format!("c-{number}"),
            at: number,
        }
    }

    fn start(dir: PathBuf) -> (DatasetKeeper, DatasetHandle) {
        let metrics = ServerMetrics::new(&Telemetry::disabled().meter());
        DatasetKeeper::new(dir, Arc::new(metrics))
    }

    async fn count(handle: &DatasetHandle) -> Option<usize> {
        let task = TaskName::new("t").unwrap();
        let read = handle.run(move |files| files.read(&task, None)).await?;
        Some(read.unwrap().len())
    }

    #[tokio::test]
    async fn a_read_sees_what_was_handed_over_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, handle) = start(dir.path().join("datasets"));
        let stop = CancellationToken::new();
        let running = tokio::spawn(keeper.run(stop.clone()));
        for number in 0..3 {
            assert!(handle.keep(record(number), 10));
        }
        assert_eq!(count(&handle).await, Some(3));
        assert!(handle.remove(&TaskName::new("t").unwrap(), "c-1"));
        assert_eq!(count(&handle).await, Some(2));
        stop.cancel();
        running.await.unwrap();
        assert_eq!(count(&handle).await, None);
        assert!(!handle.keep(record(4), 10));
    }

    #[tokio::test]
    async fn records_that_the_queue_has_no_room_for_are_refused_and_the_others_written_at_the_end()
    {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, handle) = start(dir.path().into());
        let taken = (0..2 * QUEUE as u64).filter(|number| handle.keep(record(*number), 1_000));
        assert_eq!(taken.count(), QUEUE);
        let stop = CancellationToken::new();
        stop.cancel();
        keeper.run(stop).await;
        let files = DatasetFiles::in_dir(dir.path().into());
        let task = TaskName::new("t").unwrap();
        assert_eq!(files.read(&task, None).unwrap().len(), QUEUE);
    }

    #[tokio::test]
    async fn a_disk_that_fails_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("datasets");
        std::fs::write(&blocked, "no folder").unwrap();
        let (keeper, handle) = start(blocked.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn(keeper.run(stop.clone()));
        assert!(handle.keep(record(1), 10));
        let task = TaskName::new("t").unwrap();
        let read = handle.run(move |files| files.read(&task, None)).await;
        assert!(read.unwrap().is_err());
        std::fs::remove_file(&blocked).unwrap();
        assert!(handle.keep(record(2), 10));
        assert_eq!(count(&handle).await, Some(1));
        stop.cancel();
        running.await.unwrap();
    }
}
