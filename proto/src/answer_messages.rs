//! The messages of a streamed answer: events that are ready together travel in one message.

use flotilla_core::generate::{GenerateEvent, RequestError};
use futures::{Stream, StreamExt, stream};
use tonic::Status;

use crate::{status, v1};

/// The largest number of events in one message.
const MAX_BATCH: usize = 64;

/// Returns the messages of an answer. Resolves with the first events, so that these are sent together
/// with the headers, and a failure before them becomes a plain status.
///
/// # Errors
/// When the answer fails before its first event.
pub async fn messages(
    events: impl Stream<Item = Result<GenerateEvent, RequestError>> + Send + 'static,
) -> Result<impl Stream<Item = Result<v1::GenerateResponse, Status>> + Send + 'static, Status> {
    let mut batches = Box::pin(events.ready_chunks(MAX_BATCH).map(message));
    let first = batches.next().await;
    let first = first.unwrap_or_else(|| Ok(v1::GenerateResponse::default()))?;
    Ok(stream::iter([Ok(first)]).chain(batches))
}

/// Converts events that were ready together to one message. An error ends the answer; events that were
/// ready together with it are dropped. A delta without content is left out where another event says that the answer has
/// begun: a message without events says so, too.
fn message(
    batch: Vec<Result<GenerateEvent, RequestError>>,
) -> Result<v1::GenerateResponse, Status> {
    let batch: Result<Vec<_>, _> = batch.into_iter().collect();
    let (empty, mut events): (Vec<_>, Vec<_>) = batch
        .map_err(status::from_error)?
        .into_iter()
        .partition(|event| matches!(event, GenerateEvent::Delta(delta) if delta.is_empty()));
    let says_nothing = |event: &GenerateEvent| matches!(event, GenerateEvent::Computed(_));
    if !events.is_empty() && events.iter().all(says_nothing) {
        events.extend(empty.into_iter().next());
    }
    let events = events.into_iter().map(Into::into).collect();
    Ok(v1::GenerateResponse { events })
}

/// Returns the events of a message.
///
/// # Errors
/// When one of them is invalid.
pub fn events(response: v1::GenerateResponse) -> Result<Vec<GenerateEvent>, RequestError> {
    let events = response.events.into_iter().map(TryInto::try_into);
    events
        .collect::<Result<_, _>>()
        .map_err(|error| RequestError::Engine(format!("the node sent an invalid event: {error}")))
}
