//! The trace of a request, from its headers to the end of its answer.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use flotilla_telemetry::trace::{RequestSpan, Tracer};
use futures::future::{BoxFuture, Either, FutureExt};
use http_body_util::BodyExt;
use tower::Service;

/// Answers requests as the first part of their traces in this process, where they are sampled. The
/// others, nearly all, are handed on as they are: nothing is boxed or cloned here for them.
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
        // All routes of the layer take POST only; what is refused for its method ends here, too.
        let stage = self.tracer.start_root(request.headers(), name(route));
        if !stage.is_recording() {
            return Either::Left(self.inner.call(request));
        }
        stage.set_attribute("http.route", route.to_owned());
        stage.set_attribute("http.request.method", request.method().as_str().to_owned());
        stage.set_attribute("url.path", request.uri().path().to_owned());
        let answered = stage.in_scope(|| self.inner.call(request));
        let traced = async move {
            let response = stage.instrument(answered).await?;
            let status = response.status();
            stage.set_attribute("http.response.status_code", i64::from(status.as_u16()));
            Ok(hold(response, stage))
        };
        Either::Right(traced.boxed())
    }
}

/// The name of a route's span: none is put together for requests that are not sampled.
fn name(route: &str) -> &'static str {
    match route {
        "/v1/chat/completions" => "POST /v1/chat/completions",
        "/v1/completions" => "POST /v1/completions",
        "/v1/embeddings" => "POST /v1/embeddings",
        _ => "POST",
    }
}

/// The response, which ends the stage with its last byte.
fn hold(response: Response, stage: RequestSpan) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _until_the_end = &stage;
            frame
        }))
    })
}
