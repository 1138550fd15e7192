//! Spans of requests.
//!
//! A span is the current OpenTelemetry context of the thread while a future made with
//! [`RequestSpan::instrument`] is polled. A request that is not sampled has no span; every operation
//! on it then costs only a look at a thread-local.

use std::borrow::Cow;
use std::future::Future;

use http::HeaderMap;
use opentelemetry::context::FutureExt;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

/// Starts the first span of a request in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    /// `None` when traces are disabled.
    inner: Option<SdkTracer>,
    /// Whether spans record prompts and answers.
    capture_content: bool,
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

const TRACEPARENT: &str = "traceparent";

/// A span of a request, or nothing if the request is not sampled. The span ends when it is dropped.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub struct RequestSpan(Option<Context>);

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
    pub fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        let _attached = self.0.clone().map(Context::attach);
        f()
    }

    /// Adds the span to the headers of a call, so that the other process continues the trace.
    pub fn inject_headers(&self, headers: &mut HeaderMap) {
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(headers));
        }
    }
}

/// Returns the ids of the current trace and span, in hexadecimal.
pub(crate) fn current_ids() -> Option<(String, String)> {
    Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span())?;
        let ids = span.span_context();
        ids.is_valid()
            .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    })
}

fn extract(headers: &HeaderMap) -> Context {
    if !headers.contains_key(TRACEPARENT) {
        return Context::new();
    }
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

struct HeaderExtractor<'a>(&'a HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct HeaderInjector<'a>(&'a mut HeaderMap);

impl Injector for HeaderInjector<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = http::HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_str(&value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracer() -> (Tracer, SdkTracerProvider) {
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .build();
        (Tracer::new(Some(provider.tracer("test")), false), provider)
    }

    fn headers(traceparent: &str) -> HeaderMap {
        let value = http::HeaderValue::from_str(traceparent).unwrap();
        HeaderMap::from_iter([(http::HeaderName::from_static(TRACEPARENT), value)])
    }

    #[test]
    fn trace_continues_across_spans_and_processes() {
        let (tracer, _provider) = tracer();
        let root = tracer.start_root(&headers(SAMPLED), "POST /v1/chat/completions");
        assert!(root.is_recording());
        let child = root.in_scope(|| RequestSpan::child_of_current("route"));
        let mut sent = HeaderMap::new();
        child.inject_headers(&mut sent);
        let traceparent = sent[TRACEPARENT].to_str().unwrap();
        assert!(
            traceparent.contains("0af7651916cd43dd8448eb211c80319c"),
            "{traceparent}"
        );
        assert!(
            !traceparent.contains("b7ad6b7169203331"),
            "the child span is the parent: {traceparent}"
        );
        assert!(
            tracer
                .continue_remote(&sent, || "chat m".into())
                .is_recording()
        );
    }

    #[test]
    fn unsampled_request_has_no_spans_and_sends_no_headers() {
        let (tracer, _provider) = tracer();
        let unsampled = SAMPLED.replace("-01", "-00");
        for headers in [HeaderMap::new(), headers(&unsampled), headers("rubbish")] {
            let root = tracer.start_root(&headers, "POST");
            assert!(!root.is_recording());
            let child = root.in_scope(|| RequestSpan::child_of_current("route"));
            let mut sent = HeaderMap::new();
            child.inject_headers(&mut sent);
            assert!(sent.is_empty());
            assert!(
                !tracer
                    .continue_remote(&headers, || "chat".into())
                    .is_recording()
            );
        }
    }
}
