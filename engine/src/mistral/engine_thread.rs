//! The handle of the thread in which mistral.rs computes one model.

use std::sync::Arc;

use either::Either;
use flotilla_core::generate::{GenerateInput, RequestError};
use mistralrs_core::{NormalRequest, Request, Response, TokenizationRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::built_model::TokenText;
use super::request::{self, EngineRequest};

/// The context length that is assumed when the model does not state its own, in tokens.
const DEFAULT_CONTEXT: usize = 4_096;
/// Responses of one answer beyond one per token: its end, errors.
const EXTRA_RESPONSES: usize = 8;

/// Sends requests to an engine thread.
pub(super) struct EngineThread {
    /// Closed when the thread has stopped.
    sender: mpsc::Sender<Request>,
    /// One permit for each sequence that may be in the engine at once.
    permits: Arc<Semaphore>,
    /// The model's context length, in tokens.
    pub(super) context: usize,
    token_text: TokenText,
}

impl EngineThread {
    pub(super) fn new(
        sender: mpsc::Sender<Request>,
        concurrency: usize,
        context: Option<usize>,
        token_text: TokenText,
    ) -> Self {
        Self {
            sender,
            permits: Arc::new(Semaphore::new(concurrency)),
            context: context.unwrap_or(DEFAULT_CONTEXT),
            token_text,
        }
    }

    /// Returns the text of a token.
    pub(super) fn token_text(&self, token: u32) -> String {
        (self.token_text)(token)
    }

    /// Whether the thread has stopped, after which it never answers again.
    pub(super) fn has_stopped(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until another sequence may be in the engine.
    pub(super) async fn acquire(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        let permit = self.permits.clone().acquire_owned().await;
        permit.map_err(|_| engine_stopped())
    }

    /// Sends a request and returns the channel of its responses.
    ///
    /// The thread blocks on a full channel, and with it every other request. So the channel holds all
    /// responses of the longest answer.
    pub(super) async fn send(
        &self,
        request: EngineRequest,
    ) -> Result<mpsc::Receiver<Response>, RequestError> {
        let max_tokens = request.sampling.max_len.unwrap_or(self.context);
        let (response, responses) = mpsc::channel(max_tokens.min(self.context) + EXTRA_RESPONSES);
        let normal = NormalRequest {
            messages: request.messages,
            sampling_params: request.sampling,
            response,
            return_logprobs: request.return_logprobs,
            is_streaming: request.is_streaming,
            id: 0,
            constraint: request.constraint,
            suffix: None,
            tools: request.tools,
            tool_choice: request.tool_choice,
            logits_processors: request.processors,
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        };
        self.sender
            .send(Request::Normal(Box::new(normal)))
            .await
            .map_err(|_| engine_stopped())?;
        Ok(responses)
    }

    /// Counts the tokens of a prompt. Returns `None` if the engine cannot.
    pub(super) async fn count_tokens(&self, input: &GenerateInput) -> Option<usize> {
        let text = match input {
            GenerateInput::Text(text) => Either::Right(text.clone()),
            GenerateInput::Chat(messages) => Either::Left(request::conversation(messages)),
            GenerateInput::Tokens(tokens) => return Some(tokens.len()),
        };
        let (response, mut tokens) = mpsc::channel(1);
        let request = TokenizationRequest {
            text,
            tools: None,
            add_generation_prompt: true,
            add_special_tokens: true,
            enable_thinking: None,
            reasoning_effort: None,
            response,
        };
        // The engine thread panics if nobody receives its answer. A task of its own keeps receiving
        // when the caller is dropped.
        let sender = self.sender.clone();
        let counted = tokio::spawn(async move {
            sender.send(Request::Tokenize(request)).await.ok()?;
            Some(tokens.recv().await?.ok()?.len())
        });
        counted.await.ok()?
    }
}

/// The error when the engine thread has stopped.
pub(super) fn engine_stopped() -> RequestError {
    RequestError::NodeLost("the engine thread of the model has stopped".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Clients leave at any moment, so this cannot be tested from outside without hitting a race.
    #[tokio::test]
    async fn engine_can_answer_a_count_whose_caller_was_dropped() {
        let (sender, mut requests) = mpsc::channel(1);
        let thread = EngineThread::new(sender, 1, None, Box::new(|_| String::new()));
        let input = GenerateInput::Text("a prompt".into());
        let mut count = Box::pin(thread.count_tokens(&input));
        let request = tokio::select! {
            biased;
            _ = &mut count => panic!("counted without an answer of the engine"),
            request = requests.recv() => request,
        };
        let Some(Request::Tokenize(request)) = request else {
            panic!("not a request to count");
        };
        drop(count);
        assert!(request.response.send(Ok(vec![1])).await.is_ok());
    }
}
