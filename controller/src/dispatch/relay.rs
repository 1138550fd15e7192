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
use futures::Stream;
use tokio::time::Sleep;
use tonic::Streaming;

use super::charge::UsageGuard;
use super::content::AnswerContent;
use super::tries::passed;
use crate::decisions::DecisionRecorder;

/// An answer whose end goes on record.
pub(super) struct RecordedAnswer {
    /// Before the recorder: what an answer took that is dropped is counted before it is written down.
    relay: AnswerStream,
    recorder: DecisionRecorder,
    deadline: Option<AnswerDeadline>,
    /// What is answered, where traces are to tell it.
    told: Option<AnswerContent>,
}

/// When an answer must be complete.
struct AnswerDeadline {
    within: Duration,
    over: Pin<Box<Sleep>>,
}

impl RecordedAnswer {
    /// The next events, or that there is no more time for them.
    fn poll_in_time(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<GenerateEvent>, RequestError>>> {
        let next = Pin::new(&mut self.relay).poll_next(cx);
        let Some(deadline) = &mut self.deadline else {
            return next;
        };
        if next.is_pending() && deadline.over.as_mut().poll(cx).is_ready() {
            let within = deadline.within;
            // Whoever reads on finds the end; dropping the stream stops the generation.
            self.deadline = None;
            return Poll::Ready(Some(Err(passed(within))));
        }
        next
    }
}

impl Stream for RecordedAnswer {
    type Item = Result<Vec<GenerateEvent>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = ready!(self.poll_in_time(cx));
        let this = &mut *self;
        match &mut next {
            Some(Ok(events)) => {
                if let Some(told) = &mut this.told {
                    told.events(events);
                }
                // It is complete then: whoever has that may not wait for the end of the stream.
                if let Some(GenerateEvent::Usage(usage)) = events.last_mut() {
                    this.recorder.usage(*usage);
                    if let Some(timing) = usage.timing {
                        this.recorder.wrote_for(timing.decode);
                    }
                    this.relay.served(*usage);
                    usage.energy = Some(this.recorder.spent());
                    if let Some(told) = this.told.take() {
                        told.tell(this.recorder.stage());
                    }
                    this.recorder.answered();
                }
            }
            Some(Err(error)) => {
                this.relay.given_up();
                this.relay.failed(error);
                this.recorder.failed(error);
            }
            None => this.recorder.answered(),
        }
        Poll::Ready(next)
    }
}

/// The events of one answer. Dropping it stops the generation and gives the load back.
pub(super) struct AnswerStream {
    replies: Streaming<GenerateResponse>,
    /// The events that came before anybody read.
    first: Option<Vec<GenerateEvent>>,
    charge: UsageGuard,
    source: AnswerSource,
}

/// Where an answer comes from.
pub(super) struct AnswerSource {
    pub(super) model: String,
    /// What the call is traced as.
    pub(super) forward: RequestSpan,
}

impl AnswerStream {
    /// An answer whose `first` events are there.
    pub(super) fn new(
        replies: Streaming<GenerateResponse>,
        first: Vec<GenerateEvent>,
        mut charge: UsageGuard,
        source: AnswerSource,
    ) -> Self {
        charge.begins();
        Self {
            replies,
            first: Some(first),
            charge,
            source,
        }
    }

    /// The same, with its end on record, complete at `end`, which is `within` so much of its
    /// request's arrival. `tells`: whether its trace is to tell it.
    pub(super) fn recorded(
        self,
        recorder: DecisionRecorder,
        deadline: Option<(Duration, Instant)>,
        tells: bool,
    ) -> RecordedAnswer {
        let deadline = deadline.map(|(within, end)| AnswerDeadline {
            within,
            over: Box::pin(tokio::time::sleep_until(end.into())),
        });
        RecordedAnswer {
            relay: self,
            told: tells.then(AnswerContent::default),
            recorder,
            deadline,
        }
    }

    /// The answer is complete: what it took is learnt and counted.
    pub(super) fn served(&mut self, usage: Usage) -> EnergyUsage {
        self.charge.served(usage)
    }

    /// The answer is given up: what it took so far is counted.
    pub(super) fn given_up(&mut self) -> EnergyUsage {
        self.charge.given_up()
    }

    /// The answer failed.
    pub(super) fn failed(&mut self, error: &RequestError) {
        self.source.forward.failed(error.kind());
        self.charge.failed(error);
    }
}

impl Stream for AnswerStream {
    type Item = Result<Vec<GenerateEvent>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.replies).poll_next(cx)) {
            Some(Ok(reply)) => Some(events(reply)),
            Some(Err(status)) => Some(Err(status::to_error(&status, &self.source.model))),
            None => None,
        })
    }
}

/// Waits for the first events of an answer.
pub(super) async fn first(
    replies: &mut Streaming<GenerateResponse>,
    model: &str,
) -> Result<Vec<GenerateEvent>, RequestError> {
    match replies.message().await {
        Ok(Some(reply)) => events(reply),
        Ok(None) => Err(RequestError::NodeLost(
            "the node ended the answer before it began".into(),
        )),
        Err(status) => Err(status::to_error(&status, model)),
    }
}

fn events(reply: GenerateResponse) -> Result<Vec<GenerateEvent>, RequestError> {
    let events = reply.events.into_iter().map(TryInto::try_into);
    events
        .collect::<Result<_, _>>()
        .map_err(|error| RequestError::Engine(format!("the node's answer makes no sense: {error}")))
}
