//! Answers that are not streamed: one message with the whole answer.
//!
//! An answer that takes long has an empty message before it, as soon as its first token exists, or the
//! computation of embeddings has begun: so a controller can tell a long answer from one that does not begin.

use std::time::Duration;

use flotilla_core::generate::{ChoiceDelta, GenerateEvent, RequestError};
use flotilla_proto::status;
use flotilla_proto::v1;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;

/// How long the computation of an answer may take without a message that it has begun. A short answer is
/// one message and needs no timer.
const BEGIN_NOTICE_DELAY: Duration = Duration::from_secs(1);

/// Returns the messages of an answer. Resolves when the answer is complete, or when it has begun and is not
/// complete after [`BEGIN_NOTICE_DELAY`].
///
/// # Errors
/// When the answer fails before that.
pub(crate) async fn messages(
    events: impl Stream<Item = Result<GenerateEvent, RequestError>> + Send + Unpin + 'static,
) -> Result<Messages, RequestError> {
    messages_with_delay(events, BEGIN_NOTICE_DELAY).await
}

/// The messages of an answer.
type Messages<M = v1::GenerateResponse> = BoxStream<'static, Result<M, Status>>;

/// Returns the messages of an embedding request whose whole answer is `answer`. `begun` receives when the
/// computation begins. Resolves as [`messages`] does.
///
/// # Errors
/// When the request fails before that.
pub(crate) async fn embedding_messages(
    answer: impl Future<Output = Result<v1::EmbedResponse, Status>> + Send + 'static,
    begun: oneshot::Receiver<()>,
) -> Result<Messages<v1::EmbedResponse>, Status> {
    embedding_messages_with_delay(answer, begun, BEGIN_NOTICE_DELAY).await
}

async fn embedding_messages_with_delay(
    answer: impl Future<Output = Result<v1::EmbedResponse, Status>> + Send + 'static,
    begun: oneshot::Receiver<()>,
    notice_delay: Duration,
) -> Result<Messages<v1::EmbedResponse>, Status> {
    let notice_at = Instant::now() + notice_delay;
    let notice = async {
        match begun.await {
            Ok(()) => tokio::time::sleep_until(notice_at).await,
            // The request was refused: the answer is an error.
            Err(_) => std::future::pending().await,
        }
    };
    let mut answer = answer.boxed();
    tokio::select! {
        biased;
        message = &mut answer => Ok(stream::iter([Ok(message?)]).boxed()),
        () = notice => {
            let begun = stream::iter([Ok(v1::EmbedResponse::default())]);
            Ok(begun.chain(stream::once(answer)).boxed())
        }
    }
}

async fn messages_with_delay(
    events: impl Stream<Item = Result<GenerateEvent, RequestError>> + Send + Unpin + 'static,
    notice_delay: Duration,
) -> Result<Messages, RequestError> {
    let mut answer = UnstreamedAnswer {
        events,
        deltas: Vec::new(),
        others: Vec::new(),
    };
    let notice_at = Instant::now() + notice_delay;
    if answer.is_complete_before(notice_at).await? {
        return Ok(stream::iter([Ok(answer.into_message())]).boxed());
    }
    let rest = async move {
        answer.complete().await.map_err(status::from_error)?;
        Ok(answer.into_message())
    };
    let begun = stream::iter([Ok(v1::GenerateResponse::default())]);
    Ok(begun.chain(stream::once(rest)).boxed())
}

/// An answer that is being collected.
struct UnstreamedAnswer<S> {
    events: S,
    /// The deltas of each choice, joined. Not empty once the answer has begun.
    deltas: Vec<ChoiceDelta>,
    others: Vec<GenerateEvent>,
}

impl<S: Stream<Item = Result<GenerateEvent, RequestError>> + Unpin> UnstreamedAnswer<S> {
    /// Collects events until the answer is complete, or until it has begun and the time is up. Returns
    /// whether it is complete.
    async fn is_complete_before(&mut self, time: Instant) -> Result<bool, RequestError> {
        let time_is_up = tokio::time::sleep_until(time);
        let mut time_is_up = std::pin::pin!(time_is_up);
        loop {
            let has_begun = !self.deltas.is_empty();
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => self.add(event?),
                    None => return Ok(true),
                },
                () = &mut time_is_up, if has_begun => return Ok(false),
            }
        }
    }

    /// Collects all events.
    async fn complete(&mut self) -> Result<(), RequestError> {
        while let Some(event) = self.events.next().await {
            self.add(event?);
        }
        Ok(())
    }

    fn add(&mut self, event: GenerateEvent) {
        match event {
            GenerateEvent::Delta(delta) => {
                let mut deltas = self.deltas.iter_mut();
                match deltas.find(|joined| joined.choice == delta.choice) {
                    Some(joined) => append(joined, delta),
                    None => self.deltas.push(delta),
                }
            }
            other => self.others.push(other),
        }
    }

    fn into_message(self) -> v1::GenerateResponse {
        let deltas = self.deltas.into_iter().map(GenerateEvent::Delta);
        v1::GenerateResponse {
            events: deltas.chain(self.others).map(Into::into).collect(),
        }
    }
}

/// Appends a delta of the same choice.
fn append(joined: &mut ChoiceDelta, delta: ChoiceDelta) {
    joined.content.push_str(&delta.content);
    joined.reasoning.push_str(&delta.reasoning);
    joined.refusal.push_str(&delta.refusal);
    joined.tool_calls.extend(delta.tool_calls);
    joined.logprobs.extend(delta.logprobs);
    joined.prompt_logprobs.extend(delta.prompt_logprobs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::Usage;

    fn delta(choice: u32, content: &str) -> Result<GenerateEvent, RequestError> {
        Ok(GenerateEvent::Delta(ChoiceDelta {
            choice,
            content: content.into(),
            ..ChoiceDelta::default()
        }))
    }

    fn usage() -> Result<GenerateEvent, RequestError> {
        Ok(GenerateEvent::Usage(Usage::default()))
    }

    fn content(message: &v1::GenerateResponse) -> String {
        let deltas = message
            .events
            .iter()
            .filter_map(|event| match &event.event {
                Some(v1::generate_event::Event::Delta(delta)) => Some(delta.content.as_str()),
                _ => None,
            });
        deltas.collect()
    }

    async fn all_messages(
        events: impl Stream<Item = Result<GenerateEvent, RequestError>> + Send + 'static,
    ) -> Vec<v1::GenerateResponse> {
        let messages = messages(events.boxed()).await.unwrap();
        messages.map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn short_answer_is_one_message_with_the_deltas_of_each_choice_joined() {
        let events = [delta(0, "a"), delta(1, "x"), delta(0, "b"), usage()];
        let messages = all_messages(stream::iter(events)).await;
        let [message] = &messages[..] else {
            panic!("{messages:?}");
        };
        assert_eq!(message.events.len(), 3);
        assert_eq!(content(message), "abx");
    }

    #[tokio::test]
    async fn error_after_the_first_delta_fails_the_answer() {
        let events = [delta(0, "a"), Err(RequestError::Engine("broken".into()))];
        assert!(messages(stream::iter(events)).await.is_err());
    }

    #[tokio::test]
    async fn long_answer_has_an_empty_message_before_it() {
        let (sender, events) = futures::channel::mpsc::unbounded();
        sender.unbounded_send(delta(0, "a")).unwrap();
        let messages = messages_with_delay(events, Duration::ZERO).await;
        let mut messages = messages.unwrap();
        let begun = messages.next().await.unwrap().unwrap();
        assert!(begun.events.is_empty());
        for event in [delta(0, "b"), usage()] {
            sender.unbounded_send(event).unwrap();
        }
        drop(sender);
        let answer = messages.next().await.unwrap().unwrap();
        assert_eq!(content(&answer), "ab");
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn answer_without_a_token_has_no_message() {
        let messages = messages_with_delay(stream::pending().boxed(), Duration::ZERO);
        assert!(messages.now_or_never().is_none());
    }

    #[tokio::test]
    async fn long_embedding_has_an_empty_message_before_it_once_it_is_computed() {
        let (begins, begun) = oneshot::channel();
        let (ends, end) = oneshot::channel();
        let answer = async { Ok(end.await.unwrap()) };
        let messages = embedding_messages_with_delay(answer, begun, Duration::ZERO);
        let mut messages = Box::pin(messages);
        assert!((&mut messages).now_or_never().is_none());
        begins.send(()).unwrap();
        let mut messages = messages.await.unwrap();
        let begun = messages.next().await.unwrap().unwrap();
        assert_eq!(begun, v1::EmbedResponse::default());
        let vectors = vec![v1::Vector::default()];
        let embeddings = v1::EmbedResponse {
            vectors,
            ..v1::EmbedResponse::default()
        };
        ends.send(embeddings.clone()).unwrap();
        assert_eq!(messages.next().await.unwrap().unwrap(), embeddings);
    }
}
