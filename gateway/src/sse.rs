//! Streams answers as server-sent events.
//!
//! axum's own `Sse` is not used: it allocates a buffer and sends an HTTP body frame for every event,
//! and scans all data for line breaks. This writer puts the events of a batch, which arrived
//! together, into one frame with one buffer, and serialises straight into it; JSON has no line
//! breaks.
//!
//! Proxies cut connections that are silent for long, often after a minute. So a stream gets its status
//! 200 before the answer begins if that takes longer than the keep-alive interval, and a comment line
//! whenever nothing else was sent for as long.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use flotilla_core::generate::{GenerateEvent, RequestError};
use flotilla_telemetry::trace::RequestSpan;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use http_body::Frame;
use serde::Serialize;
use tokio::time::{Instant, Sleep};

use crate::backend::ServedBy;
use crate::completion_id::CompletionId;
use crate::{ApiError, BackendError, EventStream, headers};

/// What is sent when there was nothing else to send. Clients ignore comments.
const COMMENT: &[u8] = b": keep-alive\n\n";

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

/// The beginning of an answer, or why there is none.
type BeginResult = Result<(ServedBy, EventStream), ApiError>;

/// An answer that has not begun.
type PendingAnswer = Pin<Box<dyn Future<Output = BeginResult> + Send>>;

/// The beginning of a stream's answer.
pub(crate) struct StreamStart<'a> {
    served_by: &'a ServedBy,
    /// Whether the headers were sent before it was known which replica answers.
    headers_sent: bool,
}

impl<'a> StreamStart<'a> {
    /// A new id of the answer, see [`CompletionId::new`].
    pub(crate) fn id(&self, prefix: &str) -> CompletionId {
        CompletionId::new(prefix, self.served_by.model.as_str().to_owned())
    }

    /// What the chunks must say of the replica that answers. `None` if the headers say it.
    pub(crate) fn late_served_by(&self) -> Option<&'a ServedBy> {
        self.headers_sent.then_some(self.served_by)
    }
}

/// Streams the answer that `begin` resolves to, through a writer that `new_writer` creates then. Each
/// batch is sent as soon as it arrives. Dropping the response's body drops `begin` and so cancels the
/// request.
///
/// # Errors
/// What `begin` fails with within `keep_alive`. Later errors are a frame of the stream.
pub(crate) async fn respond<W, F>(
    begin: impl Future<Output = BeginResult> + Send + 'static,
    keep_alive: Duration,
    new_writer: F,
) -> Result<Response, ApiError>
where
    W: EventWriter,
    F: FnOnce(StreamStart<'_>) -> W + Send + Unpin + 'static,
{
    // The body continues to poll it, outside of the span that is current here.
    let span = RequestSpan::current();
    let mut pending: PendingAnswer = Box::pin(async move { span.instrument(begin).await });
    match tokio::time::timeout(keep_alive, &mut pending).await {
        Ok(answer) => {
            let (served_by, events) = answer?;
            let writer = new_writer(StreamStart {
                served_by: &served_by,
                headers_sent: false,
            });
            let state = StreamState::<W, F>::Open { events, writer };
            let mut body = SseBody::new(state, keep_alive);
            body.decision_id = Some(served_by.decision_id.clone());
            let mut response = response(body);
            headers::add_served_by(&mut response, &served_by);
            Ok(response)
        }
        Err(_) => {
            let state = StreamState::Waiting {
                pending,
                new_writer: Some(new_writer),
            };
            let mut body = SseBody::new(state, keep_alive);
            body.buffer.put_slice(COMMENT);
            Ok(response(body))
        }
    }
}

fn response<W: EventWriter, F>(body: SseBody<W, F>) -> Response
where
    F: FnOnce(StreamStart<'_>) -> W + Send + Unpin + 'static,
{
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

enum StreamState<W, F> {
    /// The answer has not begun.
    Waiting {
        pending: PendingAnswer,
        /// `None` once it is used.
        new_writer: Option<F>,
    },
    Open {
        events: EventStream,
        writer: W,
    },
    /// The usage and `[DONE]` are written. The events may still have to end.
    Complete(EventStream),
    Ended,
}

struct SseBody<W, F> {
    state: StreamState<W, F>,
    buffer: BytesMut,
    /// Id of the routing decision, once it is made.
    decision_id: Option<String>,
    keep_alive: Duration,
    last_sent: Instant,
    /// Fires at `last_sent` plus `keep_alive`, or before: it is not set anew for every frame.
    timer: Pin<Box<Sleep>>,
}

impl<W, F> SseBody<W, F>
where
    W: EventWriter,
    F: FnOnce(StreamStart<'_>) -> W + Send + Unpin,
{
    fn new(state: StreamState<W, F>, keep_alive: Duration) -> Self {
        Self {
            state,
            buffer: BytesMut::new(),
            decision_id: None,
            keep_alive,
            last_sent: Instant::now(),
            timer: Box::pin(tokio::time::sleep(keep_alive)),
        }
    }

    /// Polls the answer once and writes what has arrived of it.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            StreamState::Waiting {
                pending,
                new_writer,
            } => {
                let begun = ready!(pending.as_mut().poll(cx));
                match (begun, new_writer.take()) {
                    (Ok((served_by, events)), Some(new_writer)) => {
                        self.decision_id = Some(served_by.decision_id.clone());
                        let writer = new_writer(StreamStart {
                            served_by: &served_by,
                            headers_sent: true,
                        });
                        self.state = StreamState::Open { events, writer };
                    }
                    (Err(error), _) => self.write_error(&error),
                    (Ok(_), None) => self.state = StreamState::Ended,
                }
            }
            StreamState::Open { events, .. } => match ready!(events.as_mut().poll_next(cx)) {
                Some(Ok(batch)) => self.write_batch(batch),
                Some(Err(error)) => self.write_late_error(error),
                None => {
                    let error = "the answer broke off before its end";
                    self.write_late_error(RequestError::NodeLost(error.into()));
                }
            },
            StreamState::Complete(events) => match ready!(events.as_mut().poll_next(cx)) {
                Some(Ok(_)) => {}
                // The answer is already complete: a failure of the node no longer matters.
                Some(Err(_)) | None => self.state = StreamState::Ended,
            },
            StreamState::Ended => {}
        }
        Poll::Ready(())
    }

    fn write_batch(&mut self, batch: Vec<GenerateEvent>) {
        let StreamState::Open { writer, .. } = &mut self.state else {
            return;
        };
        let is_last = batch
            .iter()
            .any(|event| matches!(event, GenerateEvent::Usage(_)));
        for event in batch {
            writer.write(event, &mut self.buffer);
        }
        if is_last {
            self.buffer.put_slice(b"data: [DONE]\n\n");
            if let StreamState::Open { events, .. } =
                std::mem::replace(&mut self.state, StreamState::Ended)
            {
                self.state = StreamState::Complete(events);
            }
        }
    }

    /// Writes the error of an answer that had begun.
    fn write_late_error(&mut self, error: RequestError) {
        let decision_id = self.decision_id.take();
        self.write_error(&BackendError { error, decision_id }.into());
    }

    fn write_error(&mut self, error: &ApiError) {
        let json = error.frame_json();
        write_frame(&mut self.buffer, |out| out.put_slice(&json));
        self.state = StreamState::Ended;
    }

    /// Completes when nothing was sent for the keep-alive interval.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let deadline = self.last_sent + self.keep_alive;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Takes what was written since the last call.
    fn take_frame(&mut self) -> Frame<Bytes> {
        self.last_sent = Instant::now();
        Frame::data(self.buffer.split().freeze())
    }
}

impl<W, F> http_body::Body for SseBody<W, F>
where
    W: EventWriter,
    F: FnOnce(StreamStart<'_>) -> W + Send + Unpin,
{
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if !this.buffer.is_empty() {
                return Poll::Ready(Some(Ok(this.take_frame())));
            }
            if matches!(this.state, StreamState::Ended) {
                return Poll::Ready(None);
            }
            if this.poll_answer(cx).is_pending() {
                // After `[DONE]` nothing may follow.
                if matches!(this.state, StreamState::Complete(_)) {
                    return Poll::Pending;
                }
                ready!(this.poll_silence(cx));
                this.buffer.put_slice(COMMENT);
                let deadline = Instant::now() + this.keep_alive;
                this.timer.as_mut().reset(deadline);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use flotilla_core::generate::{ChoiceDelta, Usage};
    use flotilla_core::{ModelName, NodeName};
    use futures::stream::{self, StreamExt};
    use http_body_util::BodyExt;

    /// Longer than any test.
    const NEVER: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(5);

    struct ContentWriter {
        served_by_comes_late: bool,
    }

    impl EventWriter for ContentWriter {
        fn write(&mut self, event: GenerateEvent, out: &mut BytesMut) {
            match event {
                GenerateEvent::Delta(delta) => {
                    write_frame(out, |out| out.put_slice(delta.content.as_bytes()));
                }
                _ if self.served_by_comes_late => write_frame(out, |out| out.put_slice(b"late")),
                _ => {}
            }
        }
    }

    fn served_by() -> ServedBy {
        ServedBy {
            model: ModelName::new("m").unwrap(),
            task: None,
            node: NodeName::new("n").unwrap(),
            attempts: 1,
            decision_id: "d".into(),
        }
    }

    fn delta(text: &str) -> GenerateEvent {
        GenerateEvent::Delta(ChoiceDelta {
            content: text.into(),
            ..ChoiceDelta::default()
        })
    }

    fn end() -> GenerateEvent {
        GenerateEvent::Usage(Usage::default())
    }

    async fn start(
        begin: impl Future<Output = BeginResult> + Send + 'static,
        keep_alive: Duration,
    ) -> Result<Response, ApiError> {
        respond(begin, keep_alive, |start| ContentWriter {
            served_by_comes_late: start.late_served_by().is_some(),
        })
        .await
    }

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    async fn stream(batches: Vec<Result<Vec<GenerateEvent>, RequestError>>) -> String {
        let events: EventStream = Box::pin(stream::iter(batches));
        let begin = async { Ok((served_by(), events)) };
        let response = start(begin, NEVER).await.unwrap();
        assert_eq!(response.headers()["x-flotilla-decision"], "d");
        text(response).await
    }

    #[tokio::test]
    async fn complete_answer_ends_with_done() {
        let text = stream(vec![Ok(vec![delta("a"), delta("b")]), Ok(vec![end()])]).await;
        assert_eq!(text, "data: a\n\ndata: b\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn interrupted_answer_ends_with_an_error() {
        for end in [Some(Err(RequestError::NodeLost("gone".into()))), None] {
            let batches = [Ok(vec![delta("a")])].into_iter().chain(end).collect();
            let text = stream(batches).await;
            assert!(text.starts_with("data: a\n\ndata: {\"error\":"), "{text}");
            assert!(text.contains(r#""decision":"d""#), "{text}");
            assert!(!text.contains("[DONE]"), "{text}");
        }
    }

    #[tokio::test]
    async fn error_before_the_first_comment_is_an_error_response() {
        let begin = async {
            let error = RequestError::Overloaded {
                message: "full".into(),
                retry_after: Duration::from_secs(3),
            };
            let decision_id = Some("d".to_owned());
            Err(BackendError { error, decision_id }.into())
        };
        let response = start(begin, NEVER).await.unwrap_err().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "3");
        assert_eq!(response.headers()["x-flotilla-decision"], "d");
    }

    #[tokio::test]
    async fn late_answer_is_preceded_by_comments_and_says_who_answers() {
        let (sender, begun) = tokio::sync::oneshot::channel::<()>();
        let begin = async move {
            begun.await.unwrap();
            let events = stream::iter([Ok(vec![delta("a")]), Ok(vec![end()])]);
            Ok((served_by(), Box::pin(events) as EventStream))
        };
        let response = start(begin, SHORT).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("x-flotilla-decision"));
        let mut body = response.into_body();
        for _ in 0..3 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), COMMENT);
        }
        sender.send(()).unwrap();
        let rest = text(Response::new(body)).await;
        let rest = rest.trim_start_matches(std::str::from_utf8(COMMENT).unwrap());
        assert_eq!(rest, "data: a\n\ndata: late\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn late_error_is_a_frame_with_what_the_headers_would_say() {
        let (sender, begun) = tokio::sync::oneshot::channel::<()>();
        let begin = async move {
            begun.await.unwrap();
            let error = RequestError::Overloaded {
                message: "full".into(),
                retry_after: Duration::from_secs(3),
            };
            let decision_id = Some("d".to_owned());
            let error = BackendError { error, decision_id };
            Err(ApiError::with_prompt_param("messages")(error))
        };
        let response = start(begin, SHORT).await.unwrap();
        sender.send(()).unwrap();
        let text = text(response).await;
        let frame = text.rsplit("data: ").next().unwrap().trim_end();
        let json: serde_json::Value = serde_json::from_str(frame).unwrap();
        assert_eq!(json["error"]["code"], "overloaded");
        assert_eq!(
            json["flotilla"],
            serde_json::json!({"status": 429, "decision": "d", "retry_after": 3})
        );
    }

    #[tokio::test]
    async fn silent_answer_has_comments_between_its_frames() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let rest = stream::once(async move {
            receiver.await.unwrap();
            Ok(vec![end()])
        });
        let events = stream::iter([Ok(vec![delta("a")])]).chain(rest);
        let begin = async { Ok((served_by(), Box::pin(events) as EventStream)) };
        let mut body = start(begin, SHORT).await.unwrap().into_body();
        let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(next().await, "data: a\n\n");
        assert_eq!(next().await, COMMENT);
        assert_eq!(next().await, COMMENT);
        sender.send(()).unwrap();
        while next().await == COMMENT {}
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn dropping_the_body_cancels_a_request_that_is_not_answered() {
        let (sender, mut receiver) = tokio::sync::oneshot::channel::<()>();
        let begin = async move {
            let _held_while_pending = sender;
            std::future::pending().await
        };
        let response = start(begin, SHORT).await.unwrap();
        assert!(receiver.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty));
        drop(response);
        assert!(receiver.await.is_err());
    }
}
