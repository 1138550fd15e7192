//! An answer on its way from a replica to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flotilla_core::generate::{Event, RequestError};
use flotilla_proto::status;
use flotilla_proto::v1::GenerateReply;
use futures::Stream;
use tonic::Streaming;

use crate::decisions::Recorder;
use crate::fleet::LoadGuard;

/// An answer whose end goes on record.
pub(super) struct Recorded {
    relay: Relay,
    recorder: Recorder,
}

impl Stream for Recorded {
    type Item = Result<Vec<Event>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.relay).poll_next(cx));
        match &next {
            Some(Ok(events)) => {
                if let Some(usage) = self.recorder.events(events) {
                    self.relay.guard.served(usage);
                }
            }
            Some(Err(error)) => {
                self.relay.guard.failed(error);
                self.recorder.failed(error);
            }
            None => self.recorder.answered(),
        }
        Poll::Ready(next)
    }
}

/// The events of one answer. Dropping it stops the generation and gives the load back.
pub(super) struct Relay {
    replies: Streaming<GenerateReply>,
    /// The events that came before anybody read.
    first: Option<Vec<Event>>,
    model: String,
    guard: LoadGuard,
}

impl Relay {
    /// An answer whose `first` events are there.
    pub(super) fn new(
        replies: Streaming<GenerateReply>,
        first: Vec<Event>,
        guard: LoadGuard,
        model: String,
    ) -> Self {
        Self {
            replies,
            first: Some(first),
            model,
            guard,
        }
    }
    /// The same, with its end on record.
    pub(super) fn recorded(self, recorder: Recorder) -> Recorded {
        Recorded {
            relay: self,
            recorder,
        }
    }
}

impl Stream for Relay {
    type Item = Result<Vec<Event>, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.replies).poll_next(cx)) {
            Some(Ok(reply)) => Some(events(reply)),
            Some(Err(status)) => Some(Err(status::to_error(&status, &self.model))),
            None => None,
        })
    }
}

/// Waits for the first events of an answer.
pub(super) async fn first(
    replies: &mut Streaming<GenerateReply>,
    model: &str,
) -> Result<Vec<Event>, RequestError> {
    match replies.message().await {
        Ok(Some(reply)) => events(reply),
        Ok(None) => Err(RequestError::NodeLost(
            "the node ended the answer before it began".into(),
        )),
        Err(status) => Err(status::to_error(&status, model)),
    }
}

fn events(reply: GenerateReply) -> Result<Vec<Event>, RequestError> {
    let events = reply.events.into_iter().map(TryInto::try_into);
    events
        .collect::<Result<_, _>>()
        .map_err(|error| RequestError::Engine(format!("the node's answer makes no sense: {error}")))
}
