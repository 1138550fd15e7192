//! Classifies a request by the encoder, in the path of the request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::QueueKey;
use flotilla_core::generate::Route;
use flotilla_core::routing::{
    Classification, EncoderOutcome, EncoderRecord, EncoderTask, encoded_text,
};

use tokio::sync::SemaphorePermit;

use super::call::{CallError, EncoderCall};
use super::zones::encoder_zones;
use super::{Encoder, TrainedEncoder};
use crate::dispatch_context::DispatchContext;
use crate::request_context::RequestContext;
use crate::{RoutingView, TrainedClassifier, stats_clock};

/// The longest time that a request waits for the encoder. A text takes 7 to 10 ms on two cores; what takes five times as
/// long has a queue before it, or a slow node, and people notice 100 ms.
const TIMEOUT: Duration = Duration::from_millis(50);
/// The largest share of a request's own deadline that it waits for the encoder.
const DEADLINE_SHARE: u32 = 4;

/// A request that the classifier is unsure of.
pub(crate) struct UnsureRequest<'a> {
    pub(crate) route: &'a Route,
    /// The newest turn of the user.
    pub(crate) text: &'a str,
    pub(crate) trained: &'a Arc<TrainedClassifier>,
    pub(crate) classification: &'a Classification,
}

impl Encoder {
    /// Classifies a request by the encoder of the router, and returns the record of it. Returns `None` if the router names
    /// no encoder. The energy counts as the request's.
    pub(crate) async fn classify(
        &self,
        context: &DispatchContext,
        routing: &RoutingView,
        unsure: UnsureRequest<'_>,
        request: &Arc<RequestContext>,
    ) -> Option<EncoderRecord> {
        let model = routing.router.as_ref()?.encoder.clone()?;
        let began = Instant::now();
        let before = request.energy();
        let mut record = EncoderRecord {
            model,
            node: None,
            outcome: EncoderOutcome::NotTrained,
            duration_ms: 0.0,
            joules: None,
            joules_source: None,
            classification: None,
            detail: String::new(),
        };
        let trained = self.state.borrow().trained.clone();
        let current = trained.filter(|trained| {
            trained.model == record.model && Arc::ptr_eq(&trained.beside, unsure.trained)
        });
        if let Some(trained) = current {
            record.outcome = match self.start_use() {
                Some(in_use) => {
                    let found = encode(context, routing, &trained, &unsure, request, &mut record);
                    let outcome = found.await.err().unwrap_or(EncoderOutcome::Used);
                    in_use.record(outcome);
                    outcome
                }
                None => EncoderOutcome::Busy,
            };
        }
        let after = request.energy();
        let joules = after.joules.0 - before.joules.0;
        if joules > 0.0 {
            record.joules = Some(flotilla_core::Joules(joules));
            record.joules_source = Some(after.sources);
        }
        let duration = began.elapsed();
        record.duration_ms = duration.as_secs_f64() * 1e3;
        let metrics = &context.observer.metrics;
        metrics.record_encoder(record.outcome.as_str(), duration);
        Some(record)
    }
}

/// One use of the encoder, until it is dropped.
struct EncoderUse<'a> {
    encoder: &'a Encoder,
    _permit: SemaphorePermit<'a>,
}

impl Encoder {
    /// Starts a use of the encoder. Returns `None` if too many are under way, or it was too slow.
    fn start_use(&self) -> Option<EncoderUse<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        let mut breaker = self.breaker.lock();
        let now = stats_clock();
        breaker.allows_request(now).then(|| {
            breaker.record_request(now);
            EncoderUse {
                encoder: self,
                _permit: permit,
            }
        })
    }
}

impl EncoderUse<'_> {
    fn record(&self, outcome: EncoderOutcome) {
        let mut breaker = self.encoder.breaker.lock();
        match outcome {
            EncoderOutcome::Used => breaker.record_success(),
            EncoderOutcome::Timeout => breaker.record_failure(stats_clock()),
            _ => {}
        }
    }
}

impl Drop for EncoderUse<'_> {
    /// A use whose client went away is no trial any more. After a success or a failure there is none either.
    fn drop(&mut self) {
        self.encoder.breaker.lock().record_cancellation();
    }
}

/// Embeds the text and classifies it. Fills in `record`.
async fn encode(
    context: &DispatchContext,
    routing: &RoutingView,
    trained: &TrainedEncoder,
    unsure: &UnsureRequest<'_>,
    request: &Arc<RequestContext>,
    record: &mut EncoderRecord,
) -> Result<(), EncoderOutcome> {
    let route = unsure.route;
    let zones = route
        .access
        .narrow_zones(encoder_zones(routing, route.zone.as_ref()));
    let held = zones.is_some();
    let own = route.deadline.map(|deadline| deadline / DEADLINE_SHARE);
    let call = EncoderCall {
        model: &trained.model,
        revision: trained.revision,
        texts: vec![encoded_text(unsure.text).into_owned()],
        zones,
        queue_key: QueueKey {
            priority: route.priority.unwrap_or_default(),
            fairness_key: route.fairness_key,
        },
        timeout: own.map_or(TIMEOUT, |own| own.min(TIMEOUT)),
    };
    let result = call.send(context, request).await;
    record.node = result.node;
    let vectors = result.vectors.map_err(|error| match error {
        CallError::Busy => EncoderOutcome::Busy,
        CallError::Unavailable { .. } => EncoderOutcome::Unavailable,
        CallError::Zone => EncoderOutcome::Zone,
        CallError::OtherRevision => EncoderOutcome::NotTrained,
        CallError::Timeout => EncoderOutcome::Timeout,
        CallError::Failed(error) => {
            record.detail = error.recorded_text(held);
            EncoderOutcome::Failed
        }
    })?;
    let classifier = &trained.classifier;
    let vector = vectors.first().map(Vec::as_slice).unwrap_or_default();
    let found = classifier.classify(unsure.classification, vector);
    let found = found.map_err(|error| {
        record.detail = error.to_string();
        EncoderOutcome::Failed
    })?;
    record.classification = Some(EncoderTask {
        best_task: found.best.task,
        confidence: found.best.confidence,
        threshold: classifier.threshold(),
        abstained: found.abstained,
        nearest: found.nearest,
    });
    Ok(())
}
