//! Streams answers as server-sent events.
//!
//! axum's own `Sse` is not used: it allocates a buffer and sends an HTTP body frame for every event,
//! and scans all data for line breaks. This writer puts the events of a batch, which arrived
//! together, into one frame with one buffer, and serialises straight into it; JSON has no line
//! breaks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use flotilla_core::generate::{GenerateEvent, RequestError};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use http_body::Frame;
use serde::Serialize;

use crate::{ApiError, EventStream};

/// Writes generation events in the shape of one endpoint.
pub(crate) trait EventWriter: Send + Unpin + 'static {
    /// Appends the server-sent events for `event`; none if the endpoint does not send it.
    fn write(&mut self, event: GenerateEvent, out: &mut BytesMut);
}

/// Appends one server-sent event: `data: `, what `write_json` appends, and an empty line.
pub(crate) fn write_frame(out: &mut BytesMut, write_json: impl FnOnce(&mut BytesMut)) {
    out.put_slice(b"data: ");
    write_json(out);
    out.put_slice(b"\n\n");
}

/// Appends `value` as JSON.
pub(crate) fn put_json(out: &mut BytesMut, value: &impl Serialize) {
    // Cannot fail: it writes to memory, and the API's types hold only strings, numbers and lists.
    let _ = serde_json::to_writer(out.writer(), value);
}

/// Returns a response that streams `events`. Each batch is sent as soon as it arrives.
pub(crate) fn response(events: EventStream, writer: impl EventWriter) -> Response {
    let body = SseBody {
        events,
        writer,
        buffer: BytesMut::new(),
        state: StreamState::Open,
    };
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Stops nginx and other proxies from buffering the stream.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

#[derive(Clone, Copy, PartialEq)]
enum StreamState {
    Open,
    /// The usage and `[DONE]` are written. The events may still have to end.
    Complete,
    Ended,
}

struct SseBody<W> {
    events: EventStream,
    writer: W,
    buffer: BytesMut,
    state: StreamState,
}

impl<W: EventWriter> SseBody<W> {
    fn write_batch(&mut self, batch: Vec<GenerateEvent>) {
        for event in batch {
            let last = matches!(event, GenerateEvent::Usage(_));
            self.writer.write(event, &mut self.buffer);
            if last {
                self.buffer.put_slice(b"data: [DONE]\n\n");
                self.state = StreamState::Complete;
            }
        }
    }

    fn write_error(&mut self, error: RequestError) {
        let json = ApiError::from(error).json();
        write_frame(&mut self.buffer, |out| out.put_slice(&json));
        self.state = StreamState::Ended;
    }
}

impl<W: EventWriter> http_body::Body for SseBody<W> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        while this.state != StreamState::Ended {
            let batch = ready!(this.events.as_mut().poll_next(cx));
            match (batch, this.state) {
                (Some(Ok(batch)), _) => this.write_batch(batch),
                // The answer is already complete: a failure of the node no longer matters.
                (Some(Err(_)) | None, StreamState::Complete) => this.state = StreamState::Ended,
                (Some(Err(error)), _) => this.write_error(error),
                (None, _) => this.write_error(RequestError::NodeLost(
                    "the answer broke off before its end".into(),
                )),
            }
            if !this.buffer.is_empty() {
                let bytes = this.buffer.split().freeze();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::{ChoiceDelta, Usage};
    use futures::stream;
    use http_body_util::BodyExt;

    struct ContentWriter;
    impl EventWriter for ContentWriter {
        fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
            if let GenerateEvent::Delta(delta) = event {
                write_frame(out, |out| out.put_slice(delta.content.as_bytes()));
            }
        }
    }

    fn delta(text: &str) -> GenerateEvent {
        GenerateEvent::Delta(ChoiceDelta {
            content: text.into(),
            ..ChoiceDelta::default()
        })
    }

    async fn body(batches: Vec<Result<Vec<GenerateEvent>, RequestError>>) -> String {
        let response = response(Box::pin(stream::iter(batches)), ContentWriter);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn complete_answer_ends_with_done() {
        let end = GenerateEvent::Usage(Usage::default());
        let text = body(vec![Ok(vec![delta("a"), delta("b")]), Ok(vec![end])]).await;
        assert_eq!(text, "data: a\n\ndata: b\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn interrupted_answer_ends_with_an_error() {
        for end in [Some(Err(RequestError::NodeLost("gone".into()))), None] {
            let batches = [Ok(vec![delta("a")])].into_iter().chain(end).collect();
            let text = body(batches).await;
            assert!(text.starts_with("data: a\n\ndata: {\"error\":"), "{text}");
            assert!(!text.contains("[DONE]"), "{text}");
        }
    }
}
