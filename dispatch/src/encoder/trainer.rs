//! Embeds the examples of the tasks in the background and trains the encoder classifier, whenever the classifier, the
//! router's encoder or the revision that it serves changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::{Priority, QueueKey};
use flotilla_core::routing::{EncoderClassifier, EncoderExample};
use flotilla_core::{ModelName, ModelRevision};
use tokio_util::sync::CancellationToken;

use super::call::{CallError, EncoderCall};
use super::vector_cache::VectorCache;
use super::zones::encoder_zones;
use super::{Encoder, EncoderState, EncoderStatus, TrainedEncoder};
use crate::dispatch_context::DispatchContext;
use crate::{LatestClassifier, TrainedClassifier};

/// The texts of one call. With 10 ms a text a call takes no longer than a short answer, so that the replica is soon free for
/// requests.
const BATCH: usize = 16;
/// The longest time of a call.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// The time to the next attempt after the first that fails, doubled each time up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Trains encoder classifiers.
pub(crate) struct EncoderTrainer {
    pub(crate) encoder: Encoder,
    pub(crate) context: DispatchContext,
    pub(crate) classifier: LatestClassifier,
}

/// What is to be trained.
struct Job {
    model: ModelName,
    revision: ModelRevision,
    beside: Arc<TrainedClassifier>,
    examples: Arc<[EncoderExample]>,
}

/// When the next attempt may be made after one that failed.
struct Retry {
    at: Instant,
    delay: Duration,
    /// Replicas of the model when the attempt failed. With more the next is made at once.
    replicas: usize,
}

impl EncoderTrainer {
    /// Trains an encoder classifier whenever something that it depends on changes, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.context.view.changes();
        let (mut cache, mut retry) = (VectorCache::default(), None::<Retry>);
        let mut job = None;
        loop {
            changes.borrow_and_update();
            self.classifier.borrow_and_update();
            job = self.job(job.take());
            let is_due = retry.as_ref().is_none_or(|retry| {
                let replicas = job.as_ref().map_or(0, |job| self.replicas(&job.model));
                retry.at <= Instant::now() || replicas > retry.replicas
            });
            if job.as_ref().is_some_and(|job| self.is_trained(job)) {
                retry = None;
                self.publish_trained();
            } else if let Some(job) = job.as_ref().filter(|_| is_due) {
                match self.advance(job, &mut cache).await {
                    Ok(()) => {
                        retry = None;
                        if !stop.is_cancelled() {
                            continue;
                        }
                    }
                    Err(problem) => {
                        self.publish(job, &cache, Some(problem));
                        let last = retry.map_or(Duration::ZERO, |retry| retry.delay);
                        let delay = (2 * last).clamp(BACKOFF, MAX_BACKOFF);
                        retry = Some(Retry {
                            at: Instant::now() + delay,
                            delay,
                            replicas: self.replicas(&job.model),
                        });
                    }
                }
            }
            let until = retry.as_ref().map(|retry| retry.at);
            let timer = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return; },
                changed = self.classifier.changed() => if changed.is_err() { return; },
                () = timer, if job.is_some() => {}
            }
        }
    }

    /// What is to be trained now: the `last` job if it still is. `None` if the router names no encoder, or there is no
    /// classifier to train it beside.
    fn job(&self, last: Option<Job>) -> Option<Job> {
        let view = self.context.view.peek();
        let router = view.routing.router.as_ref();
        let Some(model) = router.and_then(|router| router.encoder.as_ref()) else {
            self.encoder.state.send_if_modified(|state| {
                let was_used = state.status.is_some();
                *state = EncoderState::default();
                was_used
            });
            return None;
        };
        let latest = self.classifier.borrow().clone();
        let beside = latest.filter(|latest| latest.classifier.is_some())?;
        let endpoints = view.models.get(model);
        let revision = endpoints.map_or_else(ModelRevision::default, |e| e.serving_revision());
        if let Some(last) = last
            && last.model == *model
            && last.revision == revision
            && Arc::ptr_eq(&last.beside, &beside)
        {
            return Some(last);
        }
        let classifier = beside.classifier.as_ref()?;
        let job = Job {
            model: model.clone(),
            revision,
            examples: classifier.encoder_examples(beside.examples()).into(),
            beside,
        };
        Some(job)
    }

    fn is_trained(&self, job: &Job) -> bool {
        let state = self.encoder.state.borrow();
        state.trained.as_ref().is_some_and(|trained| {
            trained.model == job.model
                && trained.revision == job.revision
                && Arc::ptr_eq(&trained.beside, &job.beside)
        })
    }

    /// The number of replicas of a model.
    fn replicas(&self, model: &ModelName) -> usize {
        let view = self.context.view.peek();
        let endpoints = view.models.get(model);
        endpoints.map_or(0, |endpoints| endpoints.replicas().len())
    }

    /// Embeds some of the examples that have no vector yet, or trains if all have one.
    ///
    /// # Errors
    /// What is in the way, for people.
    async fn advance(&self, job: &Job, cache: &mut VectorCache) -> Result<(), String> {
        let view = self.context.view.load();
        if !view.models.contains_key(&job.model) {
            return Err(format!("there is no model '{}'", job.model));
        }
        cache.keep(&job.model, job.revision, &job.examples);
        let mut missing = cache.missing(&job.examples);
        if missing.is_empty() {
            let trained = self.train(job, cache).await;
            if trained.is_err() {
                // The vectors may be at fault.
                *cache = VectorCache::default();
            }
            return trained;
        }
        missing.truncate(BATCH);
        let vectors = self.embed(job, &missing).await?;
        for (text, vector) in missing.into_iter().zip(vectors) {
            cache.insert(text, vector);
        }
        self.publish(job, cache, None);
        Ok(())
    }

    /// Embeds texts through the fleet, after all other requests.
    async fn embed(&self, job: &Job, texts: &[Arc<str>]) -> Result<Vec<Vec<f32>>, String> {
        let view = self.context.view.load();
        let zones = encoder_zones(&view.routing, None);
        let held = zones.is_some();
        let call = EncoderCall {
            model: &job.model,
            revision: job.revision,
            texts: texts.iter().map(|text| (**text).to_owned()).collect(),
            zones,
            queue_key: QueueKey {
                priority: Priority::Low,
                fairness_key: 0,
            },
            timeout: BATCH_TIMEOUT,
        };
        let grid = view.routing.grid.clone();
        let observer = &self.context.observer;
        let request = observer.start_request("embeddings", 0, grid);
        // It is no request of a client: only its energy counts.
        request.hand_to_recorder();
        let result = call.send(&self.context, &request).await;
        result.vectors.map_err(|error| match error {
            CallError::Busy => "all replicas of the model are busy".to_owned(),
            CallError::Unavailable { is_expected } => {
                if is_expected {
                    self.context.pending.wake_up(&job.model);
                }
                "no replica of the model is ready".to_owned()
            }
            CallError::Zone => {
                "no replica of the model is in a privacy zone that all tasks with zones allow"
                    .to_owned()
            }
            CallError::OtherRevision => "the model is being rolled out".to_owned(),
            CallError::Timeout => format!(
                "the model did not embed {} texts within {} s",
                texts.len(),
                BATCH_TIMEOUT.as_secs()
            ),
            CallError::Failed(error) => error.recorded_text(held),
        })
    }

    /// Trains off the threads of requests, and publishes the classifier.
    async fn train(&self, job: &Job, cache: &VectorCache) -> Result<(), String> {
        let Some(vectors) = cache.all(&job.examples) else {
            return Err("the examples have changed".into());
        };
        let (beside, examples) = (job.beside.clone(), job.examples.clone());
        let trained = tokio::task::spawn_blocking(move || {
            let cheap = beside.classifier.as_ref();
            let cheap = cheap.ok_or_else(|| "there are no tasks".to_owned())?;
            let (training, rule) = (beside.examples(), beside.abstain());
            EncoderClassifier::train(cheap, training, &examples, &vectors, rule)
                .map_err(|error| error.to_string())
        });
        let classifier = trained.await.map_err(|error| error.to_string())??;
        tracing::info!(model = %job.model, examples = job.examples.len(), bytes = classifier.bytes(), "trained the encoder classifier");
        let trained = TrainedEncoder {
            classifier,
            beside: job.beside.clone(),
            model: job.model.clone(),
            revision: job.revision,
        };
        self.encoder.state.send_replace(EncoderState {
            status: Some(trained.status()),
            trained: Some(Arc::new(trained)),
        });
        Ok(())
    }

    /// Publishes that the encoder is trained, where it was away for a while or its spec changed to and fro.
    fn publish_trained(&self) {
        self.encoder.state.send_if_modified(|state| {
            let status = state.trained.as_ref().map(|trained| trained.status());
            let is_new = state.status != status;
            state.status = status;
            is_new
        });
    }

    /// Publishes how far a job is.
    fn publish(&self, job: &Job, cache: &VectorCache, problem: Option<String>) {
        let missing = cache.missing(&job.examples);
        let is_missing = |example: &&EncoderExample| missing.contains(&example.text);
        let missing = job.examples.iter().filter(is_missing).count();
        let status = EncoderStatus {
            model: job.model.clone(),
            examples: job.examples.len(),
            embedded: job.examples.len() - missing,
            trained: false,
            problem,
            report: None,
        };
        self.encoder
            .state
            .send_modify(|state| state.status = Some(status));
    }
}
