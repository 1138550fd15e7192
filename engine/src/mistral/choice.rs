//! Computes the choice of a request.

use std::sync::Arc;

use async_stream::try_stream;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, GenerateInput, GenerateRequest,
    RequestError, TokenLogprob, TopLogprob, Usage,
};
use futures::Stream;
use mistralrs_core::Usage as EngineUsage;

use super::chunk::EngineChunk;
use super::engine_permit::{EnginePermit, SequenceRelease};
use super::engine_thread::{EngineThread, engine_stopped};
use super::journal::{SampledToken, TokenJournal};
use super::request::{self, ChoiceRequest, EngineRequest};
use super::sampler;
use super::stop_texts::{StopMatch, StopTexts};

/// More than any chat template adds to a message, in bytes.
const TEMPLATE_BYTES: usize = 256;

/// An answer that has not started yet.
pub(super) struct ChoiceTask {
    state: ChoiceState,
    engine_request: EngineRequest,
    release: SequenceRelease,
}

/// What is needed to turn the engine's responses into events.
struct ChoiceState {
    request: GenerateRequest,
    journal: Arc<TokenJournal>,
    engine: Arc<EngineThread>,
}

impl ChoiceTask {
    /// Prepares a choice.
    ///
    /// # Errors
    /// When the engine cannot do what the request asks for.
    pub(super) fn new(
        request: GenerateRequest,
        engine: Arc<EngineThread>,
    ) -> Result<Self, RequestError> {
        let ChoiceRequest {
            engine_request,
            journal,
            release,
        } = request::choice(&request)?;
        Ok(Self {
            state: ChoiceState {
                request,
                journal,
                engine,
            },
            engine_request,
            release,
        })
    }

    /// Returns the events of the choice. They end with its usage or an error.
    pub(super) fn events(self) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
        let Self {
            state,
            mut engine_request,
            release,
        } = self;
        try_stream! {
            let permit = EnginePermit::new(state.engine.acquire().await?, release);
            state.limit_to_context(&mut engine_request).await?;
            let limit = engine_request.sampling.max_len;
            let mut responses = state.engine.send(engine_request).await?;
            let mut stop_texts = StopTexts::new(state.request.sampling.stop.clone().unwrap_or_default());
            let mut is_first = true;
            loop {
                let mut chunk = match responses.recv().await {
                    Some(response) => match EngineChunk::from_response(response)? {
                        Some(chunk) => chunk,
                        None => continue,
                    },
                    None if state.engine.has_stopped() => Err(engine_stopped())?,
                    // The engine sends nothing for a last token that ends inside a character.
                    None => {
                        EngineChunk::end(limit.is_some_and(|limit| state.journal.sampled() >= limit))
                    }
                };
                let begins = std::mem::take(&mut is_first);
                if begins {
                    chunk.restore_space();
                }
                let (delta, finish_reason) = state.delta(&chunk, &mut stop_texts);
                // The text of a tool call comes only with its end, but the answer has begun.
                if let Some(delta) = delta.or_else(|| begins.then(ChoiceDelta::default)) {
                    yield GenerateEvent::Delta(delta);
                }
                if let Some(reason) = finish_reason {
                    yield GenerateEvent::Finished(ChoiceFinished { choice: 0, reason });
                    let usage = state.usage(chunk.usage).await;
                    drop(responses);
                    drop(permit);
                    yield GenerateEvent::Usage(usage);
                    return;
                }
            }
        }
    }
}

impl ChoiceState {
    /// Limits the answer to the tokens that the context has left after the prompt. A sequence that
    /// exceeds the context makes the engine fail, and with it every other sequence.
    async fn limit_to_context(
        &self,
        engine_request: &mut EngineRequest,
    ) -> Result<(), RequestError> {
        let context = self.engine.context;
        let prompt_bytes: usize = match &self.request.input {
            GenerateInput::Text(text) => text.len(),
            GenerateInput::Tokens(tokens) => tokens.len(),
            GenerateInput::Chat(messages) => messages
                .iter()
                .map(|message| message.content.len() + TEMPLATE_BYTES)
                .sum(),
        };
        // A token has at least one byte, so a short prompt need not be counted.
        let limit = engine_request.sampling.max_len;
        if limit.is_some_and(|limit| limit.saturating_add(prompt_bytes) < context) {
            return Ok(());
        }
        let Some(prompt) = self.engine.count_tokens(&self.request.input).await else {
            return Ok(());
        };
        if prompt >= context {
            return Err(RequestError::ContextLength(format!(
                "The prompt of {prompt} tokens is longer than the model's context of {context} tokens."
            )));
        }
        let remaining = (context - prompt).max(1);
        let limit = limit.map_or(remaining, |limit| limit.min(remaining));
        engine_request.sampling.max_len = Some(limit);
        Ok(())
    }

    /// The usage that the engine reported, or else what the journal has counted.
    async fn usage(&self, reported: Option<EngineUsage>) -> Usage {
        let (prompt, completion) = match reported {
            Some(usage) => (usage.prompt_tokens, usage.completion_tokens),
            None => {
                let prompt = match self.journal.prompt() {
                    Some(prompt) => Some(prompt),
                    None => self.engine.count_tokens(&self.request.input).await,
                };
                (prompt.unwrap_or(0), self.journal.sampled())
            }
        };
        Usage {
            prompt_tokens: prompt as u32,
            completion_tokens: completion as u32,
            timing: None,
            energy: None,
        }
    }

    /// Returns what a chunk adds, and why the choice ends with it if it does.
    fn delta(
        &self,
        chunk: &EngineChunk,
        stop_texts: &mut StopTexts,
    ) -> (Option<ChoiceDelta>, Option<FinishReason>) {
        let mut finish_reason = chunk.finish_reason();
        let mut content = match stop_texts.push(chunk.visible_content().to_owned()) {
            StopMatch::Continue(text) => text,
            StopMatch::Stop(text) => {
                finish_reason = Some(FinishReason::Stop);
                text
            }
        };
        if finish_reason.is_some() {
            content.push_str(&stop_texts.finish());
        }
        let token = chunk.logprob.as_ref().and_then(sampler::token);
        let mut sampled = self.journal.take_through(token);
        if chunk.is_end_token() {
            // The end token is no part of the answer, and neither is its log-probability.
            sampled.pop();
        }
        let delta = ChoiceDelta {
            choice: 0,
            content,
            reasoning: chunk.reasoning.clone(),
            refusal: String::new(),
            tool_calls: chunk.tool_calls(),
            logprobs: sampled
                .into_iter()
                .map(|token| self.logprob(token))
                .collect(),
        };
        ((!delta.is_empty()).then_some(delta), finish_reason)
    }

    /// Adds the texts to a token and its alternatives.
    fn logprob(&self, sampled: SampledToken) -> TokenLogprob {
        let alternative = |(token, logprob)| TopLogprob {
            token: self.engine.token_text(token),
            logprob,
            bytes: Vec::new(),
        };
        TokenLogprob {
            bytes: Vec::new(),
            token: self.engine.token_text(sampled.token),
            logprob: sampled.logprob,
            top: sampled.top.into_iter().map(alternative).collect(),
        }
    }
}
