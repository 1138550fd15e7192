//! Fetches or copies the files that models need to this controller, and removes those that no model
//! needs.
//!
//! The leader fetches files from their sources and records manifests in the store. Every controller
//! copies the files of those manifests from another controller that has them, or from a node. Damaged
//! files are missing files: where nobody has a copy, the leader fetches them from the source again.

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{ModelFormat, ModelSource, Sha256Digest};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::blobs::BlobStore;
use super::copies::{Copies, CopySources};
use super::fetch::{SourceAccess, fetch};
use super::fetch_job::{FetchJob, MIN_RETRY_DELAY};
use super::fetched_file::FetchError;
use super::file_collector::{NeededFiles, StoreState};
use crate::fleet::records::encode;
use crate::fleet::{FleetHandle, FleetView};
use crate::store::{Leadership, Store, StoreError, StoreWrite, keys};
use crate::tls::ControllerClient;

/// How often progress is recorded, and due retries are started.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often files that no model needs are removed.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);
/// How often the disk is asked which files there are: somebody may have removed some.
const RESCAN_INTERVAL: Duration = Duration::from_secs(600);
/// Fetches that run at the same time.
const MAX_FETCHES: usize = 2;

/// Replicates model files to this controller.
pub(crate) struct ArtifactReplicator {
    /// Id of this controller.
    pub(crate) id: String,
    pub(crate) fleet: FleetHandle,
    pub(crate) store: Arc<dyn Store>,
    /// The leadership, while this controller has it.
    pub(crate) leader: watch::Receiver<Option<Arc<dyn Leadership>>>,
    pub(crate) blobs: BlobStore,
    /// What the sources of models may be.
    pub(crate) sources: SourceAccess,
    /// The client for the APIs of other controllers.
    pub(crate) controllers: ControllerClient,
}

/// The result of a task of [`ReplicationWork`].
enum FinishedJob {
    /// A fetch from a source, by the id of the source.
    Fetched(String, Result<Manifest, FetchError>),
    /// A copy of one file from another controller or a node.
    Copied(Sha256Digest, Result<(), String>),
    /// A look at the files on the disk.
    Checked(io::Result<()>),
}

/// Fetches and copies that run or wait.
struct ReplicationWork {
    tasks: JoinSet<FinishedJob>,
    /// By the id of the source.
    jobs: BTreeMap<String, FetchJob>,
    copies: Copies,
    /// Whether a look at the files on the disk runs.
    checking: bool,
    next_rescan: Instant,
}

impl ArtifactReplicator {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.fleet.changes();
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        let mut cleanup = tokio::time::interval(CLEANUP_INTERVAL);
        if let Err(error) = self.blobs.rescan().await {
            tracing::error!(%error, "the files of models cannot be listed; check --data-dir");
        }
        let mut work = ReplicationWork {
            tasks: JoinSet::new(),
            jobs: BTreeMap::new(),
            copies: Copies::default(),
            checking: false,
            next_rescan: Instant::now() + RESCAN_INTERVAL,
        };
        loop {
            let mut finished = None;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                // A task without a result was ended, since nobody needs it any more.
                Some(job) = work.tasks.join_next() => finished = job.ok(),
                _ = poll.tick() => self.start_check(&mut work),
                _ = cleanup.tick() => self.remove_unneeded_files().await,
            }
            let view = self.fleet.view();
            if !view.synced {
                self.blobs.set_needed(None);
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
            self.blobs.set_needed(needed_files(&view, &work));
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
        // A model that this version cannot read may name any source.
        let complete = !view.undecoded.hides_files;
        let unused = |id: &&String| complete && !sources.contains_key(*id);
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
        let running = work.jobs.values().filter(|job| job.retry_at.is_none());
        let mut running = running.count();
        for (id, (source, format)) in sources {
            let manifest = view.manifests.get(&source);
            let lost = manifest.and_then(|manifest| work.copies.failed_files(manifest));
            if let (Some(lost), ModelSource::Artifact(_)) = (&lost, &source) {
                let recorded = view.manifests.fetches.get(&id);
                let job = work.jobs.entry(id.clone());
                let job = job.or_insert_with(|| FetchJob::new(recorded.cloned()));
                writes.extend(job.record(&id, Some(&FetchError::Lost(lost.clone()))));
                continue;
            }
            if manifest.is_some() && lost.is_none() {
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
            if job.is_due() && running < MAX_FETCHES {
                running += 1;
                let (blobs, access) = (self.blobs.clone(), self.sources.clone());
                let id = id.clone();
                tracing::info!(%source, "fetching model files");
                job.start(|bytes| {
                    work.tasks.spawn(async move {
                        let progress = |fetched| bytes.store(fetched, Ordering::Relaxed);
                        let fetched = fetch(&source, format, &access, &blobs, &progress);
                        let fetched = unless_panicked(fetched).await;
                        let fetched = fetched.unwrap_or(Err(FetchError::Panicked));
                        FinishedJob::Fetched(id, fetched)
                    })
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
            FinishedJob::Copied(sha256, copied) => {
                work.copies.finish(sha256, copied.is_ok());
                if let Err(error) = copied {
                    tracing::warn!(%sha256, error, "a file of a model cannot be copied to this controller");
                }
                Ok(())
            }
            FinishedJob::Checked(checked) => {
                work.checking = false;
                if let Err(error) = checked {
                    tracing::warn!(%error, "the files of models cannot be checked; check --data-dir");
                }
                Ok(())
            }
            FinishedJob::Fetched(id, fetched) => {
                let (Some(leadership), Some(job)) = (leadership, work.jobs.get_mut(&id)) else {
                    return Ok(());
                };
                let known = self.fleet.view().manifests.fetched.get(&id).cloned();
                let fetched = fetched.and_then(|manifest| match &known {
                    Some(known) if **known != manifest => {
                        // What nodes run does not change because a file was lost here.
                        let lost = work.copies.failed_files(known).unwrap_or_default();
                        Err(FetchError::SourceChanged(lost))
                    }
                    _ => Ok(manifest),
                });
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
        for file in work.copies.start_due(view, &self.blobs) {
            let failures = work.copies.failures(file.sha256);
            let client = self.controllers.clone();
            let sources = CopySources::new(view, &self.id, client, file.sha256, failures);
            let blobs = self.blobs.clone();
            let sha256 = file.sha256;
            let copy = work.tasks.spawn(async move {
                let copied = unless_panicked(sources.copy(&file, &blobs)).await;
                let copied = copied.unwrap_or_else(|| Err("the copy has failed".into()));
                FinishedJob::Copied(sha256, copied)
            });
            work.copies.started(sha256, copy);
        }
    }

    /// Looks which files there are, or compares one of them with its digest, in the background.
    fn start_check(&self, work: &mut ReplicationWork) {
        if std::mem::replace(&mut work.checking, true) {
            return;
        }
        let rescan = work.next_rescan <= Instant::now();
        if rescan {
            work.next_rescan = Instant::now() + RESCAN_INTERVAL;
        }
        let blobs = self.blobs.clone();
        work.tasks.spawn(async move {
            let checked = unless_panicked(async {
                match rescan {
                    true => blobs.rescan().await,
                    false => blobs.scrub_next().await.map(drop),
                }
            });
            let checked = checked.await;
            let checked = checked.unwrap_or_else(|| Err(io::Error::other("the check has failed")));
            FinishedJob::Checked(checked)
        });
    }

    /// Removes files that no model has needed for long.
    async fn remove_unneeded_files(&self) {
        if let Err(error) = self.blobs.collect(0).await {
            tracing::warn!(%error, "files that no model needs cannot be removed");
        }
    }
}

/// Returns the files to keep. `None` while the view may be out of date or incomplete.
fn needed_files(view: &FleetView, work: &ReplicationWork) -> Option<NeededFiles> {
    if !view.is_of_store() || view.store_error.is_some() || view.undecoded.hides_files {
        return None;
    }
    Some(NeededFiles {
        store: StoreState {
            fleet_id: view.fleet_id.clone(),
            epoch: view.epoch,
            put_back: view.put_back,
        },
        manifests: view.needed_manifests().cloned().collect(),
        fetching_since: work.jobs.values().filter_map(FetchJob::running_since).min(),
    })
}

/// Returns the result of some work, or `None` if it has panicked, which is logged where it happens.
async fn unless_panicked<T>(work: impl Future<Output = T>) -> Option<T> {
    // Nothing that the work has changed is used afterwards.
    AssertUnwindSafe(work).catch_unwind().await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_has_an_end_all_the_same() {
        assert_eq!(unless_panicked(async { 7 }).await, Some(7));
        let panicked = unless_panicked(async { panic!("on purpose") });
        assert_eq!(panicked.await, None::<()>);
    }
}
