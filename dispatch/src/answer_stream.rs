//! An answer on its way from a replica to the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{AnswerLimit, GenerateEvent, RequestError, Usage};
use flotilla_proto::{answer_messages, status};
use flotilla_telemetry::trace::RequestSpan;
use futures::{Stream, StreamExt};
use tokio::time::Sleep;

use crate::ResponseStream;
use crate::decision_recorder::DecisionRecorder;
use crate::traced_content::AnswerContent;
use crate::usage_guard::UsageGuard;

/// The events of one answer. Dropping the stream stops the generation and gives the load back.
pub(crate) struct AnswerStream {
    responses: ResponseStream,
    /// The events that arrived before the stream was created. `None` once they are read.
    first: Option<Vec<GenerateEvent>>,
    usage: UsageGuard,
    source: AnswerSource,
}

/// The model and the call that an answer comes from.
pub(crate) struct AnswerSource {
    pub(crate) model: String,
    /// The span of the call to the replica.
    pub(crate) span: RequestSpan,
}

impl AnswerStream {
    /// Creates the stream of an answer whose `first` events have arrived.
    pub(crate) fn new(
        responses: ResponseStream,
        first: Vec<GenerateEvent>,
        mut usage: UsageGuard,
        source: AnswerSource,
    ) -> Self {
        usage.record_answer_start();
        Self {
            responses,
            first: Some(first),
            usage,
            source,
        }
    }

    /// Returns the stream with a `recorder` of its end, which comes at the `limit` at the latest. With
    /// `trace_content` the answer's text is added to the trace.
    pub(crate) fn record_with(
        self,
        recorder: DecisionRecorder,
        limit: AnswerLimit,
        trace_content: bool,
    ) -> RecordedAnswer {
        RecordedAnswer {
            stream: self,
            content: trace_content.then(AnswerContent::default),
            recorder,
            limit,
            timer: Some(Box::pin(tokio::time::sleep_until(limit.at.into()))),
        }
    }

    /// Learns from the complete answer, counts its energy and returns it.
    pub(crate) fn record_answer(&mut self, usage: Usage) -> EnergyUsage {
        self.usage.record_answer(usage)
    }

    /// Counts the energy so far of an answer that is abandoned, and returns it.
    pub(crate) fn count_energy_so_far(&mut self) -> EnergyUsage {
        self.usage.count_energy_so_far()
    }

    /// Records that the answer failed.
    pub(crate) fn record_failure(&mut self, error: &RequestError) {
        self.source.span.record_error(error.kind());
        self.usage.record_failure(error);
    }
}

impl Stream for AnswerStream {
    type Item = Result<Vec<GenerateEvent>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        Poll::Ready(match ready!(self.responses.poll_next_unpin(cx)) {
            Some(Ok(response)) => Some(answer_messages::events(response)),
            Some(Err(status)) => {
                if let Some(energy) = status::energy(&status) {
                    self.usage.count_reported_energy(energy);
                }
                Some(Err(status::to_error(&status, &self.source.model)))
            }
            None => None,
        })
    }
}

/// An answer whose end is recorded.
pub(crate) struct RecordedAnswer {
    /// Declared before the recorder, so that it is dropped first: the energy of an abandoned answer
    /// is counted before its end is recorded.
    stream: AnswerStream,
    recorder: DecisionRecorder,
    limit: AnswerLimit,
    /// Ends at the limit. `None` once it has ended.
    timer: Option<Pin<Box<Sleep>>>,
    /// The text of the answer, where the trace is to hold it.
    content: Option<AnswerContent>,
}

impl RecordedAnswer {
    /// Polls the next events, or the error that the time is up.
    fn poll_before_limit(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<GenerateEvent>, RequestError>>> {
        let next = self.stream.poll_next_unpin(cx);
        let Some(timer) = &mut self.timer else {
            return next;
        };
        if next.is_pending() && timer.as_mut().poll(cx).is_ready() {
            // A reader that goes on finds the end of the stream; dropping it stops the generation.
            self.timer = None;
            return Poll::Ready(Some(Err(self.limit.error())));
        }
        next
    }
}

impl Stream for RecordedAnswer {
    type Item = Result<Vec<GenerateEvent>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = ready!(self.poll_before_limit(cx));
        let this = &mut *self;
        match &mut next {
            Some(Ok(events)) => {
                this.recorder.record_text(events);
                if let Some(content) = &mut this.content {
                    content.append(events);
                }
                // The answer is complete now: a client that has the usage may not read on.
                if let Some(GenerateEvent::Usage(usage)) = events.last_mut() {
                    this.recorder.record_usage(*usage);
                    if let Some(timing) = usage.timing {
                        this.recorder.record_decode_time(timing.decode);
                    }
                    this.stream.record_answer(*usage);
                    usage.energy = Some(this.recorder.energy());
                    if let Some(content) = this.content.take() {
                        content.set_output_messages(this.recorder.span());
                    }
                    this.recorder.record_success();
                }
            }
            Some(Err(error)) => {
                this.stream.count_energy_so_far();
                this.stream.record_failure(error);
                this.recorder.record_failure(error);
            }
            None => this.recorder.record_success(),
        }
        Poll::Ready(next)
    }
}
