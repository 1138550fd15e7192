//! Answers as server-sent events, each group of events flushed as it arrives.

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

/// Writes events in the shape of one API.
pub(crate) trait EventWriter: Send + Unpin + 'static {
    /// Appends the frames of one event.
    fn write(&mut self, event: GenerateEvent, out: &mut BytesMut);
}

/// Appends one frame: `data: `, what `json` writes, and the blank line.
pub(crate) fn frame(out: &mut BytesMut, json: impl FnOnce(&mut BytesMut)) {
    out.put_slice(b"data: ");
    json(out);
    out.put_slice(b"\n\n");
}

/// Appends `value` as JSON.
pub(crate) fn put_json(out: &mut BytesMut, value: &impl Serialize) {
    // Writing to memory cannot fail, and the values are strings, numbers and lists of them.
    let _ = serde_json::to_writer(out.writer(), value);
}

/// A response that streams `batches`.
pub(crate) fn response(batches: EventStream, writer: impl EventWriter) -> Response {
    let body = SseBody {
        batches,
        writer,
        buffer: BytesMut::new(),
        state: StreamState::Open,
    };
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx and others would otherwise hold frames back.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

#[derive(Clone, Copy, PartialEq)]
enum StreamState {
    Open,
    /// The answer is complete; the stream under it may still have to end.
    Complete,
    Ended,
}

struct SseBody<W> {
    batches: EventStream,
    writer: W,
    buffer: BytesMut,
    state: StreamState,
}

impl<W: EventWriter> SseBody<W> {
    fn take(&mut self, batch: Vec<GenerateEvent>) {
        for event in batch {
            let last = matches!(event, GenerateEvent::Usage(_));
            self.writer.write(event, &mut self.buffer);
            if last {
                self.buffer.put_slice(b"data: [DONE]\n\n");
                self.state = StreamState::Complete;
            }
        }
    }

    fn fail(&mut self, error: RequestError) {
        let json = ApiError::from(error).json();
        frame(&mut self.buffer, |out| out.put_slice(&json));
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
            let batch = ready!(this.batches.as_mut().poll_next(cx));
            match (batch, this.state) {
                (Some(Ok(events)), _) => this.take(events),
                // What happens to the node after the last event is no concern of the client.
                (Some(Err(_)) | None, StreamState::Complete) => this.state = StreamState::Ended,
                (Some(Err(error)), _) => this.fail(error),
                (None, _) => this.fail(RequestError::NodeLost(
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

    struct Plain;
    impl EventWriter for Plain {
        fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
            if let GenerateEvent::Delta(delta) = event {
                frame(out, |out| out.put_slice(delta.content.as_bytes()));
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
        let response = response(Box::pin(stream::iter(batches)), Plain);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_whole_answer_ends_with_done() {
        let end = GenerateEvent::Usage(Usage::default());
        let text = body(vec![Ok(vec![delta("a"), delta("b")]), Ok(vec![end])]).await;
        assert_eq!(text, "data: a\n\ndata: b\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn a_broken_answer_ends_with_an_error_frame() {
        for end in [Some(Err(RequestError::NodeLost("gone".into()))), None] {
            let batches = [Ok(vec![delta("a")])].into_iter().chain(end).collect();
            let text = body(batches).await;
            assert!(text.starts_with("data: a\n\ndata: {\"error\":"), "{text}");
            assert!(!text.contains("[DONE]"), "{text}");
        }
    }
}
