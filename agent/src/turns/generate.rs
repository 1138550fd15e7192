//! A request for several choices.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use flotilla_core::generate::{GenerateEvent, GenerateRequest, RequestError};
use flotilla_engine::ComputeLocation;
use flotilla_telemetry::names::span;
use flotilla_telemetry::trace::RequestSpan;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::{MergedAnswer, TurnStream};
use crate::models::{AdmittedRequest, AdmittedSplit, ServedModel, record_usage};

/// The seed that makes upstream servers choose a random one.
const RANDOM_SEED: i64 = -1;

/// The events of an answer with several choices, each computed in a turn of its own. One usage for all of
/// them ends it.
pub(crate) struct SplitAnswer {
    turns: TurnStream<GenerateEvent>,
    answer: MergedAnswer,
    span: Arc<RequestSpan>,
    has_ended: bool,
}

impl SplitAnswer {
    /// Starts an answer whose first turn has been `admitted`. The turns wait for `served` no longer than
    /// until `deadline`. `span` ends with the events.
    pub(crate) fn new(
        served: Arc<ServedModel>,
        admitted: (AdmittedRequest, AdmittedSplit),
        request: GenerateRequest,
        deadline: Option<Instant>,
        span: RequestSpan,
    ) -> Self {
        let turns = request.choices;
        let span = Arc::new(span);
        let parent = span.clone();
        let start_turn = move |turn: u32, admitted: AdmittedRequest| {
            let span = parent.child(span::TURN);
            let request = choice_request(&request, turn, served.model.compute_location());
            let served = served.clone();
            let events = async move {
                match served.model.generate(request).await {
                    Ok(events) => Ok(admitted.track(events, span)),
                    Err(error) => {
                        span.record_error(error.kind());
                        admitted.fail(&error);
                        Err(error)
                    }
                }
            };
            stream::once(events).try_flatten().boxed()
        };
        Self {
            turns: TurnStream::new(admitted, turns, deadline, start_turn),
            answer: MergedAnswer::new(turns),
            span,
            has_ended: false,
        }
    }

    fn end_with(&mut self, error: &RequestError) {
        self.has_ended = true;
        self.span.record_error(error.kind());
    }
}

/// Returns the request for one of the choices. A seed is different for each choice, so that they differ,
/// and depends on nothing else, so that they can be reproduced.
fn choice_request(
    request: &GenerateRequest,
    choice: u32,
    location: ComputeLocation,
) -> GenerateRequest {
    let mut request = request.clone();
    request.choices = 1;
    let is_random = request.sampling.seed == Some(RANDOM_SEED) && location != ComputeLocation::Own;
    if let Some(seed) = &mut request.sampling.seed
        && !is_random
    {
        *seed = seed.wrapping_add(i64::from(choice));
    }
    request
}

impl Stream for SplitAnswer {
    type Item = Result<GenerateEvent, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.has_ended {
            match ready!(this.turns.poll_next_unpin(cx)) {
                Some(Ok((turn, event))) => {
                    let Some(event) = this.answer.add(turn, event) else {
                        continue;
                    };
                    if let GenerateEvent::Usage(usage) = &event {
                        this.turns.mark_complete();
                        if this.span.is_recording() {
                            record_usage(&this.span, usage);
                        }
                    }
                    return Poll::Ready(Some(Ok(event)));
                }
                Some(Err(error)) => {
                    this.end_with(&error);
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.has_ended = true;
                    if let Err(error) = this.answer.check_complete() {
                        this.end_with(&error);
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}
