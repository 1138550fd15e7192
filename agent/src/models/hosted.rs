//! A model that takes requests: the gate before it, and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_core::admission::QueueKey;
use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{AnswerTiming, RequestError};
use flotilla_core::spec::ModelSpec;
use flotilla_proto::v1::ModelCounters;

use super::AdmittedRequest;
use super::gate::AdmissionQueue;
use crate::energy_accounting::{LedgerEntry, ModelRate};
use crate::node_metrics::ModelMetrics;
use flotilla_engine::LoadedModel;

/// A model that takes requests.
pub struct ServedModel {
    pub model: Arc<dyn LoadedModel>,
    gate: Arc<AdmissionQueue>,
    counters: LiveCounters,
    observer: ModelMetrics,
    rate: Arc<ModelRate>,
}

impl ServedModel {
    /// A model with the limits of its spec. What its engine computes at once may be less than the
    /// spec says: the others wait. What its requests take is told to `observer`.
    #[must_use]
    pub(crate) fn new(
        model: Arc<dyn LoadedModel>,
        spec: &ModelSpec,
        observer: ModelMetrics,
    ) -> Self {
        let most = model.concurrency().unwrap_or(spec.concurrency);
        let concurrency = spec.concurrency.min(most).max(1);
        let queue = spec
            .queue
            .saturating_add(spec.concurrency.saturating_sub(concurrency));
        Self {
            rate: Arc::new(ModelRate::new(model.compute_location(), concurrency)),
            observer,
            model,
            gate: Arc::new(AdmissionQueue::new(concurrency, queue)),
            counters: LiveCounters::default(),
        }
    }

    /// Requests that it computes at once.
    #[must_use]
    pub fn concurrency(&self) -> u32 {
        self.gate.concurrency
    }

    /// Waits for its turn. A caller that goes away leaves the queue.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue is full, [`RequestError::TooLate`] after the
    /// deadline, [`RequestError::Unavailable`] when the model is leaving.
    pub async fn enter(
        self: Arc<Self>,
        queue_key: QueueKey,
        deadline: Option<Duration>,
    ) -> Result<AdmittedRequest, RequestError> {
        match self.gate.clone().enter(queue_key, deadline).await {
            Ok(permit) => {
                self.counters.waited(permit.waited);
                Ok(AdmittedRequest::new(self, permit))
            }
            Err(error) => {
                if matches!(error, RequestError::Overloaded { .. }) {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    /// Takes no request any more; those waiting are sent elsewhere.
    pub(super) fn close(&self) {
        self.gate.close();
    }

    /// Waits until no request is being computed and none waits.
    pub(super) async fn drained(&self) {
        self.gate.drained().await;
    }

    /// What it does and did.
    #[must_use]
    pub fn counts(&self) -> ModelCounters {
        let counters = &self.counters;
        let (active, queued) = self.gate.counts();
        ModelCounters {
            active,
            queued,
            requests: counters.requests.load(Ordering::Relaxed),
            cancelled: counters.cancelled.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            prompt_tokens: counters.prompt_tokens.load(Ordering::Relaxed),
            output_tokens: counters.output_tokens.load(Ordering::Relaxed),
            wait_us: counters.wait_us.load(Ordering::Relaxed),
            busy_us: counters.busy_us.load(Ordering::Relaxed),
            millijoules: counters.millijoules.load(Ordering::Relaxed),
        }
    }

    /// A request is computed from now on.
    pub(super) fn account(&self) -> LedgerEntry {
        self.observer.open_ledger_entry(self.rate.clone())
    }

    /// An answer is complete.
    pub(super) fn answered(&self, timing: AnswerTiming) {
        self.observer.record_timing(timing);
    }

    pub(super) fn counters(&self) -> &LiveCounters {
        &self.counters
    }
}

/// What a model does and did since it was loaded.
#[derive(Default)]
pub(super) struct LiveCounters {
    requests: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    wait_us: AtomicU64,
    busy_us: AtomicU64,
    millijoules: AtomicU64,
}

impl LiveCounters {
    pub(super) fn enter(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request leaves that was computed for `busy`.
    pub(super) fn leave(&self, busy: Duration) {
        let busy = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        self.busy_us.fetch_add(busy, Ordering::Relaxed);
    }

    fn waited(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.wait_us.fetch_add(time, Ordering::Relaxed);
    }

    pub(super) fn took(&self, spent: EnergyUsage) {
        let millijoules = (spent.joules.0 * 1e3) as u64;
        self.millijoules.fetch_add(millijoules, Ordering::Relaxed);
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn tokens(&self, prompt: u32, output: u32) {
        self.prompt_tokens
            .fetch_add(u64::from(prompt), Ordering::Relaxed);
        self.output_tokens
            .fetch_add(u64::from(output), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use flotilla_core::generate::{
        EmbedRequest, Embeddings, GenerateEvent, GenerateRequest, Usage,
    };
    use futures::{FutureExt, StreamExt, stream};

    use flotilla_core::ModelName;
    use flotilla_telemetry::Telemetry;
    use flotilla_telemetry::trace::RequestSpan;

    use crate::energy_accounting::EnergyAccounting;
    use crate::node_metrics::NodeMetrics;
    use flotilla_engine::GenerateEvents;

    struct Silent;
    #[async_trait]
    impl LoadedModel for Silent {
        async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
            Ok(stream::pending().boxed())
        }
        async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
            Ok(Embeddings::default())
        }
    }

    fn observer() -> ModelMetrics {
        let meter = Telemetry::off().meter();
        let model = ModelName::new("m").unwrap();
        NodeMetrics::new(EnergyAccounting::without_meters(), &meter).for_model(&model)
    }

    fn hosted(concurrency: u32, queue: u32) -> Arc<ServedModel> {
        let spec = ModelSpec {
            concurrency,
            queue,
            ..ModelSpec::default()
        };
        Arc::new(ServedModel::new(Arc::new(Silent), &spec, observer()))
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_caller_that_leaves_makes_room() {
        let hosted = hosted(1, 1);
        let computing = hosted
            .clone()
            .enter(QueueKey::default(), None)
            .await
            .ok()
            .unwrap();
        let mut waiting = Box::pin(hosted.clone().enter(QueueKey::default(), None));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(hosted.counts().queued, 1);
        let refused = hosted
            .clone()
            .enter(QueueKey::default(), None)
            .await
            .err()
            .unwrap();
        assert!(matches!(refused, RequestError::Overloaded { .. }));
        assert_eq!((hosted.counts().queued, hosted.counts().refused), (1, 1));
        drop(waiting);
        assert_eq!(hosted.counts().queued, 0);
        drop(computing);
        assert!(
            hosted
                .clone()
                .enter(QueueKey::default(), None)
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn each_end_is_counted_as_what_it_was() {
        let hosted = hosted(4, 0);
        let ticket = async || {
            hosted
                .clone()
                .enter(QueueKey::default(), None)
                .await
                .ok()
                .unwrap()
        };
        drop(ticket().await);
        ticket().await.failed();
        let usage = GenerateEvent::Usage(Usage {
            prompt_tokens: 5,
            completion_tokens: 7,
            timing: None,
            energy: None,
        });
        let events = stream::iter([Ok(GenerateEvent::Delta(Default::default())), Ok(usage)]);
        let followed: Vec<_> = ticket()
            .await
            .follow(events.boxed(), RequestSpan::default())
            .collect()
            .await;
        let Some(Ok(GenerateEvent::Usage(usage))) = followed.last() else {
            panic!("no usage");
        };
        assert!(usage.timing.is_some(), "the node says how long it took");
        assert!(usage.energy.is_some(), "and what");
        let counts = hosted.counts();
        assert_eq!((counts.requests, counts.active), (3, 0));
        assert_eq!((counts.cancelled, counts.failed), (1, 1));
        assert_eq!((counts.prompt_tokens, counts.output_tokens), (5, 7));
    }

    #[tokio::test]
    async fn what_the_engine_does_not_compute_at_once_waits() {
        struct OneAtATime;
        #[async_trait]
        impl LoadedModel for OneAtATime {
            async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
                Ok(stream::pending().boxed())
            }
            async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
                Ok(Embeddings::default())
            }
            fn concurrency(&self) -> Option<u32> {
                Some(1)
            }
        }
        let spec = ModelSpec {
            concurrency: 4,
            queue: 0,
            ..ModelSpec::default()
        };
        let hosted = Arc::new(ServedModel::new(Arc::new(OneAtATime), &spec, observer()));
        assert_eq!(hosted.concurrency(), 1);
        let enter = || hosted.clone().enter(QueueKey::default(), None);
        let _computing = enter().await.ok().unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(enter())).collect();
        for place in &mut waiting {
            assert!(place.now_or_never().is_none());
        }
        assert_eq!(hosted.counts().queued, 3);
        assert!(enter().await.is_err());
    }
}
