//! An answer on its way from a replica to the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{GenerateEvent, RequestError, Usage};
use flotilla_proto::status;
use flotilla_proto::v1::GenerateResponse;
use flotilla_telemetry::trace::RequestSpan;
use futures::{Stream, StreamExt};
use tokio::time::Sleep;

use crate::ResponseStream;
use crate::decision_recorder::DecisionRecorder;
use crate::traced_content::AnswerContent;
use crate::usage_guard::UsageGuard;

/// Returns the error of a request whose own deadline has passed.
pub(crate) fn deadline_passed(deadline: Duration) -> RequestError {
    RequestError::DeadlineUnmet(format!(
        "The request's deadline of {} ms has passed.",
        deadline.as_millis()
    ))
}

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

    /// Returns the stream with a `recorder` of its end. `deadline` is the request's own deadline, as a
    /// duration after its arrival and as a point in time. With `trace_content` the answer's text is added
    /// to the trace.
    pub(crate) fn record_with(
        self,
        recorder: DecisionRecorder,
        deadline: Option<(Duration, Instant)>,
        trace_content: bool,
    ) -> RecordedAnswer {
        let deadline = deadline.map(|(deadline, at)| AnswerDeadline {
            deadline,
            timer: Box::pin(tokio::time::sleep_until(at.into())),
        });
        RecordedAnswer {
            stream: self,
            content: trace_content.then(AnswerContent::default),
            recorder,
            deadline,
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
            Some(Ok(response)) => Some(events(response)),
            Some(Err(status)) => Some(Err(status::to_error(&status, &self.source.model))),
            None => None,
        })
    }
}

/// Reads the first events of an answer, and waits for them.
///
/// # Errors
/// When the node fails or ends the answer before them.
pub(crate) async fn read_first_events(
    responses: &mut ResponseStream,
    model: &str,
) -> Result<Vec<GenerateEvent>, RequestError> {
    match responses.next().await {
        Some(Ok(response)) => events(response),
        None => Err(RequestError::NodeLost(
            "the node ended the answer before it began".into(),
        )),
        Some(Err(status)) => Err(status::to_error(&status, model)),
    }
}

fn events(response: GenerateResponse) -> Result<Vec<GenerateEvent>, RequestError> {
    let events = response.events.into_iter().map(TryInto::try_into);
    events
        .collect::<Result<_, _>>()
        .map_err(|error| RequestError::Engine(format!("the node sent an invalid event: {error}")))
}

/// An answer whose end is recorded.
pub(crate) struct RecordedAnswer {
    /// Declared before the recorder, so that it is dropped first: the energy of an abandoned answer
    /// is counted before its end is recorded.
    stream: AnswerStream,
    recorder: DecisionRecorder,
    deadline: Option<AnswerDeadline>,
    /// The text of the answer, where the trace is to hold it.
    content: Option<AnswerContent>,
}

/// When an answer must be complete.
struct AnswerDeadline {
    /// The request's own deadline, after its arrival.
    deadline: Duration,
    timer: Pin<Box<Sleep>>,
}

impl RecordedAnswer {
    /// Polls the next events, or the error that the deadline has passed.
    fn poll_before_deadline(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<GenerateEvent>, RequestError>>> {
        let next = self.stream.poll_next_unpin(cx);
        let Some(deadline) = &mut self.deadline else {
            return next;
        };
        if next.is_pending() && deadline.timer.as_mut().poll(cx).is_ready() {
            let error = deadline_passed(deadline.deadline);
            // A reader that goes on finds the end of the stream; dropping it stops the generation.
            self.deadline = None;
            return Poll::Ready(Some(Err(error)));
        }
        next
    }
}

impl Stream for RecordedAnswer {
    type Item = Result<Vec<GenerateEvent>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = ready!(self.poll_before_deadline(cx));
        let this = &mut *self;
        match &mut next {
            Some(Ok(events)) => {
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
