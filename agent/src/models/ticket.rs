//! A request's place in a model: counted once when it enters, once when it leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{AnswerTiming, GenerateEvent, RequestError, Usage};
use flotilla_telemetry::names::{attr, span};
use flotilla_telemetry::trace::RequestSpan;
use futures::Stream;

use super::ServedModel;
use super::gate::Permit;
use crate::energy_accounting::LedgerEntry;
use flotilla_engine::GenerateEvents;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestEnd {
    /// It was dropped before its end: the caller went away.
    Cancelled,
    Done,
    Failed,
}

/// A request that is being computed. Dropping it makes room for the next.
pub struct AdmittedRequest {
    hosted: Arc<ServedModel>,
    end: RequestEnd,
    began: Instant,
    permit: Permit,
    account: LedgerEntry,
}

impl AdmittedRequest {
    pub(super) fn new(hosted: Arc<ServedModel>, permit: Permit) -> Self {
        hosted.counters().enter();
        Self {
            account: hosted.account(),
            hosted,
            end: RequestEnd::Cancelled,
            began: Instant::now(),
            permit,
        }
    }

    /// The request failed.
    pub fn failed(mut self) {
        self.end = RequestEnd::Failed;
    }

    /// The request was answered with `prompt_tokens` read. Returns what it took.
    pub fn done(mut self, prompt_tokens: u32) -> EnergyUsage {
        self.hosted.counters().tokens(prompt_tokens, 0);
        self.end = RequestEnd::Done;
        let spent = self.account.settle(0);
        self.hosted.counters().took(spent);
        spent
    }

    /// Follows an answer to its end, counting its tokens. `call`: what it is traced as.
    #[must_use]
    pub fn follow(self, events: GenerateEvents, call: RequestSpan) -> TrackedEvents {
        TrackedEvents {
            events,
            ticket: self,
            counted: 0,
            first: None,
            reads: Some(call.part(span::PREFILL)),
            writes: None,
            call,
        }
    }
}

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        let counters = self.hosted.counters();
        if self.end != RequestEnd::Done {
            // What was computed in vain was computed.
            counters.took(self.account.settle(0));
        }
        match self.end {
            RequestEnd::Done => {}
            RequestEnd::Cancelled => counters.cancelled(),
            RequestEnd::Failed => counters.failed(),
        }
        counters.leave(self.began.elapsed());
    }
}

/// An answer that holds its request's place.
pub struct TrackedEvents {
    events: GenerateEvents,
    ticket: AdmittedRequest,
    /// Output tokens counted so far: one per piece, put right at the end.
    counted: u32,
    /// How long the first of them took.
    first: Option<Duration>,
    /// The answer as it is traced: reading the prompt, writing the answer, and the whole.
    reads: Option<RequestSpan>,
    writes: Option<RequestSpan>,
    call: RequestSpan,
}

impl TrackedEvents {
    /// The first token is there.
    fn began(&mut self) {
        self.first = Some(self.ticket.began.elapsed());
        self.reads = None;
        self.writes = Some(self.call.part(span::DECODE));
    }

    /// The answer is complete.
    fn ended(&mut self, usage: &mut Usage) {
        let hosted = &self.ticket.hosted;
        let missing = usage.completion_tokens.saturating_sub(self.counted);
        hosted.counters().tokens(usage.prompt_tokens, missing);
        let timing = self.ticket.timing(self.first);
        hosted.answered(timing);
        usage.timing = Some(timing);
        let spent = self.ticket.account.settle(usage.completion_tokens);
        hosted.counters().took(spent);
        usage.energy = Some(spent);
        self.ticket.end = RequestEnd::Done;
        (self.reads, self.writes) = (None, None);
        if self.call.is_recorded() {
            tell(&self.call, usage);
        }
    }
}

/// What a trace tells of a complete answer.
fn tell(call: &RequestSpan, usage: &Usage) {
    call.set(attr::INPUT_TOKENS, i64::from(usage.prompt_tokens));
    call.set(attr::OUTPUT_TOKENS, i64::from(usage.completion_tokens));
    if let Some(energy) = usage.energy {
        call.set(attr::ENERGY, f64::from(energy.joules.0));
        call.set(attr::ENERGY_SOURCE, energy.sources.as_str());
    }
}

impl AdmittedRequest {
    /// How long it took, whose first token came after `first`.
    fn timing(&self, first: Option<Duration>) -> AnswerTiming {
        let computed = self.began.elapsed();
        let prefill = first.unwrap_or(computed);
        AnswerTiming {
            queued: self.permit.waited,
            prefill,
            decode: computed.saturating_sub(prefill),
        }
    }
}

impl Stream for TrackedEvents {
    type Item = Result<GenerateEvent, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut event = ready!(this.events.as_mut().poll_next(cx));
        match &mut event {
            Some(Ok(GenerateEvent::Delta(_))) => {
                if this.first.is_none() {
                    this.began();
                }
                this.counted += 1;
                this.ticket.hosted.counters().tokens(0, 1);
                this.ticket.account.record_token();
            }
            Some(Ok(GenerateEvent::Usage(usage))) => this.ended(usage),
            Some(Err(error)) => {
                this.ticket.end = RequestEnd::Failed;
                this.call.failed(error.kind());
            }
            Some(Ok(GenerateEvent::Finished(_))) | None => {}
        }
        Poll::Ready(event)
    }
}
