//! A span of a request, which may be absent.

use std::borrow::Cow;
use std::future::Future;

use http::HeaderMap;
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};

use super::Tracer;
use super::propagation::inject;

/// A span of a request, or nothing if the request is not sampled. The span ends when it is dropped.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub struct RequestSpan(pub(super) Option<Context>);

impl RequestSpan {
    /// Returns the current span.
    pub fn current() -> Self {
        let context = Context::map_current(|context| {
            let recording = context.has_active_span() && context.span().is_recording();
            recording.then(|| context.clone())
        });
        Self(context)
    }

    /// Starts a child of the current span. Nothing if there is no current span.
    pub fn child_of_current(name: &'static str) -> Self {
        Self::current().child(name)
    }

    /// Starts a child of the current span for a call to another process. `name` is only called if
    /// there is a current span.
    pub fn client_call(name: impl FnOnce() -> String) -> Self {
        let current = Self::current();
        match current.0 {
            Some(_) => current.child_of_kind(name(), SpanKind::Client),
            None => current,
        }
    }

    /// Starts a child of this span.
    pub fn child(&self, name: &'static str) -> Self {
        self.child_of_kind(name, SpanKind::Internal)
    }

    fn child_of_kind(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        let Some(parent) = &self.0 else {
            return Self::default();
        };
        let Some(tracer) = parent
            .get::<Tracer>()
            .and_then(|tracer| tracer.inner.as_ref())
        else {
            return Self::default();
        };
        let span = tracer
            .span_builder(name)
            .with_kind(kind)
            .start_with_context(tracer, parent);
        Self(Some(parent.with_span(span)))
    }

    /// Returns whether the span is recorded. Callers skip the computation of attributes otherwise.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Returns whether the span records prompts and answers.
    #[must_use]
    pub fn captures_content(&self) -> bool {
        let tracer = self.0.as_ref().and_then(|context| context.get::<Tracer>());
        tracer.is_some_and(|tracer| tracer.capture_content)
    }

    /// Sets an attribute.
    pub fn set_attribute(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed. `kind` is a short error type; longer messages could contain the
    /// prompt.
    pub fn record_error(&self, kind: &'static str) {
        if let Some(context) = &self.0 {
            let span = context.span();
            span.set_attribute(KeyValue::new(crate::names::attr::ERROR_TYPE, kind));
            span.set_status(Status::error(kind));
        }
    }

    /// Runs a future with this span as the current one.
    pub async fn instrument<F: Future>(&self, future: F) -> F::Output {
        match &self.0 {
            Some(context) => future.with_context(context.clone()).await,
            None => future.await,
        }
    }

    /// Calls a function with this span as the current one.
    pub fn in_scope<T>(&self, function: impl FnOnce() -> T) -> T {
        let _attached = self.0.clone().map(Context::attach);
        function()
    }

    /// Adds the span to the headers of a call, so that the other process continues the trace.
    pub fn inject_headers(&self, headers: &mut HeaderMap) {
        if let Some(context) = &self.0 {
            inject(context, headers);
        }
    }
}

/// Returns the ids of the current trace and span, in hexadecimal. `None`: there is no
/// current span.
pub(crate) fn current_ids() -> Option<(String, String)> {
    Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span())?;
        let ids = span.span_context();
        ids.is_valid()
            .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    })
}
