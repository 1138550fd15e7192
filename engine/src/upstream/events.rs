//! A streamed answer as events.

use async_stream::try_stream;
use eventsource_stream::{EventStreamError, Eventsource};
use flotilla_core::generate::{ChoiceFinished, GenerateEvent, RequestError, Usage};
use futures::{Stream, StreamExt};
use reqwest::Response;

use super::error;
use super::response::{UpstreamChunk, UsageField};

/// The piece type of reqwest's streams; `flotilla_core::Bytes` is an amount.
type Piece = bytes::Bytes;

/// The largest server-sent event, in bytes. An event with one token has a few hundred bytes, even with
/// log-probabilities.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// Returns the events of a streamed response that has this many choices.
pub(super) fn from_response(
    response: Response,
    choices: u32,
) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
    let pieces = response
        .bytes_stream()
        .map(|piece| piece.map_err(|e| error::interrupted(&error::root_cause(&e))));
    from_pieces(pieces, choices)
}

fn from_pieces(
    pieces: impl Stream<Item = Result<Piece, RequestError>> + Send,
    choices: u32,
) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
    try_stream! {
        let mut events = std::pin::pin!(bounded(pieces).eventsource());
        let mut usage = None;
        let mut deltas = 0;
        let mut unfinished = choices;
        while let Some(event) = events.next().await {
            let data = event.map_err(stream_error)?.data;
            if data.is_empty() {
                continue;
            }
            if data.trim() == "[DONE]" {
                break;
            }
            let chunk = parse(&data)?;
            usage = chunk.usage.or(usage);
            for choice in chunk.choices {
                let (index, finish_reason) = (choice.index, choice.finish_reason());
                if let Some(delta) = choice.into_delta() {
                    deltas += 1;
                    yield GenerateEvent::Delta(delta);
                }
                if let Some(reason) = finish_reason {
                    unfinished = unfinished.saturating_sub(1);
                    yield GenerateEvent::Finished(ChoiceFinished { choice: index, reason });
                }
            }
        }
        if unfinished > 0 {
            Err::<(), _>(error::interrupted("it ended before every choice was finished"))?;
        }
        // A server that reports no usage sends about one token per delta.
        let usage = usage.unwrap_or(UsageField { prompt_tokens: 0, completion_tokens: deltas });
        yield GenerateEvent::Usage(Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: None,
            energy: None,
        });
    }
}

fn parse(data: &str) -> Result<UpstreamChunk, RequestError> {
    let chunk: UpstreamChunk = serde_json::from_str(data)
        .map_err(|e| RequestError::Engine(format!("the server's answer cannot be parsed: {e}")))?;
    match &chunk.error {
        Some(failure) => Err(RequestError::Engine(format!(
            "the server failed: {}",
            error::message(failure)
        ))),
        None => Ok(chunk),
    }
}

fn stream_error(error: EventStreamError<RequestError>) -> RequestError {
    match error {
        EventStreamError::Transport(error) => error,
        EventStreamError::Utf8(_) => {
            RequestError::Engine("the server's answer is not valid UTF-8".into())
        }
        EventStreamError::Parser(_) => {
            RequestError::Engine("the server's answer is not an event stream".into())
        }
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
                Err::<(), _>(RequestError::Engine(format!(
                    "the server sent an event of more than {MAX_EVENT_BYTES} bytes"
                )))?;
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
mod tests {
    use super::*;
    use futures::stream;

    async fn collect(pieces: &[&[u8]]) -> Vec<Result<GenerateEvent, RequestError>> {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(Piece::copy_from_slice(piece)))
            .collect();
        from_pieces(stream::iter(pieces), 1).collect().await
    }

    #[tokio::test]
    async fn event_split_at_any_byte_is_parsed() {
        let body = "data: {\"choices\":[{\"text\":\"ä\",\"finish_reason\":\"stop\"}]}\r\n\r\n";
        let whole = collect(&[body.as_bytes()]).await;
        assert_eq!(whole.len(), 3);
        for index in 0..body.len() {
            let (head, tail) = body.as_bytes().split_at(index);
            assert_eq!(collect(&[head, tail]).await, whole);
        }
    }

    #[tokio::test]
    async fn byte_order_mark_does_no_harm() {
        let body = "\u{feff}: comment\n\ndata: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
        assert!(collect(&[body.as_bytes()]).await.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn event_without_an_end_is_refused() {
        let line = vec![b'a'; 1 << 20];
        let events = collect(&[b"data: ", &line, &line, &line, &line]).await;
        let [Err(RequestError::Engine(message))] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(message.contains("4194304 bytes"), "{message}");
    }

    #[test]
    fn size_of_an_event_starts_anew_after_an_empty_line() {
        for line_end in ["\n", "\r\n", "\r"] {
            let mut event = EventSize::default();
            event.add(format!("data: a{line_end}data: b{line_end}").as_bytes());
            assert_eq!(event.bytes, 14);
            event.add(format!("{line_end}xy").as_bytes());
            assert_eq!(event.bytes, 2);
        }
    }
}
