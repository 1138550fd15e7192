//! The audit log of this controller: changes, and requests that were refused for who sent them. It is written off the
//! request path.

mod files;
mod objects;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_identity::audit::AuditRecord;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use files::AuditFiles;
pub(crate) use objects::{ChangedObjects, object_at};

use crate::fleet::FleetView;

/// How many records may wait to be written.
const CAPACITY: usize = 4_096;
/// How many of them are written at once.
const BATCH: usize = 256;

/// A record that is not written yet.
pub(crate) struct PendingRecord {
    /// The record, without its digests.
    pub(crate) record: AuditRecord,
    /// The objects of the request, such as `model/m`; one record is written for each. None: one record for all.
    pub(crate) objects: Vec<String>,
    /// The fleet before and after a change.
    pub(crate) views: Option<(Arc<FleetView>, Arc<FleetView>)>,
}

/// Records changes and refusals. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AuditLog {
    sender: mpsc::Sender<PendingRecord>,
    /// Records that could not be sent since the last one that was.
    lost: Arc<AtomicU64>,
}

impl AuditLog {
    /// Creates a log that writes to `files`, and the future that writes it until `stop` is cancelled.
    pub(crate) fn new(
        files: AuditFiles,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let log = Self {
            sender,
            lost: Arc::default(),
        };
        (log, run(receiver, files, stop))
    }

    /// Records a request. Does not wait: one that comes while too many wait to be written is counted as lost.
    pub(crate) fn record(&self, mut pending: PendingRecord) {
        let Ok(permit) = self.sender.try_reserve() else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        pending.record.lost_before = self.lost.swap(0, Ordering::Relaxed);
        permit.send(pending);
    }
}

async fn run(
    mut receiver: mpsc::Receiver<PendingRecord>,
    files: AuditFiles,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            received = receiver.recv_many(&mut batch, BATCH) => if received == 0 {
                return;
            },
            // What was sent before the stop is written.
            () = stop.cancelled() => return,
        }
        let (pending, files) = (std::mem::take(&mut batch), files.clone());
        let written = tokio::task::spawn_blocking(move || {
            let records = pending.into_iter().flat_map(complete);
            files.append(&records.collect::<Vec<_>>())
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit log cannot be written"),
            Err(error) => tracing::error!(%error, "the audit log cannot be written"),
        }
    }
}

/// Adds the objects and their digests to a record.
fn complete(pending: PendingRecord) -> Vec<AuditRecord> {
    let PendingRecord {
        record,
        objects,
        views,
    } = pending;
    if objects.is_empty() {
        return vec![record];
    }
    let of_object = |object: String| {
        let digests = views.as_ref().map(|(before, after)| {
            (
                objects::digest(before, &object),
                objects::digest(after, &object),
            )
        });
        let (before, after) = digests.unwrap_or_default();
        AuditRecord {
            object,
            before,
            after,
            ..record.clone()
        }
    };
    objects.into_iter().map(of_object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> PendingRecord {
        PendingRecord {
            record: AuditRecord {
                at: 1,
                controller: "c".into(),
                principal: "open".into(),
                address: String::new(),
                action: "POST /api/v1/apply".into(),
                object: String::new(),
                status: 200,
                before: None,
                after: None,
                lost_before: 0,
            },
            objects: vec!["model/a".into(), "model/b".into()],
            views: None,
        }
    }

    #[tokio::test]
    async fn records_are_written_before_the_stop_and_lost_ones_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let files = AuditFiles::in_dir(dir.path());
        let stop = CancellationToken::new();
        let (log, run) = AuditLog::new(files.clone(), stop.clone());
        for _ in 0..CAPACITY + 3 {
            log.record(pending());
        }
        stop.cancel();
        run.await;
        let read = files.read(0, usize::MAX).unwrap();
        assert_eq!(read.len(), 2 * CAPACITY);
        assert_eq!(log.lost.load(Ordering::Relaxed), 3);
    }
}
