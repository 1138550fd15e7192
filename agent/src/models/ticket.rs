//! A request's place in a model: counted once when it enters, once when it leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use flotilla_core::generate::{Event, RequestError, Timing};
use futures::Stream;

use super::Hosted;
use super::gate::Permit;
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
    permit: Permit,
}

impl Ticket {
    pub(super) fn new(hosted: Arc<Hosted>, permit: Permit) -> Self {
        hosted.counters().enter();
        Self {
            hosted,
            end: End::Cancelled,
            began: Instant::now(),
            permit,
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
            first: None,
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
    }
}

/// An answer that holds its request's place.
pub struct Followed {
    events: Events,
    ticket: Ticket,
    /// Output tokens counted so far: one per piece, put right at the end.
    counted: u32,
    /// How long the first of them took.
    first: Option<Duration>,
}

impl Ticket {
    /// How long it took, whose first token came after `first`.
    fn timing(&self, first: Option<Duration>) -> Timing {
        let computed = self.began.elapsed();
        let prefill = first.unwrap_or(computed);
        Timing {
            queued: self.permit.waited,
            prefill,
            decode: computed.saturating_sub(prefill),
        }
    }
}

impl Stream for Followed {
    type Item = Result<Event, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut event = ready!(this.events.as_mut().poll_next(cx));
        let counters = this.ticket.hosted.counters();
        match &mut event {
            Some(Ok(Event::Delta(_))) => {
                let began = this.ticket.began;
                this.first.get_or_insert_with(|| began.elapsed());
                this.counted += 1;
                counters.tokens(0, 1);
            }
            Some(Ok(Event::Usage(usage))) => {
                let missing = usage.completion_tokens.saturating_sub(this.counted);
                counters.tokens(usage.prompt_tokens, missing);
                usage.timing = Some(this.ticket.timing(this.first));
                this.ticket.end = End::Done;
            }
            Some(Err(_)) => this.ticket.end = End::Failed,
            Some(Ok(Event::Finished(_))) | None => {}
        }
        Poll::Ready(event)
    }
}
