//! Computes the choice of a request.

use std::sync::Arc;

use async_stream::try_stream;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, RequestError, Usage,
};
use futures::Stream;

use super::chunk::EngineChunk;
use super::engine_thread::EngineThread;
use super::journal::TokenJournal;
use super::logits_processor;
use super::prompt_scores::prompt_scores;
use super::request;
use crate::text::answer_text::{AnswerPiece, AnswerText};
use crate::text::prepared_request::{PreparedRequest, grammar_error};
use crate::text::token_sampler::SampledToken;

/// An answer that has not started yet.
pub(super) struct ChoiceTask {
    pub(super) prepared: PreparedRequest,
    pub(super) engine: Arc<EngineThread>,
}

/// What is needed to turn the engine's responses into events.
struct ChoiceState<'a> {
    task: &'a ChoiceTask,
    journal: Arc<TokenJournal>,
}

impl ChoiceTask {
    /// Returns the events of the choice. They end with its usage or an error.
    pub(super) fn events(self) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
        try_stream! {
            if let Some(delta) = self.prompt_logprobs().await? {
                yield GenerateEvent::Delta(delta);
            }
            let model = &self.engine.model;
            let prompt_tokens = self.prepared.prompt.tokens.len();
            let (permit, guard) = self.engine.acquire(prompt_tokens).await?;
            let (engine_request, journal) = request::choice(&self.prepared, model, guard);
            let limit = engine_request.sampling.max_len;
            let mut responses = self.engine.send(engine_request).await?;
            let mut answer = AnswerText::new(&self.prepared, model.template_text());
            let state = ChoiceState { task: &self, journal };
            let mut is_first = true;
            loop {
                let mut chunk = match self.engine.receive(&mut responses).await? {
                    Some(response) => match EngineChunk::from_response(response)? {
                        Some(chunk) => chunk,
                        None => continue,
                    },
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
                    let usage = Usage {
                        prompt_tokens: prompt_tokens as u32,
                        completion_tokens: state.journal.sampled() as u32,
                        timing: None,
                        energy: None,
                    };
                    drop(responses);
                    drop(permit);
                    yield GenerateEvent::Usage(usage);
                    return;
                }
            }
        }
    }

    /// Returns the prompt's tokens with their log-probabilities, if the request asks for them.
    async fn prompt_logprobs(&self) -> Result<Option<ChoiceDelta>, RequestError> {
        let request = &self.prepared.request;
        let Some(alternatives) = request.logprobs.filter(|_| request.prompt_logprobs) else {
            return Ok(None);
        };
        let tokens = &self.prepared.prompt.tokens;
        let Some(&first) = tokens.first() else {
            return Err(RequestError::invalid(
                "echo",
                "The prompt has no tokens to return.",
            ));
        };
        let scores = prompt_scores(&self.engine, tokens, alternatives).await?;
        let first = SampledToken {
            token: first,
            logprob: 0.0,
            top: Vec::new(),
        };
        let prompt_logprobs = std::iter::once(first).chain(scores);
        Ok(Some(ChoiceDelta {
            prompt_logprobs: prompt_logprobs
                .map(|token| self.engine.model.vocabulary.logprob(token))
                .collect(),
            ..ChoiceDelta::default()
        }))
    }
}

impl ChoiceState<'_> {
    /// Why the answer cannot follow its grammar any further. It is the fault of the schema, not of the
    /// engine.
    fn grammar_error(&self) -> Option<RequestError> {
        let grammar = self.task.prepared.grammar.as_ref()?;
        Some(grammar_error(grammar.param, &self.journal.grammar_error()?))
    }

    /// Returns what a chunk adds, and why the choice ends with it if it does.
    fn delta(
        &self,
        chunk: &EngineChunk,
        answer: &mut AnswerText,
    ) -> (Option<ChoiceDelta>, Option<FinishReason>) {
        let mut piece = answer.push(chunk.visible_content(), &self.journal.take_tokens());
        let mut finish_reason = piece.ends;
        if let (None, Some(reason)) = (finish_reason, chunk.finish_reason()) {
            let rest = answer.finish(reason);
            piece.content.push_str(&rest.content);
            piece.reasoning.push_str(&rest.reasoning);
            piece.calls.extend(rest.calls);
            finish_reason = rest.ends;
        }
        let AnswerPiece {
            content,
            reasoning,
            calls,
            ..
        } = piece;
        let token = chunk.logprob.as_ref().and_then(logits_processor::token);
        let mut sampled = self.journal.take_through(token);
        if chunk.is_end_token() {
            // The end token is no part of the answer, and neither is its log-probability.
            sampled.pop();
        }
        let delta = ChoiceDelta {
            choice: 0,
            content,
            reasoning,
            refusal: String::new(),
            tool_calls: calls,
            prompt_logprobs: Vec::new(),
            logprobs: sampled
                .into_iter()
                .map(|token| self.task.engine.model.vocabulary.logprob(token))
                .collect(),
        };
        ((!delta.is_empty()).then_some(delta), finish_reason)
    }
}
