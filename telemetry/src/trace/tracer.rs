//! Starts the first span of a request in this process.

use std::borrow::Cow;

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt, Tracer as _};
use opentelemetry_sdk::trace::SdkTracer;

use super::RequestSpan;
use super::propagation::{TRACEPARENT, extract};

/// Starts the first span of a request in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    /// `None` when traces are disabled.
    pub(super) inner: Option<SdkTracer>,
    /// Whether spans record prompts and answers.
    pub(super) capture_content: bool,
}

impl Tracer {
    pub(crate) fn new(inner: Option<SdkTracer>, capture_content: bool) -> Self {
        Self {
            inner,
            capture_content,
        }
    }

    /// Returns whether traces are enabled.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// Starts the span of a client's request. It continues the trace in `headers`, or starts a new trace
    /// if the sampler decides so.
    pub fn start_root(
        &self,
        headers: &HeaderMap,
        name: impl Into<Cow<'static, str>>,
    ) -> RequestSpan {
        let parent = extract(headers);
        self.start_span(&parent, name)
    }

    /// Starts the span of a controller's request. It continues the trace in `headers` if that is sampled,
    /// and never starts a trace.
    pub fn continue_remote(
        &self,
        headers: &HeaderMap,
        name: impl FnOnce() -> String,
    ) -> RequestSpan {
        if self.inner.is_none() || !headers.contains_key(TRACEPARENT) {
            return RequestSpan::default();
        }
        let parent = extract(headers);
        if !parent.span().span_context().is_sampled() {
            return RequestSpan::default();
        }
        self.start_span(&parent, name())
    }

    fn start_span(&self, parent: &Context, name: impl Into<Cow<'static, str>>) -> RequestSpan {
        let Some(tracer) = &self.inner else {
            return RequestSpan::default();
        };
        let span = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .start_with_context(tracer, parent);
        // Most spans are not sampled: creating a context for them would be wasted work.
        if !span.is_recording() {
            return RequestSpan::default();
        }
        RequestSpan(Some(parent.with_span(span).with_value(self.clone())))
    }
}
