//! Notes that an agent has called.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tower_service::Service;

use crate::connections::{Connection, UseGuard};

/// A service whose connection is in use from the first call on, until it ends.
#[derive(Clone)]
pub(super) struct InUseFromFirstCall<S> {
    inner: S,
    connection: Arc<Connection>,
    in_use: Arc<OnceLock<UseGuard>>,
}

impl<S> InUseFromFirstCall<S> {
    pub(super) fn new(inner: S, connection: Arc<Connection>) -> Self {
        Self {
            inner,
            connection,
            in_use: Arc::default(),
        }
    }
}

impl<S: Service<R>, R> Service<R> for InUseFromFirstCall<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.in_use.get_or_init(|| self.connection.begin_use());
        self.inner.call(request)
    }
}
