//! Sees to it that the files that models need are on this controller, and others not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// How often progress is told and what is not needed collected.
const LOOK: Duration = Duration::from_secs(1);
/// How often files that nothing needs are looked for.
const COLLECT: Duration = Duration::from_secs(600);
/// Pause after a fetch failed; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Sees to the files.
pub(crate) struct ArtifactReplicator {
    pub(crate) id: String,
    pub(crate) fleet: FleetHandle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) leader: watch::Receiver<Option<Arc<dyn Leadership>>>,
    pub(crate) blobs: BlobStore,
    /// Where files are while they are on their way.
    pub(crate) scratch: PathBuf,
}

/// What is being fetched, or was in vain.
struct FetchJob {
    done: Arc<AtomicU64>,
    told: Option<FetchRecord>,
    failures: u32,
    /// `None` while it runs.
    again: Option<Instant>,
}

enum FinishedJob {
    Fetched(String, Result<Manifest, FetchError>),
    Copied(Sha256Digest, Result<(), String>),
}

/// What the keeper is busy with.
#[derive(Default)]
struct ReplicationWork {
    tasks: JoinSet<FinishedJob>,
    jobs: BTreeMap<String, FetchJob>,
    /// Files being copied, or when to try again.
    copies: HashMap<Sha256Digest, Option<Instant>>,
}

impl ArtifactReplicator {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.fleet.changes();
        let mut look = tokio::time::interval(LOOK);
        let mut collect = tokio::time::interval(COLLECT);
        let mut work = ReplicationWork::default();
        loop {
            let mut done = None;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                Some(ended) = work.tasks.join_next() => match ended {
                    Ok(ended) => done = Some(ended),
                    Err(error) => tracing::error!(%error, "a task with files has failed"),
                },
                _ = look.tick() => {}
                _ = collect.tick() => self.collect().await,
            }
            let view = self.fleet.view();
            if !view.synced {
                continue;
            }
            let leadership = self.leader.borrow_and_update().clone();
            let went = match (done, &leadership) {
                (Some(done), leadership) => {
                    self.finish(done, &mut work, leadership.as_deref()).await
                }
                (None, _) => Ok(()),
            };
            self.copy(&view, &mut work);
            let led = match &leadership {
                Some(leadership) => self.lead(&view, &mut work, leadership.as_ref()).await,
                None => {
                    work.jobs.clear();
                    Ok(())
                }
            };
            if let Err(error) = went.and(led) {
                tracing::warn!(%error, "what became of files could not be noted");
            }
        }
    }

    /// The leader's part: fetches what models name and nobody has fetched.
    async fn lead(
        &self,
        view: &FleetView,
        work: &mut ReplicationWork,
        leadership: &dyn Leadership,
    ) -> Result<(), StoreError> {
        let mut wanted: BTreeMap<String, (ModelSource, Option<ModelFormat>)> = BTreeMap::new();
        for model in view.models.values() {
            let spec = &model.endpoints.model.spec;
            if let Some(source) = spec.source.as_ref().filter(|source| source.is_delivered()) {
                wanted.insert(keys::source_id(source), (source.clone(), spec.format));
            }
        }
        let mut writes = Vec::new();
        // What nobody names any more is forgotten, the files with it in time.
        let forgotten = |id: &&String| !wanted.contains_key(*id);
        for id in view.files.fetched.keys().filter(forgotten) {
            writes.push(StoreWrite::Delete {
                key: keys::fetched_manifest(id),
            });
        }
        for id in view.files.fetches.keys().filter(forgotten) {
            writes.push(StoreWrite::Delete {
                key: keys::fetch_progress(id),
            });
        }
        work.jobs.retain(|id, _| wanted.contains_key(id));
        for (id, (source, format)) in wanted {
            if view.files.get(&source).is_some() {
                if view.files.fetches.contains_key(&id) {
                    writes.push(StoreWrite::Delete {
                        key: keys::fetch_progress(&id),
                    });
                }
                work.jobs.remove(&id);
                continue;
            }
            let job = work.jobs.entry(id.clone()).or_insert_with(|| FetchJob {
                done: Arc::default(),
                told: view.files.fetches.get(&id).cloned(),
                failures: 0,
                again: Some(Instant::now()),
            });
            if job.again.is_some_and(|again| again <= Instant::now()) {
                job.again = None;
                job.done.store(0, Ordering::Relaxed);
                let (blobs, scratch) = (self.blobs.clone(), self.scratch.join(&id));
                let (done, id) = (job.done.clone(), id.clone());
                tracing::info!(%source, "fetching");
                work.tasks.spawn(async move {
                    let progress = |bytes| done.store(bytes, Ordering::Relaxed);
                    let fetched = fetch(&source, format, &blobs, &scratch, &progress).await;
                    // What was on its way is in the blobs now, or of no use.
                    if fetched.is_ok() {
                        let _ = tokio::fs::remove_dir_all(&scratch).await;
                    }
                    FinishedJob::Fetched(id, fetched)
                });
            }
            if job.again.is_none() {
                let record = FetchRecord {
                    fetched_bytes: job.done.load(Ordering::Relaxed),
                    error: String::new(),
                    remedy: String::new(),
                };
                writes.extend(job.tell(&id, record));
            }
        }
        self.write(leadership, writes).await
    }

    async fn finish(
        &self,
        done: FinishedJob,
        work: &mut ReplicationWork,
        leadership: Option<&dyn Leadership>,
    ) -> Result<(), StoreError> {
        match done {
            FinishedJob::Copied(sha256, Ok(())) => {
                work.copies.remove(&sha256);
                Ok(())
            }
            FinishedJob::Copied(sha256, Err(error)) => {
                tracing::warn!(%sha256, error, "no other controller has given it");
                work.copies
                    .insert(sha256, Some(Instant::now() + FIRST_PAUSE));
                Ok(())
            }
            FinishedJob::Fetched(id, fetched) => {
                let (Some(leadership), Some(job)) = (leadership, work.jobs.get_mut(&id)) else {
                    return Ok(());
                };
                let writes = match fetched {
                    Ok(manifest) => {
                        job.again = Some(Instant::now() + FIRST_PAUSE);
                        vec![
                            StoreWrite::put(keys::fetched_manifest(&id), encode(&manifest)),
                            StoreWrite::Delete {
                                key: keys::fetch_progress(&id),
                            },
                        ]
                    }
                    Err(error) => {
                        let pause = FIRST_PAUSE * 2u32.saturating_pow(job.failures);
                        job.failures += 1;
                        job.again = Some(Instant::now() + pause.min(LONGEST_PAUSE));
                        let record = FetchRecord {
                            fetched_bytes: job.done.load(Ordering::Relaxed),
                            error: error.to_string(),
                            remedy: error.remedy().to_owned(),
                        };
                        job.tell(&id, record).into_iter().collect()
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

    /// Copies from other controllers what models need and is not here.
    fn copy(&self, view: &FleetView, work: &mut ReplicationWork) {
        let now = Instant::now();
        for sha256 in view.needed_files() {
            let busy = match work.copies.get(&sha256) {
                Some(None) => true,
                Some(Some(again)) => *again > now,
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

    /// Removes files that nothing needs any more.
    async fn collect(&self) {
        let view = self.fleet.view();
        if !view.synced || view.store_problem.is_some() {
            return;
        }
        let needed: HashSet<Sha256Digest> = view.needed_files().collect();
        if let Err(error) = self.blobs.collect(|sha256| needed.contains(&sha256)).await {
            tracing::warn!(%error, "files that nothing needs could not be removed");
        }
    }
}

impl FetchJob {
    /// Tells how it goes, if that is news.
    fn tell(&mut self, id: &str, record: FetchRecord) -> Option<StoreWrite> {
        if self.told.as_ref() == Some(&record) {
            return None;
        }
        let write = StoreWrite::put(keys::fetch_progress(id), encode(&record));
        self.told = Some(record);
        Some(write)
    }
}

/// Copies a file from the first controller that has it.
async fn copy(sha256: Sha256Digest, others: &[String], blobs: &BlobStore) -> Result<(), String> {
    let client = reqwest::Client::new();
    let mut last = String::new();
    for other in others {
        let url = format!("http://{other}/api/v1/blobs/{sha256}");
        let response = client.get(url).send().await;
        match response.and_then(reqwest::Response::error_for_status) {
            Ok(response) => {
                let pieces = response.bytes_stream().map_err(|e| e.to_string());
                match blobs.put(Some(sha256), pieces, |_| {}).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}
