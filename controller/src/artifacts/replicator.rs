//! Fetches or copies the files that models need to this controller, and removes those that no model
//! needs.
//!
//! The leader fetches files from their sources and records manifests in the store. Every controller
//! copies the files of those manifests from another controller that has them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{ModelFormat, ModelSource, Sha256Digest};
use futures::TryStreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::blobs::BlobStore;
use super::fetch::{FetchError, fetch};
use crate::fleet::records::encode;
use crate::fleet::{FetchRecord, FleetHandle, FleetView};
use crate::store::{Leadership, Store, StoreError, StoreWrite, keys};

/// How often progress is recorded, and due retries are started.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often files that no model needs are removed.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);
/// Delay before the first retry of a fetch; it doubles with each failure.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Longest delay before a retry.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);

/// Replicates model files to this controller.
pub(crate) struct ArtifactReplicator {
    /// Id of this controller.
    pub(crate) id: String,
    pub(crate) fleet: FleetHandle,
    pub(crate) store: Arc<dyn Store>,
    /// The leadership, while this controller has it.
    pub(crate) leader: watch::Receiver<Option<Arc<dyn Leadership>>>,
    pub(crate) blobs: BlobStore,
    /// Folder for unfinished downloads.
    pub(crate) scratch: PathBuf,
}

/// The fetch of one source, which runs or waits for its next attempt.
struct FetchJob {
    /// Bytes fetched so far.
    bytes: Arc<AtomicU64>,
    /// The progress that was recorded last.
    recorded: Option<FetchRecord>,
    delays: ExponentialBackoff,
    /// When the next attempt starts. `None` while one runs.
    retry_at: Option<Instant>,
}

/// The result of a task of [`ReplicationWork`].
enum FinishedJob {
    /// A fetch from a source, by the id of the source.
    Fetched(String, Result<Manifest, FetchError>),
    /// A copy of one file from another controller.
    Copied(Sha256Digest, Result<(), String>),
}

/// Fetches and copies that run or wait.
#[derive(Default)]
struct ReplicationWork {
    tasks: JoinSet<FinishedJob>,
    /// By the id of the source.
    jobs: BTreeMap<String, FetchJob>,
    /// Files that are being copied (`None`), or when the next attempt may start.
    copies: HashMap<Sha256Digest, Option<Instant>>,
}

impl FetchJob {
    /// A job whose first attempt is due. `recorded` is the progress that the store has of it.
    fn new(recorded: Option<FetchRecord>) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(MIN_RETRY_DELAY)
            .with_max_delay(MAX_RETRY_DELAY)
            .with_factor(2.0)
            .without_max_times();
        Self {
            bytes: Arc::default(),
            recorded,
            delays: delays.build(),
            retry_at: Some(Instant::now()),
        }
    }

    /// Schedules the next attempt after a failure.
    fn schedule_retry(&mut self) {
        let delay = self.delays.next().unwrap_or(MAX_RETRY_DELAY);
        self.retry_at = Some(Instant::now() + delay);
    }

    /// The write that records the job's progress, and its `error` if it has failed. `None` when the
    /// store already has it.
    fn record(&mut self, source_id: &str, error: Option<&FetchError>) -> Option<StoreWrite> {
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

impl ArtifactReplicator {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.fleet.changes();
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        let mut cleanup = tokio::time::interval(CLEANUP_INTERVAL);
        let mut work = ReplicationWork::default();
        loop {
            let mut finished = None;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                Some(job) = work.tasks.join_next() => match job {
                    Ok(job) => finished = Some(job),
                    Err(error) => tracing::error!(%error, "a fetch or copy of model files panicked"),
                },
                _ = poll.tick() => {}
                _ = cleanup.tick() => self.remove_unused_files().await,
            }
            let view = self.fleet.view();
            if !view.synced {
                continue;
            }
            let leadership = self.leader.borrow_and_update().clone();
            let recorded = match finished {
                Some(job) => self.finish(job, &mut work, leadership.as_deref()).await,
                None => Ok(()),
            };
            self.start_copies(&view, &mut work);
            let fetched = match &leadership {
                Some(leadership) => {
                    self.run_fetches(&view, &mut work, leadership.as_ref())
                        .await
                }
                None => {
                    work.jobs.clear();
                    Ok(())
                }
            };
            if let Err(error) = recorded.and(fetched) {
                tracing::warn!(%error, "the progress of fetching model files cannot be recorded");
            }
        }
    }

    /// As leader: starts due fetches of sources that models name, records their progress, and
    /// removes the records of sources that no model names any more.
    async fn run_fetches(
        &self,
        view: &FleetView,
        work: &mut ReplicationWork,
        leadership: &dyn Leadership,
    ) -> Result<(), StoreError> {
        let mut sources: BTreeMap<String, (ModelSource, Option<ModelFormat>)> = BTreeMap::new();
        for model in view.models.values() {
            let spec = &model.endpoints.model.spec;
            if let Some(source) = spec.source.as_ref().filter(|source| source.is_delivered()) {
                sources.insert(keys::source_id(source), (source.clone(), spec.format));
            }
        }
        let mut writes = Vec::new();
        let unused = |id: &&String| !sources.contains_key(*id);
        for id in view.manifests.fetched.keys().filter(unused) {
            writes.push(StoreWrite::Delete {
                key: keys::fetched_manifest(id),
            });
        }
        for id in view.manifests.fetches.keys().filter(unused) {
            writes.push(StoreWrite::Delete {
                key: keys::fetch_progress(id),
            });
        }
        work.jobs.retain(|id, _| sources.contains_key(id));
        for (id, (source, format)) in sources {
            if view.manifests.get(&source).is_some() {
                if view.manifests.fetches.contains_key(&id) {
                    writes.push(StoreWrite::Delete {
                        key: keys::fetch_progress(&id),
                    });
                }
                work.jobs.remove(&id);
                continue;
            }
            let recorded = view.manifests.fetches.get(&id);
            let job = work.jobs.entry(id.clone());
            let job = job.or_insert_with(|| FetchJob::new(recorded.cloned()));
            if job.retry_at.is_some_and(|at| at <= Instant::now()) {
                job.retry_at = None;
                job.bytes.store(0, Ordering::Relaxed);
                let (blobs, scratch) = (self.blobs.clone(), self.scratch.join(&id));
                let (bytes, id) = (job.bytes.clone(), id.clone());
                tracing::info!(%source, "fetching model files");
                work.tasks.spawn(async move {
                    let progress = |fetched| bytes.store(fetched, Ordering::Relaxed);
                    let fetched = fetch(&source, format, &blobs, &scratch, &progress).await;
                    // After a failure the unfinished downloads stay for the next attempt.
                    if fetched.is_ok() {
                        let _ = tokio::fs::remove_dir_all(&scratch).await;
                    }
                    FinishedJob::Fetched(id, fetched)
                });
            }
            if job.retry_at.is_none() {
                writes.extend(job.record(&id, None));
            }
        }
        self.write(leadership, writes).await
    }

    /// Records the result of a fetch or copy.
    async fn finish(
        &self,
        job: FinishedJob,
        work: &mut ReplicationWork,
        leadership: Option<&dyn Leadership>,
    ) -> Result<(), StoreError> {
        match job {
            FinishedJob::Copied(sha256, Ok(())) => {
                work.copies.remove(&sha256);
                Ok(())
            }
            FinishedJob::Copied(sha256, Err(error)) => {
                tracing::warn!(%sha256, error, "a file cannot be copied from another controller");
                let retry_at = Instant::now() + MIN_RETRY_DELAY;
                work.copies.insert(sha256, Some(retry_at));
                Ok(())
            }
            FinishedJob::Fetched(id, fetched) => {
                let (Some(leadership), Some(job)) = (leadership, work.jobs.get_mut(&id)) else {
                    return Ok(());
                };
                let writes = match fetched {
                    Ok(manifest) => {
                        // The job is removed once the view has the manifest.
                        job.retry_at = Some(Instant::now() + MIN_RETRY_DELAY);
                        vec![
                            StoreWrite::put(keys::fetched_manifest(&id), encode(&manifest)),
                            StoreWrite::Delete {
                                key: keys::fetch_progress(&id),
                            },
                        ]
                    }
                    Err(error) => {
                        job.schedule_retry();
                        job.record(&id, Some(&error)).into_iter().collect()
                    }
                };
                self.write(leadership, writes).await
            }
        }
    }

    async fn write(
        &self,
        leadership: &dyn Leadership,
        writes: Vec<StoreWrite>,
    ) -> Result<(), StoreError> {
        self.store.write_all(leadership.fence(), writes).await
    }

    /// Starts copies of needed files that this controller does not have.
    fn start_copies(&self, view: &FleetView, work: &mut ReplicationWork) {
        let now = Instant::now();
        for sha256 in view.needed_files() {
            let busy = match work.copies.get(&sha256) {
                Some(None) => true,
                Some(Some(retry_at)) => *retry_at > now,
                None => false,
            };
            if busy || self.blobs.path(sha256).exists() {
                continue;
            }
            let others = view.controllers.iter().filter(|(id, _)| **id != self.id);
            let others: Vec<String> = others.map(|(_, c)| c.http.clone()).collect();
            if others.is_empty() {
                continue;
            }
            work.copies.insert(sha256, None);
            let blobs = self.blobs.clone();
            work.tasks.spawn(async move {
                FinishedJob::Copied(sha256, copy(sha256, &others, &blobs).await)
            });
        }
    }

    /// Removes files that no model needs. Does nothing while the view may be out of date.
    async fn remove_unused_files(&self) {
        let view = self.fleet.view();
        if !view.synced || view.store_error.is_some() {
            return;
        }
        let needed: HashSet<Sha256Digest> = view.needed_files().collect();
        if let Err(error) = self
            .blobs
            .remove_unused(|sha256| needed.contains(&sha256))
            .await
        {
            tracing::warn!(%error, "files that no model needs cannot be removed");
        }
    }
}

/// Copies a file from the first of the `controllers` (`host:port`) that has it. The error is that of
/// the last one.
async fn copy(
    sha256: Sha256Digest,
    controllers: &[String],
    blobs: &BlobStore,
) -> Result<(), String> {
    let client = reqwest::Client::new();
    let mut last_error = String::new();
    for address in controllers {
        let url = format!("http://{address}/api/v1/blobs/{sha256}");
        let response = client.get(url).send().await;
        match response.and_then(reqwest::Response::error_for_status) {
            Ok(response) => {
                let chunks = response.bytes_stream().map_err(|e| e.to_string());
                match blobs.put(Some(sha256), chunks, |_| {}).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last_error = error.to_string(),
                }
            }
            Err(error) => last_error = error.to_string(),
        }
    }
    Err(last_error)
}
