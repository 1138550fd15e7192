//! The way of a request as spans.
//!
//! The span that a piece of work is done under is the thread's current context while a future made
//! with [`RequestSpan::run`] is polled. A request that is not sampled has none, and then everything here
//! does nothing.

use std::borrow::Cow;
use std::future::Future;

use http::HeaderMap;
use opentelemetry::context::FutureExt;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

/// Makes the first spans of this process in a trace. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    inner: Option<SdkTracer>,
    content: bool,
}

impl Tracer {
    pub(crate) fn new(inner: Option<SdkTracer>, content: bool) -> Self {
        Self { inner, content }
    }

    /// Whether it makes any spans.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// A client's request arrives: the trace goes on that its headers name, or a new one begins where
    /// the sampler wants it.
    pub fn start_root(
        &self,
        headers: &HeaderMap,
        name: impl Into<Cow<'static, str>>,
    ) -> RequestSpan {
        let parent = extract(headers);
        self.start(&parent, name)
    }

    /// A controller's request arrives: its trace goes on if it is sampled. None begins here.
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
        self.start(&parent, name())
    }

    fn start(&self, parent: &Context, name: impl Into<Cow<'static, str>>) -> RequestSpan {
        let Some(tracer) = &self.inner else {
            return RequestSpan::default();
        };
        let span = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .start_with_context(tracer, parent);
        // Most are not sampled: a context for those would only be made and dropped.
        if !span.is_recording() {
            return RequestSpan::default();
        }
        RequestSpan(Some(parent.with_span(span).with_value(self.clone())))
    }
}

const TRACEPARENT: &str = "traceparent";

/// A part of a request's way. It ends when it is dropped.
#[derive(Debug, Default)]
#[must_use = "a stage ends when it is dropped"]
pub struct RequestSpan(Option<Context>);

impl RequestSpan {
    /// The stage that is current.
    pub fn current() -> Self {
        let context = Context::map_current(|context| {
            let recording = context.has_active_span() && context.span().is_recording();
            recording.then(|| context.clone())
        });
        Self(context)
    }

    /// A part of the current stage. Nothing, where that is nothing.
    pub fn child_of_current(name: &'static str) -> Self {
        Self::current().child(name)
    }

    /// The same for a call to another process.
    pub fn client_call(name: impl FnOnce() -> String) -> Self {
        let current = Self::current();
        match current.0 {
            Some(_) => current.child_of_kind(name(), SpanKind::Client),
            None => current,
        }
    }

    /// A part of this stage.
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

    /// Whether anything is recorded: what is costly to tell is to be told only then.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Whether what was asked and answered is to be told.
    #[must_use]
    pub fn captures_content(&self) -> bool {
        let tracer = self.0.as_ref().and_then(|context| context.get::<Tracer>());
        tracer.is_some_and(|tracer| tracer.content)
    }

    /// Tells something of it.
    pub fn set_attribute(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// It failed, for this reason in a word: longer texts may hold what was asked.
    pub fn record_error(&self, kind: &'static str) {
        if let Some(context) = &self.0 {
            let span = context.span();
            span.set_attribute(KeyValue::new(crate::names::attr::ERROR_TYPE, kind));
            span.set_status(Status::error(kind));
        }
    }

    /// Does what belongs to it.
    pub async fn instrument<F: Future>(&self, work: F) -> F::Output {
        match &self.0 {
            Some(context) => work.with_context(context.clone()).await,
            None => work.await,
        }
    }

    /// The same for what needs no waiting.
    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _attached = self.0.clone().map(Context::attach);
        work()
    }

    /// Names it in the headers of a call, so that the trace goes on there.
    pub fn inject_headers(&self, headers: &mut HeaderMap) {
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut HeaderCarrier(headers));
        }
    }
}

/// The ids of the current trace and span, in hexadecimal.
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
    TraceContextPropagator::new().extract_with_context(&Context::new(), &AttributeValues(headers))
}

struct AttributeValues<'a>(&'a HeaderMap);

impl Extractor for AttributeValues<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct HeaderCarrier<'a>(&'a mut HeaderMap);

impl Injector for HeaderCarrier<'_> {
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
    fn a_trace_goes_on_across_calls_and_stages() {
        let (tracer, _provider) = tracer();
        let root = tracer.start_root(&headers(SAMPLED), "POST /v1/chat/completions");
        assert!(root.is_recording());
        let part = root.in_scope(|| RequestSpan::child_of_current("route"));
        let mut sent = HeaderMap::new();
        part.inject_headers(&mut sent);
        let told = sent[TRACEPARENT].to_str().unwrap();
        assert!(told.contains("0af7651916cd43dd8448eb211c80319c"), "{told}");
        assert!(
            !told.contains("b7ad6b7169203331"),
            "the part is the parent: {told}"
        );
        assert!(
            tracer
                .continue_remote(&sent, || "chat m".into())
                .is_recording()
        );
    }

    #[test]
    fn what_is_not_sampled_is_nothing_and_makes_nothing() {
        let (tracer, _provider) = tracer();
        let unsampled = SAMPLED.replace("-01", "-00");
        for headers in [HeaderMap::new(), headers(&unsampled), headers("rubbish")] {
            let root = tracer.start_root(&headers, "POST");
            assert!(!root.is_recording());
            let part = root.in_scope(|| RequestSpan::child_of_current("route"));
            let mut sent = HeaderMap::new();
            part.inject_headers(&mut sent);
            assert!(sent.is_empty());
            assert!(
                !tracer
                    .continue_remote(&headers, || "chat".into())
                    .is_recording()
            );
        }
    }
}
