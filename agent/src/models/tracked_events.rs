//! The events of an answer, counted and traced as they pass.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use flotilla_core::generate::{GenerateEvent, RequestError, Usage};
use flotilla_engine::GenerateEvents;
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;
use futures::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::AdmittedRequest;

/// The events of an answer. It holds the permit of its request until it is dropped.
pub struct TrackedEvents {
    events: GenerateEvents,
    request: AdmittedRequest,
    /// Output tokens counted so far: one per event. The usage at the end has the exact number.
    counted: u32,
    /// Time to the first token.
    first_token: Option<Duration>,
    /// The span of the whole answer, and its two parts while each lasts.
    span: RequestSpan,
    prefill: Option<RequestSpan>,
    decode: Option<RequestSpan>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AdmittedRequest {
    /// Tracks an answer to its end, counting its tokens. `span` is the request's trace span.
    #[must_use]
    pub fn track(self, events: GenerateEvents, span: RequestSpan) -> TrackedEvents {
        TrackedEvents::new(self, events, span)
    }
}

impl TrackedEvents {
    fn new(request: AdmittedRequest, events: GenerateEvents, span: RequestSpan) -> Self {
        Self {
            events,
            cut: Box::pin(request.cut()),
            request,
            counted: 0,
            first_token: None,
            prefill: Some(span.child(span::PREFILL)),
            decode: None,
            span,
        }
    }

    fn count_token(&mut self) {
        if self.first_token.is_none() {
            self.first_token = Some(self.request.elapsed());
            self.prefill = None;
            self.decode = Some(self.span.child(span::DECODE));
        }
        self.counted += 1;
        self.request.count_token();
    }

    fn complete(&mut self, usage: &mut Usage) {
        self.request
            .complete_usage(usage, self.counted, self.first_token);
        (self.prefill, self.decode) = (None, None);
        if self.span.is_recording() {
            record_usage(&self.span, usage);
        }
    }
}

/// Records the usage of a complete answer in its span.
pub(crate) fn record_usage(span: &RequestSpan, usage: &Usage) {
    span.set_attribute(attr::INPUT_TOKENS, i64::from(usage.prompt_tokens));
    span.set_attribute(attr::OUTPUT_TOKENS, i64::from(usage.completion_tokens));
    if let Some(energy) = usage.energy {
        span.set_attribute(attr::REQUEST_ENERGY, f64::from(energy.joules.0));
        span.set_attribute(attr::ENERGY_SOURCE, energy.sources.as_str());
    }
}

impl Stream for TrackedEvents {
    type Item = Result<GenerateEvent, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut event = loop {
            match this.events.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(GenerateEvent::Computed(time)))) => {
                    this.request.record_computed(time);
                }
                Poll::Ready(event) => break event,
                Poll::Pending => {
                    ready!(this.cut.as_mut().poll(cx));
                    // Nothing follows the error, and the engine stops.
                    this.events = Box::pin(futures::stream::empty());
                    break Some(Err(RequestError::NodeLost(
                        "the model was stopped on its node before the answer was complete".into(),
                    )));
                }
            }
        };
        match &mut event {
            Some(Ok(GenerateEvent::Delta(_))) => this.count_token(),
            Some(Ok(GenerateEvent::Usage(usage))) => this.complete(usage),
            Some(Err(error)) => {
                this.request.mark_failed(error);
                this.span.record_error(error.kind());
            }
            // The time was taken out above.
            Some(Ok(GenerateEvent::Finished(_) | GenerateEvent::Computed(_))) | None => {}
        }
        Poll::Ready(event)
    }
}
