//! Decompresses request bodies.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::Route;
use axum::routing::future::RouteFuture;
use futures::future::{BoxFuture, Either, FutureExt};
use http::header::CONTENT_ENCODING;
use tower::{Service, ServiceExt};
use tower_http::decompression::RequestDecompression;

/// Decompresses the bodies of the requests that say how they are compressed, and passes all others on
/// unchanged: a body that is wrapped for decompression does not know its length any more, by which one
/// that is too large is refused before it is sent.
#[derive(Clone)]
pub(crate) struct Decompression(pub(crate) Route);

impl Service<Request> for Decompression {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<RouteFuture<Infallible>, BoxFuture<'static, Result<Response, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if !request.headers().contains_key(CONTENT_ENCODING) {
            return Either::Left(self.0.call(request));
        }
        let response = RequestDecompression::new(self.0.clone()).oneshot(request);
        Either::Right(response.map(|r| r.map(IntoResponse::into_response)).boxed())
    }
}
