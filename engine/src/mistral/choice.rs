//! Computes the choice of a request.

use std::sync::Arc;

use async_stream::try_stream;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, GenerateInput, RequestError,
    TokenLogprob, ToolCallDelta, TopLogprob, Usage,
};
use futures::Stream;
use mistralrs_core::Usage as EngineUsage;

use super::call_reader::{self, CallPiece, CallReader};
use super::chunk::EngineChunk;
use super::engine_permit::{EnginePermit, SequenceRelease};
use super::engine_thread::{EngineThread, engine_stopped};
use super::journal::{SampledToken, TokenJournal};
use super::prepared_request::{PreparedRequest, grammar_error};
use super::prompt_scores::prompt_scores;
use super::prompt_size;
use super::request::{self, ChoiceRequest, EngineRequest};
use super::sampler;
use super::stop_texts::{StopMatch, StopTexts};

/// An answer that has not started yet.
pub(super) struct ChoiceTask {
    state: ChoiceState,
    engine_request: EngineRequest,
    release: SequenceRelease,
}

/// What is needed to turn the engine's responses into events.
struct ChoiceState {
    prepared: PreparedRequest,
    journal: Arc<TokenJournal>,
    engine: Arc<EngineThread>,
}

impl ChoiceTask {
    /// Creates the task of a choice.
    pub(super) fn new(prepared: PreparedRequest, engine: Arc<EngineThread>) -> Self {
        let ChoiceRequest {
            engine_request,
            journal,
            release,
        } = request::choice(&prepared);
        Self {
            state: ChoiceState {
                prepared,
                journal,
                engine,
            },
            engine_request,
            release,
        }
    }

    /// Returns the events of the choice. They end with its usage or an error.
    pub(super) fn events(self) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
        let Self {
            state,
            mut engine_request,
            release,
        } = self;
        try_stream! {
            state.limit_to_context(&mut engine_request).await?;
            if let Some(delta) = state.prompt_logprobs().await? {
                yield GenerateEvent::Delta(delta);
            }
            let permit = EnginePermit::new(state.engine.acquire().await?, release);
            let limit = engine_request.sampling.max_len;
            let mut responses = state.engine.send(engine_request).await?;
            let mut answer = state.answer_text();
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
                if let Some(error) = state.grammar_error() {
                    Err(error)?;
                }
                let begins = std::mem::take(&mut is_first);
                if begins {
                    chunk.restore_space();
                }
                let (delta, finish_reason) = state.delta(&chunk, &mut answer);
                // The text of a tool call may come only with its end, but the answer has begun.
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
        let limit = engine_request.sampling.max_len;
        let has_tools = !self.prepared.tools.is_empty();
        let prompt = prompt_size::upper_bound(&self.prepared.request.input, has_tools);
        // A prompt that is certainly short need not be counted.
        let most = limit
            .zip(prompt)
            .map(|(limit, prompt)| limit.saturating_add(prompt));
        if most.is_some_and(|most| most < context) {
            return Ok(());
        }
        let Some(prompt) = self.engine.count_tokens(&self.prepared).await else {
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

    /// Returns the prompt's tokens with their log-probabilities, if the request asks for them.
    async fn prompt_logprobs(&self) -> Result<Option<ChoiceDelta>, RequestError> {
        let request = &self.prepared.request;
        let Some(alternatives) = request.logprobs.filter(|_| request.prompt_logprobs) else {
            return Ok(None);
        };
        let tokens = match &request.input {
            GenerateInput::Tokens(tokens) => Some(tokens.clone()),
            GenerateInput::Text(text) => self.engine.prompt_tokens(text.clone()).await,
            GenerateInput::Chat(_) => None,
        };
        let tokens = tokens.unwrap_or_default();
        let Some(&first) = tokens.first() else {
            return Err(RequestError::invalid(
                "echo",
                "The prompt has no tokens to return.",
            ));
        };
        let scores = prompt_scores(&self.engine, &tokens, alternatives).await?;
        let first = SampledToken {
            token: first,
            logprob: 0.0,
            top: Vec::new(),
        };
        let prompt_logprobs = std::iter::once(first).chain(scores);
        Ok(Some(ChoiceDelta {
            prompt_logprobs: prompt_logprobs.map(|token| self.logprob(token)).collect(),
            ..ChoiceDelta::default()
        }))
    }

    /// The usage that the engine reported, or else what the journal has counted.
    async fn usage(&self, reported: Option<EngineUsage>) -> Usage {
        let (prompt, completion) = match reported {
            Some(usage) => (usage.prompt_tokens, usage.completion_tokens),
            None => {
                let prompt = match self.journal.prompt() {
                    Some(prompt) => Some(prompt),
                    None => self.engine.count_tokens(&self.prepared).await,
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

    /// Why the answer cannot follow its grammar any further. It is the fault of the schema, not of the
    /// engine.
    fn grammar_error(&self) -> Option<RequestError> {
        let grammar = self.prepared.grammar.as_ref()?;
        Some(grammar_error(grammar.param, &self.journal.grammar_error()?))
    }

    /// Reads the text of the answer.
    fn answer_text(&self) -> AnswerText {
        let grammar = self.prepared.grammar.as_ref();
        let calls = grammar.filter(|grammar| !grammar.calls.is_empty());
        let stops = self
            .prepared
            .request
            .sampling
            .stop
            .clone()
            .unwrap_or_default();
        AnswerText {
            stop_texts: StopTexts::new(stops),
            calls: calls
                .map(|grammar| CallReader::new(grammar.calls.clone(), grammar.may_have_content)),
        }
    }

    /// Returns what a chunk adds, and why the choice ends with it if it does.
    fn delta(
        &self,
        chunk: &EngineChunk,
        answer: &mut AnswerText,
    ) -> (Option<ChoiceDelta>, Option<FinishReason>) {
        // Where a grammar rules from the first token on, there is no reasoning. The engine takes the
        // answer for reasoning if the template ends with the beginning of some.
        let (text, reasoning) = match &self.prepared.grammar {
            Some(_) => (
                chunk.reasoning.clone() + chunk.visible_content(),
                String::new(),
            ),
            None => (chunk.visible_content().to_owned(), chunk.reasoning.clone()),
        };
        let mut piece = answer.push(&text);
        let mut finish_reason = chunk.finish_reason();
        if answer.is_complete_call() {
            finish_reason = finish_reason.map(|_| FinishReason::ToolCalls);
        }
        if piece.has_stop_text {
            finish_reason = Some(FinishReason::Stop);
        }
        if finish_reason.is_some() {
            piece.content.push_str(&answer.finish());
        }
        let mut tool_calls = chunk.tool_calls(self.max_calls());
        tool_calls.extend(piece.call);
        // The engine holds back the beginning of a call. Where the answer is cut, it sends it as content.
        if finish_reason == Some(FinishReason::Length)
            && let Some(call) = self.cut_call(&piece.content)
        {
            piece.content.clear();
            tool_calls.extend(call);
        }
        let token = chunk.logprob.as_ref().and_then(sampler::token);
        let mut sampled = self.journal.take_through(token);
        if chunk.is_end_token() {
            // The end token is no part of the answer, and neither is its log-probability.
            sampled.pop();
        }
        let delta = ChoiceDelta {
            choice: 0,
            content: piece.content,
            reasoning,
            refusal: String::new(),
            tool_calls,
            prompt_logprobs: Vec::new(),
            logprobs: sampled
                .into_iter()
                .map(|token| self.logprob(token))
                .collect(),
        };
        ((!delta.is_empty()).then_some(delta), finish_reason)
    }

    /// Reads the last text of an answer that was cut, if it is the beginning of a call.
    fn cut_call(&self, text: &str) -> Option<Option<ToolCallDelta>> {
        if self.prepared.grammar.is_some() || self.prepared.tools.is_empty() {
            return None;
        }
        let functions = self
            .prepared
            .tools
            .iter()
            .map(|tool| tool.function.name.as_str());
        call_reader::cut_call(text, functions)
    }

    /// The most calls that the answer may have.
    fn max_calls(&self) -> usize {
        match self.prepared.request.parallel_tool_calls {
            Some(false) => 1,
            Some(true) | None => usize::MAX,
        }
    }

    /// Adds the texts and bytes to a token and its alternatives.
    fn logprob(&self, sampled: SampledToken) -> TokenLogprob {
        let alternative = |(token, logprob)| {
            let content = self.engine.token_content(token);
            TopLogprob {
                token: content.text,
                bytes: content.bytes,
                logprob,
            }
        };
        let content = self.engine.token_content(sampled.token);
        TokenLogprob {
            token: content.text,
            bytes: content.bytes,
            logprob: sampled.logprob,
            top: sampled.top.into_iter().map(alternative).collect(),
        }
    }
}

/// Splits the text of an answer into content and calls.
struct AnswerText {
    stop_texts: StopTexts,
    /// Reads calls that a grammar allows. `None` if the text is content.
    calls: Option<CallReader>,
}

/// What a piece of text adds to an answer.
#[derive(Default)]
struct AnswerPiece {
    content: String,
    call: Option<ToolCallDelta>,
    /// Whether a stop text was found, with which the answer ends.
    has_stop_text: bool,
}

impl AnswerText {
    fn push(&mut self, text: &str) -> AnswerPiece {
        let Some(reader) = &mut self.calls else {
            return self.push_content(text.to_owned());
        };
        let CallPiece { content, call } = reader.push(text);
        // Stop texts end content. A call that they cut would be of no use.
        if reader.is_content() {
            return self.push_content(content);
        }
        AnswerPiece {
            call,
            ..AnswerPiece::default()
        }
    }

    fn push_content(&mut self, content: String) -> AnswerPiece {
        let (content, has_stop_text) = match self.stop_texts.push(content) {
            StopMatch::Continue(text) => (text, false),
            StopMatch::Stop(text) => (text, true),
        };
        AnswerPiece {
            content,
            call: None,
            has_stop_text,
        }
    }

    /// Whether the answer is a complete call.
    fn is_complete_call(&self) -> bool {
        self.calls.as_ref().is_some_and(CallReader::is_complete)
    }

    /// Returns the content that was held back, at the end of the answer.
    fn finish(&mut self) -> String {
        let unread = self
            .calls
            .as_mut()
            .map(CallReader::finish)
            .unwrap_or_default();
        self.stop_texts.finish() + &unread
    }
}
