//! Ends running answers with an error when the grace of a controller that stops is over, so that clients
//! see that an answer is incomplete.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use flotilla_core::access::AccessScope;
use flotilla_core::generate::{
    EmbedRequest, Embeddings, GenerateEvent, GenerateRequest, RequestError, Route, RouteTarget,
};
use flotilla_gateway::{Backend, BackendAnswer, BackendError, EventStream, ModelCard, Readiness};
use futures::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A backend whose running requests end with an error once `cut` is cancelled.
#[derive(Clone)]
pub(crate) struct CutOffBackend<B> {
    pub(crate) inner: B,
    pub(crate) cut: CancellationToken,
}

fn cut_off() -> RequestError {
    RequestError::NodeLost("the controller stopped before the answer was complete".into())
}

impl<B: Backend> CutOffBackend<B> {
    /// Waits for an answer, or for the cut.
    async fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        tokio::select! {
            answer = answer => answer,
            () = self.cut.cancelled() => Err(cut_off().into()),
        }
    }
}

impl<B: Backend> Backend for CutOffBackend<B> {
    async fn generate(
        &self,
        request: GenerateRequest<Route>,
    ) -> Result<BackendAnswer<EventStream>, BackendError> {
        let answer = self.wait(self.inner.generate(request)).await?;
        let content: EventStream = Box::pin(CutOffEvents {
            events: Some(answer.content),
            cut: Box::pin(self.cut.clone().cancelled_owned()),
        });
        Ok(BackendAnswer {
            served_by: answer.served_by,
            content,
        })
    }

    async fn embed(
        &self,
        request: EmbedRequest<Route>,
    ) -> Result<BackendAnswer<Embeddings>, BackendError> {
        self.wait(self.inner.embed(request)).await
    }

    fn models(&self, access: &AccessScope) -> Vec<ModelCard> {
        self.inner.models(access)
    }

    fn model(&self, target: &RouteTarget, access: &AccessScope) -> Option<ModelCard> {
        self.inner.model(target, access)
    }

    fn answer_timeout(&self) -> Duration {
        self.inner.answer_timeout()
    }

    fn readiness(&self) -> Readiness {
        self.inner.readiness()
    }
}

/// The events of an answer until the cut.
struct CutOffEvents {
    /// `None` after the cut.
    events: Option<EventStream>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for CutOffEvents {
    type Item = Result<Vec<GenerateEvent>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(events) = &mut self.events else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(events) = events.as_mut().poll_next(cx) {
            return Poll::Ready(events);
        }
        ready!(self.cut.as_mut().poll(cx));
        self.events = None;
        Poll::Ready(Some(Err(cut_off())))
    }
}
