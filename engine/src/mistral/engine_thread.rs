//! The handle of the thread in which mistral.rs computes one model.

use std::sync::Arc;

use either::Either;
use flotilla_core::generate::{EmbedInput, GenerateInput, GenerateRequest, RequestError};
use mistralrs_core::{Constraint, NormalRequest, Request, Response, TokenizationRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::conversation::conversation;
use super::preparation::Preparation;
use super::prepared_request::{self, PreparedRequest};
use super::request::EngineRequest;
use super::vocabulary::{TokenContent, Vocabulary};

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
    vocabulary: Arc<Vocabulary>,
    /// The text of the chat template. Empty if the model has none.
    template: Arc<str>,
    preparation: Preparation,
}

impl EngineThread {
    pub(super) fn new(
        sender: mpsc::Sender<Request>,
        concurrency: usize,
        context: Option<usize>,
        vocabulary: Vocabulary,
        template: String,
    ) -> Self {
        Self {
            sender,
            permits: Arc::new(Semaphore::new(concurrency)),
            context: context.unwrap_or(DEFAULT_CONTEXT),
            vocabulary: Arc::new(vocabulary),
            template: template.into(),
            preparation: Preparation::default(),
        }
    }

    /// Returns the text and the bytes of a token.
    pub(super) fn token_content(&self, token: u32) -> TokenContent {
        self.vocabulary.content(token)
    }

    /// Checks a request and compiles the grammar of its answer.
    pub(super) async fn prepare(
        &self,
        request: GenerateRequest,
    ) -> Result<PreparedRequest, RequestError> {
        let (vocabulary, template) = (self.vocabulary.clone(), self.template.clone());
        let context = self.context;
        let may_take_long = PreparedRequest::may_take_long(&request, context);
        let prepare = move || PreparedRequest::new(request, &vocabulary, &template, context);
        if may_take_long {
            self.preparation.run(prepare).await
        } else {
            prepare()
        }
    }

    /// Checks an input of an embedding request.
    pub(super) async fn check_embed_input(&self, input: &EmbedInput) -> Result<(), RequestError> {
        let (vocabulary, input) = (self.vocabulary.clone(), input.clone());
        let context = self.context;
        let check = move || prepared_request::check_embed_input(&input, &vocabulary, context);
        self.preparation.run(check).await
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
            constraint: Constraint::None,
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

    /// Returns the tokens of a text as a prompt. `None` if it cannot be split.
    pub(super) async fn prompt_tokens(&self, text: String) -> Option<Vec<u32>> {
        let vocabulary = self.vocabulary.clone();
        let split = move || (vocabulary.token_ids)(&text, true);
        tokio::task::spawn_blocking(split).await.ok()?
    }

    /// Counts the tokens of a prompt, tools included. Returns `None` if they cannot be counted.
    pub(super) async fn count_tokens(&self, prepared: &PreparedRequest) -> Option<usize> {
        let messages = match &prepared.request.input {
            GenerateInput::Chat(messages) => conversation(messages),
            GenerateInput::Tokens(tokens) => return Some(tokens.len()),
            GenerateInput::Text(text) => {
                let (vocabulary, text) = (self.vocabulary.clone(), text.clone());
                let count = move || vocabulary.count_tokens(&text, true);
                return tokio::task::spawn_blocking(count).await.ok()?;
            }
        };
        let (response, mut tokens) = mpsc::channel(1);
        let request = TokenizationRequest {
            text: Either::Left(messages),
            tools: Some(prepared.tools.clone()),
            add_generation_prompt: true,
            add_special_tokens: true,
            enable_thinking: prepared.template_args.enable_thinking,
            reasoning_effort: prepared.template_args.reasoning_effort,
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
    use flotilla_core::ModelName;

    // Clients leave at any moment, so this cannot be tested from outside without hitting a race.
    #[tokio::test]
    async fn engine_can_answer_a_count_whose_caller_was_dropped() {
        let (sender, mut requests) = mpsc::channel(1);
        let vocabulary = Vocabulary {
            token_text: Box::new(|_| String::new()),
            token_ids: Box::new(|_, _| None),
            grammars: None,
            end_tokens: Arc::new([]),
        };
        let thread = EngineThread::new(sender, 1, None, vocabulary, String::new());
        let input = GenerateInput::Chat(Vec::new());
        let request = GenerateRequest::new(ModelName::new("m").unwrap(), input);
        let prepared = thread.prepare(request).await.unwrap();
        let mut count = Box::pin(thread.count_tokens(&prepared));
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
