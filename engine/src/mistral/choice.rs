//! What the engine says, as events.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use either::Either;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, GenerateInput, GenerateRequest,
    RequestError, TokenLogprob, ToolCallDelta, TopLogprob, Usage,
};
use futures::{Stream, StreamExt, stream as streams};
use mistralrs_core::{
    ChatCompletionChunkResponse, CompletionChunkResponse, Request, Response, ResponseLogprob,
    TokenizationRequest, ToolCallResponse, Usage as EngineUsage,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::EngineThread;
use super::request::EngineRequest;
use super::sampler::{self, SampledToken, TokenJournal};
use super::stop::{StopMatch, StopTexts};
use crate::GenerateEvents;

/// One choice on its way.
pub(super) struct ChoiceTask {
    pub(super) index: u32,
    pub(super) request: Arc<GenerateRequest>,
    pub(super) draft: EngineRequest,
    pub(super) engine: Arc<EngineThread>,
}

/// A choice's turn in the engine. The engine notices only at its next token that nobody
/// listens any more: until it has let go of the sequence, the turn is not given to another.
struct EnginePermit {
    permit: Option<OwnedSemaphorePermit>,
    /// Shared with the sequence in the engine, and with nobody else.
    journal: Arc<TokenJournal>,
}

/// How often it is looked at whether the engine has let go of a sequence.
const LOOK: Duration = Duration::from_millis(1);
/// How long that may take before the turn is given on all the same.
const PATIENCE: Duration = Duration::from_secs(10);

impl Drop for EnginePermit {
    fn drop(&mut self) {
        let (permit, journal) = (self.permit.take(), self.journal.clone());
        // This one and the field are two.
        if Arc::strong_count(&journal) <= 2 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let gone = async {
                let mut look = tokio::time::interval(LOOK);
                while Arc::strong_count(&journal) > 1 {
                    look.tick().await;
                }
            };
            if tokio::time::timeout(PATIENCE, gone).await.is_err() {
                tracing::warn!("the engine holds on to a sequence that nobody waits for");
            }
            drop(permit);
        });
    }
}

/// The events of all choices, with their usage summed at the end.
pub(super) fn events(mut choices: Vec<ChoiceTask>) -> GenerateEvents {
    if choices.len() == 1 {
        return choices.remove(0).events().boxed();
    }
    let mut all = streams::select_all(choices.into_iter().map(|choice| choice.events().boxed()));
    stream! {
        let mut total = Usage::default();
        while let Some(event) = all.next().await {
            match event {
                Ok(GenerateEvent::Usage(usage)) => {
                    // The prompt is the same for all.
                    total.prompt_tokens = usage.prompt_tokens;
                    total.completion_tokens += usage.completion_tokens;
                }
                Err(error) => {
                    yield Err(error);
                    return;
                }
                event => yield event,
            }
        }
        yield Ok(GenerateEvent::Usage(total));
    }
    .boxed()
}

/// A chunk of either kind of completion, in common words.
struct EngineChunk {
    content: String,
    reasoning: String,
    tool_calls: Vec<ToolCallResponse>,
    logprob: Option<ResponseLogprob>,
    finish: Option<String>,
    usage: Option<EngineUsage>,
}

impl ChoiceTask {
    /// The events of this choice. An error ends them.
    fn events(self) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
        let Self {
            index,
            request,
            mut draft,
            engine,
        } = self;
        stream! {
            let Ok(permit) = engine.turns.clone().acquire_owned().await else {
                yield Err(super::ended());
                return;
            };
            let journal = draft.journal.clone();
            let turn = EnginePermit { permit: Some(permit), journal: journal.clone() };
            let answer = ChoiceState { index, request, journal, engine };
            if let Err(error) = answer.fit(&mut draft).await {
                yield Err(error);
                return;
            }
            let limit = draft.sampling.max_len;
            let mut responses = match answer.engine.send(draft).await {
                Ok(responses) => responses,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            let mut stops = StopTexts::new(answer.request.sampling.stop.clone());
            let mut first = true;
            loop {
                let mut chunk = match responses.recv().await.map(chunk) {
                    Some(Ok(Some(chunk))) => chunk,
                    Some(Ok(None)) => continue,
                    Some(Err(error)) => {
                        yield Err(error);
                        return;
                    }
                    None if answer.engine.sender.is_closed() => {
                        yield Err(super::ended());
                        return;
                    }
                    // The engine sends nothing for a last token that ends inside a character.
                    None => EngineChunk::last(limit.is_some_and(|limit| answer.journal.drawn() >= limit)),
                };
                if std::mem::take(&mut first) {
                    chunk.restore_space();
                }
                let (delta, reason) = answer.delta(&chunk, &mut stops);
                if let Some(delta) = delta {
                    yield Ok(GenerateEvent::Delta(delta));
                }
                if let Some(reason) = reason {
                    yield Ok(GenerateEvent::Finished(ChoiceFinished { choice: index, reason }));
                    let usage = answer.usage(chunk.usage).await;
                    drop(responses);
                    drop(turn);
                    yield Ok(GenerateEvent::Usage(usage));
                    return;
                }
            }
        }
    }
}

impl EngineChunk {
    /// The end of an answer that the engine did not tell.
    fn last(by_length: bool) -> Self {
        let finish = if by_length { "length" } else { "stop" };
        Self {
            content: String::new(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            logprob: None,
            finish: Some(finish.to_owned()),
            usage: None,
        }
    }

    /// Puts back the white space that the engine cuts off before the first token, where the
    /// token's own text is known: the texts of the tokens shall make up the answer.
    fn restore_space(&mut self) {
        let token = self.logprob.as_ref().and_then(sampler::token_text);
        if let Some(token) = token
            && token.trim_start() == self.content
        {
            self.content = token.to_owned();
        }
    }
}

/// A choice that computes.
struct ChoiceState {
    index: u32,
    request: Arc<GenerateRequest>,
    journal: Arc<TokenJournal>,
    engine: Arc<EngineThread>,
}

impl ChoiceState {
    /// Limits the answer to what the context leaves beside the prompt: the engine would fail
    /// there, and every request it computes with it.
    async fn fit(&self, draft: &mut EngineRequest) -> Result<(), RequestError> {
        /// No chat template adds more than this to a message, in bytes.
        const TEMPLATE: usize = 256;
        let context = self.engine.context;
        let bytes: usize = match &self.request.input {
            GenerateInput::Text(text) => text.len(),
            GenerateInput::Chat(messages) => {
                messages.iter().map(|m| m.content.len() + TEMPLATE).sum()
            }
        };
        // A token has at least one byte, so a short request need not be counted.
        let limit = draft.sampling.max_len;
        if limit.is_some_and(|limit| limit.saturating_add(bytes) < context) {
            return Ok(());
        }
        let Some(prompt) = self.count_prompt().await else {
            return Ok(());
        };
        if prompt >= context {
            return Err(RequestError::ContextLength(format!(
                "The prompt of {prompt} tokens is longer than the model's context of {context} tokens."
            )));
        }
        let room = (context - prompt).max(1);
        draft.sampling.max_len = Some(limit.map_or(room, |limit| limit.min(room)));
        Ok(())
    }

    /// What the answer took.
    async fn usage(&self, told: Option<EngineUsage>) -> Usage {
        if let Some(told) = told {
            return Usage {
                prompt_tokens: told.prompt_tokens as u32,
                completion_tokens: told.completion_tokens as u32,
                timing: None,
                energy: None,
            };
        }
        let prompt = match self.journal.prompt() {
            Some(prompt) => prompt,
            None => self.count_prompt().await.unwrap_or(0),
        };
        Usage {
            prompt_tokens: prompt as u32,
            completion_tokens: self.journal.drawn() as u32,
            timing: None,
            energy: None,
        }
    }

    /// Has the engine count the prompt's tokens.
    async fn count_prompt(&self) -> Option<usize> {
        let (response, mut tokens) = mpsc::channel(1);
        let request = TokenizationRequest {
            text: match &self.request.input {
                GenerateInput::Text(text) => Either::Right(text.clone()),
                GenerateInput::Chat(messages) => {
                    Either::Left(super::request::conversation(messages))
                }
            },
            tools: None,
            add_generation_prompt: true,
            add_special_tokens: true,
            enable_thinking: None,
            reasoning_effort: None,
            response,
        };
        // The engine's thread panics where nobody takes its answer any more: whoever goes away leaves
        // the asking, not the question.
        let engine = self.engine.clone();
        let counted = tokio::spawn(async move {
            let sent = engine.sender.send(Request::Tokenize(request)).await;
            sent.ok()?;
            Some(tokens.recv().await?.ok()?.len())
        });
        counted.await.ok()?
    }

    /// What a chunk adds, and why the choice ends with it, if it does.
    fn delta(
        &self,
        chunk: &EngineChunk,
        stops: &mut StopTexts,
    ) -> (Option<ChoiceDelta>, Option<FinishReason>) {
        let finish = chunk.finish.as_deref();
        let mut content = chunk.content.clone();
        let mut reason = finish.map(finish_reason);
        let by_token = finish == Some("stop");
        if by_token {
            // The engine was given no stop texts: the model's end token ended it, and with
            // tools that is in the text.
            let end = chunk.logprob.as_ref().and_then(sampler::token_text);
            if let Some(stripped) = end.and_then(|end| content.strip_suffix(end)) {
                content = stripped.to_owned();
            }
        }
        let mut text = match stops.push(content) {
            StopMatch::Go(text) => text,
            StopMatch::Stop(text) => {
                reason = Some(FinishReason::Stop);
                text
            }
        };
        if reason.is_some() {
            text.push_str(&stops.finish());
        }
        let token = chunk.logprob.as_ref().and_then(sampler::token);
        let mut drawn = self.journal.take_through(token);
        if by_token {
            // The end token is no part of the answer, nor is its log-probability.
            drawn.pop();
        }
        let delta = ChoiceDelta {
            choice: self.index,
            content: text,
            reasoning: chunk.reasoning.clone(),
            tool_calls: chunk.tool_calls.iter().map(tool_call).collect(),
            logprobs: drawn.into_iter().map(|d| self.logprob(d)).collect(),
        };
        let says_something = !delta.content.is_empty()
            || !delta.reasoning.is_empty()
            || !delta.tool_calls.is_empty()
            || !delta.logprobs.is_empty();
        (says_something.then_some(delta), reason)
    }

    /// A token and its alternatives with their texts.
    fn logprob(&self, drawn: SampledToken) -> TokenLogprob {
        let alternative = |(token, logprob)| TopLogprob {
            token: self.engine.token_text(token),
            logprob,
        };
        TokenLogprob {
            token: self.engine.token_text(drawn.token),
            logprob: drawn.logprob,
            top: drawn.top.into_iter().map(alternative).collect(),
        }
    }
}

fn tool_call(call: &ToolCallResponse) -> ToolCallDelta {
    ToolCallDelta {
        index: call.index as u32,
        id: Some(call.id.clone()),
        name: Some(call.function.name.clone()),
        arguments: call.function.arguments.clone(),
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "length" => FinishReason::Length,
        "tool_calls" => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

/// A response as a chunk; `None` for what says nothing of this choice.
fn chunk(response: Response) -> Result<Option<EngineChunk>, RequestError> {
    Ok(match response {
        Response::Chunk(ChatCompletionChunkResponse {
            mut choices, usage, ..
        }) => choices.pop().map(|choice| EngineChunk {
            content: choice.delta.content.unwrap_or_default(),
            reasoning: choice.delta.reasoning_content.unwrap_or_default(),
            tool_calls: choice.delta.tool_calls.unwrap_or_default(),
            logprob: choice.logprobs,
            finish: choice.finish_reason,
            usage,
        }),
        Response::CompletionChunk(CompletionChunkResponse { mut choices, .. }) => {
            choices.pop().map(|choice| EngineChunk {
                content: choice.text,
                reasoning: String::new(),
                tool_calls: Vec::new(),
                logprob: choice.logprobs,
                finish: choice.finish_reason,
                usage: None,
            })
        }
        Response::ValidationError(error) => return Err(refused(&error.to_string())),
        Response::InternalError(error) => return Err(failed(&error.to_string())),
        Response::ModelError(error, _) | Response::CompletionModelError(error, _) => {
            return Err(failed(&error));
        }
        _ => None,
    })
}

/// A failure of the engine. The first line says what; a backtrace follows.
pub(super) fn failed(message: &str) -> RequestError {
    RequestError::Engine(message.lines().next().unwrap_or_default().to_owned())
}

/// What the engine refuses, as a request error.
pub(super) fn refused(message: &str) -> RequestError {
    if message.contains("sequence length is greater") {
        let limit: String = message.chars().filter(char::is_ascii_digit).collect();
        return RequestError::ContextLength(format!(
            "The prompt is longer than the model's context of {limit} tokens."
        ));
    }
    RequestError::Invalid {
        param: None,
        message: message.to_owned(),
    }
}
