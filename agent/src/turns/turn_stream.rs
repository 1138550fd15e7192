//! Runs the turns of a request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};

use crate::models::{AdmittedRequest, AdmittedSplit};

/// The outputs of a request's turns, each with the index of its turn, as they come. The first error ends
/// them; dropping the stream ends all turns.
pub(super) struct TurnStream<T> {
    /// The turns that are computed.
    active: SelectAll<BoxStream<'static, (u32, Result<T, RequestError>)>>,
    /// The next turn in the queue. `None` once all turns are admitted.
    waiting: Option<BoxFuture<'static, Result<AdmittedRequest, RequestError>>>,
    start_turn: StartTurn<T>,
    /// The number of turns admitted so far.
    admitted: u32,
    turns: u32,
    /// The time at which the request's deadline passes.
    deadline: Option<Instant>,
    split: AdmittedSplit,
}

/// Starts the computation of the turn at an index.
type StartTurn<T> =
    Box<dyn FnMut(u32, AdmittedRequest) -> BoxStream<'static, Result<T, RequestError>> + Send>;

impl<T: Send + 'static> TurnStream<T> {
    /// Starts the `first` of several `turns`; the others follow as the stream is polled. Turns leave the
    /// queue once the time `deadline` has passed.
    pub(super) fn new(
        (first, split): (AdmittedRequest, AdmittedSplit),
        turns: u32,
        deadline: Option<Instant>,
        start_turn: impl FnMut(u32, AdmittedRequest) -> BoxStream<'static, Result<T, RequestError>>
        + Send
        + 'static,
    ) -> Self {
        let mut stream = Self {
            active: SelectAll::new(),
            waiting: None,
            start_turn: Box::new(start_turn),
            admitted: 0,
            turns,
            deadline,
            split,
        };
        stream.start(first);
        stream
    }

    /// Starts an admitted turn, and lets the next one enter the queue.
    fn start(&mut self, admitted: AdmittedRequest) {
        let turn = self.admitted;
        let outputs = (self.start_turn)(turn, admitted);
        self.active
            .push(outputs.map(move |output| (turn, output)).boxed());
        self.admitted += 1;
        self.waiting = (self.admitted < self.turns).then(|| {
            let remaining = |at: Instant| at.saturating_duration_since(Instant::now());
            let remaining: Option<Duration> = self.deadline.map(remaining);
            self.split.admit_turn(remaining).boxed()
        });
    }

    /// Records that all turns are complete.
    pub(super) fn mark_complete(&mut self) {
        self.split.mark_complete();
    }

    /// Ends all turns.
    fn end(&mut self) {
        self.active.clear();
        self.waiting = None;
        self.admitted = self.turns;
    }
}

impl<T: Send + 'static> Stream for TurnStream<T> {
    type Item = Result<(u32, T), RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some(waiting) = &mut this.waiting
            && let Poll::Ready(admitted) = waiting.poll_unpin(cx)
        {
            match admitted {
                Ok(admitted) => this.start(admitted),
                Err(error) => {
                    this.end();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        match this.active.poll_next_unpin(cx) {
            Poll::Ready(Some((turn, Ok(output)))) => Poll::Ready(Some(Ok((turn, output)))),
            Poll::Ready(Some((_, Err(error)))) => {
                this.split.mark_failed(&error);
                this.end();
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) if this.waiting.is_none() => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
