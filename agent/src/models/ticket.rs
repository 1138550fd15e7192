//! A request's place in a model: counted once when it enters, once when it leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use flotilla_core::generate::{Event, RequestError};
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;

use super::Hosted;
use crate::engine::Events;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was dropped before its end: the caller went away.
    Cancelled,
    Done,
    Failed,
}

/// A request that is being computed. Dropping it makes room for the next.
pub struct Ticket {
    hosted: Arc<Hosted>,
    end: End,
    began: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    pub(super) fn new(hosted: Arc<Hosted>, permit: OwnedSemaphorePermit) -> Self {
        hosted.counters().enter();
        Self {
            hosted,
            end: End::Cancelled,
            began: Instant::now(),
            _permit: permit,
        }
    }

    /// The request failed.
    pub fn failed(mut self) {
        self.end = End::Failed;
    }

    /// The request was answered with `prompt_tokens` read.
    pub fn done(mut self, prompt_tokens: u32) {
        self.hosted.counters().tokens(prompt_tokens, 0);
        self.end = End::Done;
    }

    /// Follows an answer to its end, counting its tokens.
    #[must_use]
    pub fn follow(self, events: Events) -> Followed {
        Followed {
            events,
            ticket: self,
            counted: 0,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let counters = self.hosted.counters();
        match self.end {
            End::Done => {}
            End::Cancelled => counters.cancelled(),
            End::Failed => counters.failed(),
        }
        counters.leave(self.began.elapsed());
        self.hosted.left();
    }
}

/// An answer that holds its request's place.
pub struct Followed {
    events: Events,
    ticket: Ticket,
    /// Output tokens counted so far: one per piece, put right at the end.
    counted: u32,
}

impl Stream for Followed {
    type Item = Result<Event, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let event = ready!(this.events.as_mut().poll_next(cx));
        let counters = this.ticket.hosted.counters();
        match &event {
            Some(Ok(Event::Delta(_))) => {
                this.counted += 1;
                counters.tokens(0, 1);
            }
            Some(Ok(Event::Usage(usage))) => {
                let missing = usage.completion_tokens.saturating_sub(this.counted);
                counters.tokens(usage.prompt_tokens, missing);
                this.ticket.end = End::Done;
            }
            Some(Err(_)) => this.ticket.end = End::Failed,
            Some(Ok(Event::Finished(_))) | None => {}
        }
        Poll::Ready(event)
    }
}
