//! What the engine says, as events.

use std::sync::Arc;

use async_stream::stream;
use either::Either;
use flotilla_core::generate::{
    Delta, Event, FinishReason, Finished, GenerateRequest, Input, RequestError, ToolCallDelta,
    Usage,
};
use futures::{Stream, StreamExt, stream as streams};
use mistralrs_core::{
    ChatCompletionChunkResponse, CompletionChunkResponse, Request, Response, ResponseLogprob,
    TokenizationRequest, ToolCallResponse, Usage as EngineUsage,
};
use tokio::sync::mpsc;

use super::sampler::{self, Counts};
use super::stop::{StopTexts, Verdict};
use crate::engine::Events;

/// One choice on its way.
pub(super) struct Choice {
    pub(super) index: u32,
    pub(super) request: Arc<GenerateRequest>,
    pub(super) responses: mpsc::Receiver<Response>,
    pub(super) counts: Arc<Counts>,
    /// To the engine, for counting a prompt.
    pub(super) engine: mpsc::Sender<Request>,
}

/// The events of all choices, with their usage summed at the end.
pub(super) fn events(mut choices: Vec<Choice>) -> Events {
    if choices.len() == 1 {
        return choices.remove(0).events().boxed();
    }
    let mut all = streams::select_all(choices.into_iter().map(|choice| choice.events().boxed()));
    stream! {
        let mut total = Usage::default();
        while let Some(event) = all.next().await {
            match event {
                Ok(Event::Usage(usage)) => {
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
        yield Ok(Event::Usage(total));
    }
    .boxed()
}

/// A chunk of either kind of completion, in common words.
struct Chunk {
    content: String,
    reasoning: String,
    tool_calls: Vec<ToolCallResponse>,
    logprob: Option<ResponseLogprob>,
    finish: Option<String>,
    usage: Option<EngineUsage>,
}

impl Choice {
    /// The events of this choice. An error ends them.
    fn events(mut self) -> impl Stream<Item = Result<Event, RequestError>> + Send {
        stream! {
            let mut stops = StopTexts::new(self.request.sampling.stop.clone());
            loop {
                let chunk = match self.responses.recv().await {
                    Some(response) => match chunk(response) {
                        Ok(Some(chunk)) => chunk,
                        Ok(None) => continue,
                        Err(error) => {
                            yield Err(error);
                            return;
                        }
                    },
                    None => {
                        yield Err(super::ended());
                        return;
                    }
                };
                let (delta, reason) = self.delta(chunk.finish.as_deref(), &chunk, &mut stops);
                if let Some(delta) = delta {
                    yield Ok(Event::Delta(delta));
                }
                if let Some(reason) = reason {
                    yield Ok(Event::Finished(Finished { choice: self.index, reason }));
                    yield Ok(Event::Usage(self.usage(chunk.usage).await));
                    return;
                }
            }
        }
    }

    /// What the answer took.
    async fn usage(&self, told: Option<EngineUsage>) -> Usage {
        if let Some(told) = told {
            return Usage {
                prompt_tokens: told.prompt_tokens as u32,
                completion_tokens: told.completion_tokens as u32,
            };
        }
        let prompt = match self.counts.prompt() {
            Some(prompt) => prompt,
            None => self.count_prompt().await.unwrap_or(0),
        };
        Usage {
            prompt_tokens: prompt as u32,
            completion_tokens: self.counts.drawn() as u32,
        }
    }

    /// Has the engine count the prompt's tokens.
    async fn count_prompt(&self) -> Option<usize> {
        let (response, mut tokens) = mpsc::channel(1);
        let request = TokenizationRequest {
            text: match &self.request.input {
                Input::Text(text) => Either::Right(text.clone()),
                Input::Chat(messages) => Either::Left(super::request::conversation(messages)),
            },
            tools: None,
            add_generation_prompt: true,
            add_special_tokens: true,
            enable_thinking: None,
            reasoning_effort: None,
            response,
        };
        self.engine.send(Request::Tokenize(request)).await.ok()?;
        Some(tokens.recv().await?.ok()?.len())
    }

    /// What a chunk adds, and why the choice ends with it, if it does.
    fn delta(
        &self,
        finish: Option<&str>,
        chunk: &Chunk,
        stops: &mut StopTexts,
    ) -> (Option<Delta>, Option<FinishReason>) {
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
            Verdict::Go(text) => text,
            Verdict::Stop(text) => {
                reason = Some(FinishReason::Stop);
                text
            }
        };
        if reason.is_some() {
            text.push_str(&stops.finish());
        }
        // The end token is no part of the answer, nor is its log-probability.
        let logprobs = match (&chunk.logprob, self.request.logprobs) {
            (Some(logprob), Some(alternatives)) if !by_token => {
                vec![sampler::read(logprob, alternatives as usize)]
            }
            _ => Vec::new(),
        };
        let delta = Delta {
            choice: self.index,
            content: text,
            reasoning: chunk.reasoning.clone(),
            tool_calls: chunk.tool_calls.iter().map(tool_call).collect(),
            logprobs,
        };
        let says_something = !delta.content.is_empty()
            || !delta.reasoning.is_empty()
            || !delta.tool_calls.is_empty()
            || !delta.logprobs.is_empty();
        (says_something.then_some(delta), reason)
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
fn chunk(response: Response) -> Result<Option<Chunk>, RequestError> {
    Ok(match response {
        Response::Chunk(ChatCompletionChunkResponse {
            mut choices, usage, ..
        }) => choices.pop().map(|choice| Chunk {
            content: choice.delta.content.unwrap_or_default(),
            reasoning: choice.delta.reasoning_content.unwrap_or_default(),
            tool_calls: choice.delta.tool_calls.unwrap_or_default(),
            logprob: choice.logprobs,
            finish: choice.finish_reason,
            usage,
        }),
        Response::CompletionChunk(CompletionChunkResponse { mut choices, .. }) => {
            choices.pop().map(|choice| Chunk {
                content: choice.text,
                reasoning: String::new(),
                tool_calls: Vec::new(),
                logprob: choice.logprobs,
                finish: choice.finish_reason,
                usage: None,
            })
        }
        Response::ValidationError(error) => return Err(refused(&error.to_string())),
        Response::InternalError(error) => return Err(RequestError::Engine(error.to_string())),
        Response::ModelError(error, _) | Response::CompletionModelError(error, _) => {
            return Err(RequestError::Engine(error));
        }
        _ => None,
    })
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
