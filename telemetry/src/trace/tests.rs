use http::HeaderMap;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::propagation::TRACEPARENT;
use super::{RequestSpan, Tracer};

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
