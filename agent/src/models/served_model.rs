//! A loaded model that accepts requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::generate::{AnswerTiming, EffectiveDefaults, GenerateRequest};
use flotilla_core::spec::ModelSpec;
use flotilla_engine::LoadedModel;
use flotilla_proto::v1::{FileDefaults, ModelCounters};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::admission_queue::AdmissionQueue;
use super::live_counters::LiveCounters;
use super::memory_usage::MemoryUsage;
use crate::energy_accounting::{LedgerEntry, LoadingGuard, ModelRate};
use crate::request_metrics::ModelMetrics;

/// Time in which the errors of answers that were cut reach the clients.
pub(crate) const CUT_TIME: Duration = Duration::from_secs(1);

/// A loaded model that accepts requests, with its admission queue and its counters.
pub struct ServedModel {
    /// The model in its engine.
    pub model: Arc<dyn LoadedModel>,
    pub(super) queue: Arc<AdmissionQueue>,
    /// The values that apply where a request names none.
    defaults: EffectiveDefaults,
    /// Whether the model generates text.
    generates_text: bool,
    counters: Arc<LiveCounters>,
    /// The most tokens of one request since the model was loaded, with those of its answer.
    longest: AtomicU32,
    metrics: ModelMetrics,
    rate: Arc<ModelRate>,
    /// Cancelled when the time is over in which running answers could end.
    cut: CancellationToken,
    /// The adapters that are loaded onto it.
    adapters: TaskTracker,
    /// Keeps the base of an adapter.
    attachment: Mutex<Option<TaskTrackerToken>>,
}

impl ServedModel {
    /// Creates the queue with the limits of the model's spec. An engine that computes fewer requests
    /// at once than the spec allows makes the queue longer instead. Requests are recorded in
    /// `metrics`.
    #[must_use]
    pub(in crate::models) fn new(
        model: Arc<dyn LoadedModel>,
        spec: &ModelSpec,
        metrics: ModelMetrics,
        counters: Arc<LiveCounters>,
    ) -> Self {
        let engine_limit = model.concurrency().unwrap_or(spec.concurrency);
        let concurrency = spec.concurrency.min(engine_limit).max(1);
        let capacity = spec
            .queue
            .saturating_add(spec.concurrency.saturating_sub(concurrency));
        let file_defaults = model.file_defaults();
        let generates_text = file_defaults.is_some();
        let defaults = EffectiveDefaults::new(
            spec,
            file_defaults.unwrap_or_default(),
            model.context_length(),
        );
        Self {
            defaults,
            generates_text,
            rate: Arc::new(ModelRate::new(
                model.compute_location(),
                concurrency,
                model.process_id(),
                metrics.gpu_use(&*model),
            )),
            metrics,
            model,
            queue: Arc::new(AdmissionQueue::new(concurrency, capacity)),
            counters,
            longest: AtomicU32::new(0),
            cut: CancellationToken::new(),
            adapters: TaskTracker::new(),
            attachment: Mutex::default(),
        }
    }

    /// Makes it an adapter of the model that the attachment is from.
    pub(super) fn attached(self, attachment: Option<TaskTrackerToken>) -> Self {
        Self {
            attachment: Mutex::new(attachment),
            ..self
        }
    }

    /// Lets its base go, if it is an adapter: it is unloaded.
    pub(super) fn detach(&self) {
        drop(self.attachment.lock().take());
    }

    /// Makes the model stay until the attachment is dropped.
    pub(super) fn attach(&self) -> TaskTrackerToken {
        self.adapters.token()
    }

    /// Waits until no adapter is loaded onto it any more. None may be attached from now on.
    pub(super) async fn adapters_gone(&self) {
        self.adapters.close();
        self.adapters.wait().await;
    }

    /// The number of requests that are computed at once.
    #[must_use]
    pub fn concurrency(&self) -> u32 {
        self.queue.concurrency
    }

    /// Fills in what a request does not say.
    #[must_use]
    pub fn apply_defaults(&self, request: GenerateRequest) -> GenerateRequest {
        self.defaults.apply(request)
    }

    /// The model's context length in tokens; 0 if it is not known.
    pub(super) fn context_length(&self) -> u32 {
        self.defaults.context().unwrap_or(0)
    }

    /// What the model's own process has taken without its `adapters`. `None` if it has none.
    pub(super) fn memory_usage(&self, adapters: Bytes) -> Option<MemoryUsage> {
        let peak = self.model.peak_memory()?.saturating_sub(adapters);
        // An answer ends a few tokens before the end of the context at the latest.
        let nearly_all = |context: u32| context - context / 20;
        let context = self.defaults.context().map(nearly_all);
        let longest = self.longest.load(Ordering::Relaxed);
        Some(MemoryUsage {
            peak,
            has_filled_context: self.concurrency() == 1
                && context.is_some_and(|context| longest >= context),
        })
    }

    /// What the model's process takes of a GPU, of all that it takes there, without its `adapters`. The engine takes it when
    /// it loads the model, whatever requests fill.
    pub(super) fn gpu_memory_usage(&self, memory: Bytes, adapters: Bytes) -> MemoryUsage {
        MemoryUsage {
            peak: memory.saturating_sub(adapters),
            has_filled_context: true,
        }
    }

    /// What is wrong with the model's files.
    pub(super) fn file_warnings(&self) -> &[String] {
        &self.defaults.files().warnings
    }

    /// What the model's files say about sampling. `None` if the model does not generate text.
    pub(super) fn file_defaults(&self) -> Option<FileDefaults> {
        self.generates_text.then(|| self.defaults.files().into())
    }

    /// Admits no further request and rejects those in the queue, for this reason.
    pub(super) fn close(&self, reason: &'static str) {
        self.queue.close(reason);
    }

    /// Ends all running answers with an error: the time in which they could end is over.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Is cancelled when all running answers end with an error.
    pub(super) fn cut_token(&self) -> &CancellationToken {
        &self.cut
    }

    /// Waits until no request is computed or queued.
    pub(super) async fn drained(&self) {
        self.queue.drained().await;
    }

    /// Returns the requests right now and the counters of its revision.
    #[must_use]
    pub fn counters(&self) -> ModelCounters {
        let (active, queued) = self.queue.counts();
        self.counters.message(active, queued)
    }

    /// Counts that the model can never answer again.
    pub(super) fn record_engine_fault(&self) {
        self.counters.add_model_fault();
    }

    /// Records that the model goes, until the guard is dropped.
    pub(super) fn begin_unloading(&self) -> LoadingGuard {
        self.metrics.begin_loading()
    }

    /// Starts energy accounting for a request that is computed from now on.
    pub(super) fn start_accounting(&self) -> LedgerEntry {
        self.metrics.open_ledger_entry(self.rate.clone())
    }

    /// Records how long a complete turn took, with its wait in the queue if `with_wait`.
    pub(super) fn record_timing(&self, timing: AnswerTiming, with_wait: bool) {
        if with_wait {
            self.metrics.record_wait(timing.queued);
        }
        self.metrics.record_compute_time(timing);
    }

    /// Records the tokens of a complete request, with those of its answer.
    pub(super) fn record_length(&self, tokens: u32) {
        self.longest.fetch_max(tokens, Ordering::Relaxed);
    }

    pub(super) fn live_counters(&self) -> &LiveCounters {
        &self.counters
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use async_trait::async_trait;
    use flotilla_core::admission::QueueKey;
    use flotilla_core::generate::{
        EmbedRequest, Embeddings, GenerateEvent, GenerateRequest, RequestError, Usage,
    };
    use futures::{FutureExt, StreamExt, stream};

    use flotilla_core::ModelName;
    use flotilla_telemetry::Telemetry;
    use flotilla_telemetry::trace::RequestSpan;

    use crate::energy_accounting::EnergyAccounting;
    use crate::models::ServingTable;
    use crate::request_metrics::RequestMetrics;
    use flotilla_engine::GenerateEvents;

    /// A model whose answers never come.
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

    fn metrics() -> ModelMetrics {
        let meter = Telemetry::disabled().meter();
        let model = ModelName::new("m").unwrap();
        RequestMetrics::new(EnergyAccounting::without_meters(), &meter).for_model(&model)
    }

    /// A served model whose answers never come.
    pub(in crate::models) fn served_model(concurrency: u32, queue: u32) -> Arc<ServedModel> {
        serve(Arc::new(Silent), concurrency, queue)
    }

    /// Serves a model that computes this many turns at once, with this capacity of its queue.
    pub(crate) fn serve(
        model: Arc<dyn LoadedModel>,
        concurrency: u32,
        queue: u32,
    ) -> Arc<ServedModel> {
        let spec = ModelSpec {
            concurrency,
            queue,
            ..ModelSpec::default()
        };
        Arc::new(ServedModel::new(model, &spec, metrics(), Arc::default()))
    }

    /// A table with only this model.
    pub(crate) fn serving_table(name: &ModelName, served: &Arc<ServedModel>) -> ServingTable {
        let table = ServingTable::default();
        table.insert(name, served);
        table
    }

    #[tokio::test]
    async fn full_queue_refuses_until_a_waiting_caller_leaves() {
        let served = served_model(1, 1);
        let computing = served
            .clone()
            .admit(QueueKey::default(), None)
            .await
            .ok()
            .unwrap();
        let mut waiting = Box::pin(served.clone().admit(QueueKey::default(), None));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(served.counters().queued, 1);
        let refused = served
            .clone()
            .admit(QueueKey::default(), None)
            .await
            .err()
            .unwrap();
        assert!(matches!(refused, RequestError::Overloaded { .. }));
        assert_eq!(
            (served.counters().queued, served.counters().refused),
            (1, 1)
        );
        drop(waiting);
        assert_eq!(served.counters().queued, 0);
        drop(computing);
        assert!(
            served
                .clone()
                .admit(QueueKey::default(), None)
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn cancelled_failed_and_complete_requests_are_counted_apart() {
        let served = served_model(4, 0);
        let admitted = async || {
            served
                .clone()
                .admit(QueueKey::default(), None)
                .await
                .ok()
                .unwrap()
        };
        drop(admitted().await);
        let broken = RequestError::Engine("broken".into());
        admitted().await.fail(&broken);
        let invalid = RequestError::invalid("prompt", "wrong");
        admitted().await.fail(&invalid);
        let usage = GenerateEvent::Usage(Usage {
            prompt_tokens: 5,
            completion_tokens: 7,
            timing: None,
            energy: None,
        });
        let events = stream::iter([Ok(GenerateEvent::Delta(Default::default())), Ok(usage)]);
        let tracked: Vec<_> = admitted()
            .await
            .track(events.boxed(), RequestSpan::default())
            .collect()
            .await;
        let Some(Ok(GenerateEvent::Usage(usage))) = tracked.last() else {
            panic!("no usage");
        };
        assert!(usage.timing.is_some(), "the usage has a timing");
        assert!(usage.energy.is_some(), "the usage has an energy");
        let counters = served.counters();
        assert_eq!((counters.requests, counters.active), (4, 0));
        assert_eq!((counters.cancelled, counters.failed), (1, 2));
        assert_eq!(counters.model_faults, 1, "an invalid request is none");
        assert_eq!((counters.prompt_tokens, counters.output_tokens), (5, 7));
    }

    #[tokio::test]
    async fn end_of_a_process_is_one_fault_and_rejects_who_waits() {
        let served = served_model(2, 4);
        let admit = || served.clone().admit(QueueKey::default(), None);
        let lost = RequestError::NodeLost("the process of the model has ended".into());
        let computing = [admit().await.ok().unwrap(), admit().await.ok().unwrap()];
        let mut waiting = Box::pin(admit());
        assert!((&mut waiting).now_or_never().is_none());
        served.record_engine_fault();
        served.close("it has ended");
        let rejected = waiting.await.err().unwrap();
        assert!(rejected.is_retryable() && !rejected.is_replica_fault());
        for request in computing {
            request.fail(&lost);
        }
        let counters = served.counters();
        assert_eq!((counters.failed, counters.model_faults), (2, 1));
    }

    #[tokio::test]
    async fn requests_beyond_the_engines_concurrency_wait() {
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
        let served = Arc::new(ServedModel::new(
            Arc::new(OneAtATime),
            &spec,
            metrics(),
            Arc::default(),
        ));
        assert_eq!(served.concurrency(), 1);
        let admit = || served.clone().admit(QueueKey::default(), None);
        let _computing = admit().await.ok().unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(admit())).collect();
        for request in &mut waiting {
            assert!(request.now_or_never().is_none());
        }
        assert_eq!(served.counters().queued, 3);
        assert!(admit().await.is_err());
    }
}
