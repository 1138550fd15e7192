//! The body of an answer as events: a stream of server-sent events, or a whole JSON object from servers
//! that ignore `stream`.

use async_stream::try_stream;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use flotilla_core::generate::{GenerateEvent, RequestError};
use futures::{Stream, StreamExt};
use tokio::time::Instant;

use super::answer::{StreamEnd, UpstreamAnswer};
use super::body::{self, Piece};
use super::error;
use super::limits::{ServerTimeouts, UpstreamLimits};
use super::response::UpstreamChunk;

/// The largest server-sent event, in bytes. An event with one token has a few hundred bytes, even with
/// log-probabilities.
const MAX_EVENT_BYTES: usize = 4 << 20;
/// The largest answer that comes as one JSON object, in bytes: it is held in memory.
const MAX_WHOLE_BYTES: usize = 32 << 20;
/// The most characters that an error quotes of a body.
const QUOTED_CHARS: usize = 200;

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyForm {
    /// Server-sent events.
    Events,
    /// One JSON object.
    Whole,
    /// Neither.
    Unknown,
}

/// Returns the events of an answer from the pieces of its body.
pub(super) fn from_pieces(
    pieces: impl Stream<Item = Result<Piece, RequestError>> + Send,
    limits: UpstreamLimits,
    timeouts: ServerTimeouts,
) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
    try_stream! {
        let mut pieces = std::pin::pin!(pieces);
        let mut answer = UpstreamAnswer::new(limits);
        let start = read_start(&mut pieces).await?;
        let end = match form(&start) {
            BodyForm::Whole => {
                let whole = body::read_rest(start, pieces, MAX_WHOLE_BYTES).await?;
                for event in answer.add(parse(&whole)?)? {
                    yield event;
                }
                StreamEnd::Done
            }
            BodyForm::Unknown => StreamEnd::Broken(error::invalid(&format!(
                "is neither an event stream nor JSON: it begins with {}",
                quote(&start)
            ))),
            BodyForm::Events => {
                let start = futures::stream::iter([Ok(start)]);
                let mut events = std::pin::pin!(bounded(start.chain(pieces)).eventsource());
                // Once the answer is finished, only its usage is still to come.
                let mut end_at = None;
                loop {
                    let event = match next_until(&mut events, end_at).await {
                        None => break StreamEnd::Closed,
                        Some(Err(error)) => break StreamEnd::Broken(stream_error(error)),
                        Some(Ok(event)) => event,
                    };
                    if event.data.trim() == "[DONE]" {
                        break StreamEnd::Done;
                    }
                    if event.data.is_empty() {
                        continue;
                    }
                    for event in answer.add(parse_event(&event)?)? {
                        yield event;
                    }
                    if answer.is_finished() && end_at.is_none() {
                        end_at = Some(Instant::now() + timeouts.after_finish);
                    }
                }
            }
        };
        for event in answer.end(end)? {
            yield event;
        }
    }
}

/// Returns the next item, or `None` at the end of the items or from `end_at` on, even if there are more.
async fn next_until<S: Stream + Unpin>(items: &mut S, end_at: Option<Instant>) -> Option<S::Item> {
    let Some(end_at) = end_at else {
        return items.next().await;
    };
    // A timeout alone does not pass while there is always an item.
    if Instant::now() >= end_at {
        return None;
    }
    let item = tokio::time::timeout_at(end_at, items.next()).await;
    item.unwrap_or_default()
}

/// Reads until there is a byte that is not blank, and returns all bytes so far.
async fn read_start(
    pieces: &mut (impl Stream<Item = Result<Piece, RequestError>> + Unpin),
) -> Result<Piece, RequestError> {
    let mut start = Vec::new();
    while let Some(piece) = pieces.next().await {
        start.extend_from_slice(&piece?);
        if start.len() > MAX_EVENT_BYTES || first_byte(&start).is_some() {
            break;
        }
    }
    Ok(start.into())
}

/// The first byte that is neither blank nor a part of a byte order mark.
fn first_byte(bytes: &[u8]) -> Option<u8> {
    let ignored = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
    bytes.iter().copied().find(|byte| !ignored(byte))
}

fn form(start: &[u8]) -> BodyForm {
    match first_byte(start) {
        Some(b'{') => BodyForm::Whole,
        // The fields of events are `data`, `event`, `id` and `retry`; comments begin with a colon.
        Some(b':' | b'd' | b'e' | b'i' | b'r') => BodyForm::Events,
        Some(_) | None => BodyForm::Unknown,
    }
}

/// The beginning of a body for an error message.
fn quote(start: &[u8]) -> String {
    let text = String::from_utf8_lossy(start);
    let beginning: String = text.trim().chars().take(QUOTED_CHARS).collect();
    if beginning.is_empty() {
        "nothing".to_owned()
    } else {
        format!("{beginning:?}")
    }
}

fn parse(json: &[u8]) -> Result<UpstreamChunk, RequestError> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    serde_json::from_slice(json)
        .map_err(|e| error::invalid(&format!("cannot be parsed: {e} in {}", quote(json))))
}

fn parse_event(event: &Event) -> Result<UpstreamChunk, RequestError> {
    if event.event == "error" {
        return Err(error::failed(&event.data));
    }
    parse(event.data.as_bytes())
}

fn stream_error(error: EventStreamError<RequestError>) -> RequestError {
    match error {
        EventStreamError::Transport(error) => error,
        EventStreamError::Utf8(_) => error::invalid("is not valid UTF-8"),
        EventStreamError::Parser(_) => error::invalid("is not an event stream"),
    }
}

/// Prepares a body for `eventsource-stream`, which buffers a whole event whatever its size: an event
/// longer than [`MAX_EVENT_BYTES`] becomes an error.
fn bounded(
    pieces: impl Stream<Item = Result<Piece, RequestError>> + Send,
) -> impl Stream<Item = Result<Piece, RequestError>> + Send {
    try_stream! {
        let mut pieces = std::pin::pin!(pieces);
        let mut event = EventSize::default();
        // The crate panics on a byte order mark at the beginning; after an empty line it ignores it.
        yield Piece::from_static(b"\n");
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            event.add(&piece);
            if event.bytes > MAX_EVENT_BYTES {
                let what = format!("has an event of more than {MAX_EVENT_BYTES} bytes");
                Err::<(), _>(error::invalid(&what))?;
            }
            yield piece;
        }
        // Some servers leave out the empty line after the last event.
        yield Piece::from_static(b"\n\n");
    }
}

/// The size of the event that is being received.
#[derive(Default)]
struct EventSize {
    /// Bytes since the last empty line, without line ends.
    bytes: usize,
    /// Bytes of the current line.
    line: usize,
    last_byte: u8,
}

impl EventSize {
    fn add(&mut self, piece: &[u8]) {
        for &byte in piece {
            match byte {
                // The second half of a line end.
                b'\n' if self.last_byte == b'\r' => {}
                b'\n' | b'\r' => {
                    if self.line == 0 {
                        self.bytes = 0;
                    }
                    self.line = 0;
                }
                _ => {
                    self.line += 1;
                    self.bytes += 1;
                }
            }
            self.last_byte = byte;
        }
    }
}

#[cfg(test)]
mod tests;
