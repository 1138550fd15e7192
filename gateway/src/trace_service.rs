//! The root span of a request, from its headers to the end of its response.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use flotilla_telemetry::trace::{RequestSpan, Tracer};
use futures::future::{BoxFuture, Either, FutureExt};
use http_body_util::BodyExt;
use tower::Service;

/// A service that records a span for each sampled request. Requests that are not sampled, the
/// great majority, are passed on without boxing or cloning anything.
#[derive(Clone)]
pub(crate) struct TraceService<S> {
    pub(crate) tracer: Tracer,
    pub(crate) inner: S,
}

impl<S> Service<Request> for TraceService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let path = request.extensions().get::<MatchedPath>();
        let route = path.map_or("", MatchedPath::as_str);
        let span = self.tracer.start_root(request.headers(), span_name(route));
        if !span.is_recording() {
            return Either::Left(self.inner.call(request));
        }
        span.set_attribute("http.route", route.to_owned());
        span.set_attribute("http.request.method", request.method().as_str().to_owned());
        span.set_attribute("url.path", request.uri().path().to_owned());
        let response = span.in_scope(|| self.inner.call(request));
        let traced = async move {
            let response = span.instrument(response).await?;
            let status = response.status();
            span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
            Ok(end_with_body(response, span))
        };
        Either::Right(traced.boxed())
    }
}

/// Returns the span name of a route. The names are static so that requests that are not sampled
/// allocate none. All traced routes accept only POST.
fn span_name(route: &str) -> &'static str {
    match route {
        "/v1/chat/completions" => "POST /v1/chat/completions",
        "/v1/completions" => "POST /v1/completions",
        "/v1/embeddings" => "POST /v1/embeddings",
        _ => "POST",
    }
}

/// Returns the response with a body that ends `span` when the body ends.
fn end_with_body(response: Response, span: RequestSpan) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _keep_until_end = &span;
            frame
        }))
    })
}
