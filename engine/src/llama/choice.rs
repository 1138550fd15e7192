//! Turns what the thread computes into the events of an answer.

use std::sync::Arc;

use async_stream::try_stream;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, RequestError, TokenLogprob, Usage,
};
use futures::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::adapter_turns::AdapterId;
use super::decoder::Command;
use super::engine_thread::EngineThread;
use super::sequence::{SequenceEvent, Task};
use super::tokenizer::Tokenizer;
use super::utf8_pieces::Utf8Pieces;
use crate::text::answer_text::{AnswerPiece, AnswerText};
use crate::text::prepared_request::{PreparedRequest, grammar_error};
use crate::text::text_model::TextModel;
use crate::text::token_sampler::{SampledToken, TokenSampler};

/// An answer that has not started yet.
pub(super) struct ChoiceTask {
    /// The adapter that it is computed with.
    pub(super) adapter: Option<AdapterId>,
    pub(super) prepared: PreparedRequest,
    pub(super) model: Arc<TextModel>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) thread: Arc<EngineThread<Command>>,
}

impl ChoiceTask {
    /// Returns the events of the choice. They end with its usage or an error. Dropping them ends the computation
    /// before its next step.
    pub(super) fn events(self) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
        try_stream! {
            let mut events = self.start()?;
            let mut answer = AnswerReader::new(&self);
            let mut tokens = 0;
            let mut is_first = true;
            loop {
                let (delta, finish_reason) = match self.next(&mut events).await? {
                    SequenceEvent::Computed(time) => {
                        yield GenerateEvent::Computed(time);
                        continue;
                    }
                    SequenceEvent::PromptScores(scores) => (self.prompt_logprobs(scores), None),
                    SequenceEvent::Token(token, sampled) => {
                        tokens += 1;
                        answer.push(token, sampled)
                    }
                    SequenceEvent::Ended(reason) => answer.finish(reason),
                    SequenceEvent::Failed(error) => Err(error)?,
                    SequenceEvent::NoWord(problem) => Err(self.no_word(&problem))?,
                };
                // The text of a tool call may come only with its end, but the answer has begun.
                if !delta.is_empty() || std::mem::take(&mut is_first) {
                    is_first = false;
                    yield GenerateEvent::Delta(delta);
                }
                if let Some(reason) = finish_reason {
                    drop(events);
                    yield GenerateEvent::Finished(ChoiceFinished { choice: 0, reason });
                    yield GenerateEvent::Usage(Usage {
                        prompt_tokens: self.prepared.prompt.tokens.len() as u32,
                        completion_tokens: tokens,
                        timing: None,
                        energy: None,
                    });
                    return;
                }
            }
        }
    }

    fn start(&self) -> Result<UnboundedReceiver<SequenceEvent>, RequestError> {
        let request = &self.prepared.request;
        let prompt = &self.prepared.prompt.tokens;
        let grammar = self.prepared.grammar.as_ref();
        let grammar = grammar.map(|grammar| grammar.matcher.clone());
        let scored = request.logprobs.filter(|_| request.prompt_logprobs);
        let scorer = scored.map(|alternatives| {
            let forced = prompt.iter().skip(1).copied().collect();
            TokenSampler::new(&Default::default(), &[], Some(alternatives))
                .with_forced_tokens(forced)
        });
        let (events, received) = unbounded_channel();
        let task = Task {
            adapter: self.adapter,
            prompt: prompt.clone(),
            sampler: TokenSampler::new(&request.sampling, prompt, request.logprobs)
                .with_grammar(grammar),
            max_tokens: self.prepared.max_answer(self.model.context),
            scorer,
            events,
        };
        self.thread.send(Command::Answer(Box::new(task)))?;
        Ok(received)
    }

    async fn next(
        &self,
        events: &mut UnboundedReceiver<SequenceEvent>,
    ) -> Result<SequenceEvent, RequestError> {
        tokio::select! {
            event = events.recv() => event.ok_or_else(|| self.thread.stopped()),
            error = self.thread.failed() => Err(error),
        }
    }

    /// The prompt's tokens with their log-probabilities.
    fn prompt_logprobs(&self, scores: Vec<SampledToken>) -> ChoiceDelta {
        let first = self.prepared.prompt.tokens.first();
        let first = first.map(|token| SampledToken {
            token: *token,
            logprob: 0.0,
            top: Vec::new(),
        });
        let vocabulary = &self.model.vocabulary;
        let tokens = first.into_iter().chain(scores);
        ChoiceDelta {
            prompt_logprobs: tokens.map(|token| vocabulary.logprob(token)).collect(),
            ..ChoiceDelta::default()
        }
    }

    /// The error when the answer cannot follow its grammar. It is the fault of the schema, not of the engine.
    fn no_word(&self, problem: &str) -> RequestError {
        let grammar = self.prepared.grammar.as_ref();
        grammar_error(
            grammar.map_or("response_format", |grammar| grammar.param),
            problem,
        )
    }
}

/// Reads the tokens of an answer.
struct AnswerReader<'a> {
    model: &'a TextModel,
    tokenizer: &'a Tokenizer,
    text: AnswerText,
    pieces: Utf8Pieces,
    /// Whether the text has control tokens: calls are written with them.
    with_controls: bool,
}

impl<'a> AnswerReader<'a> {
    fn new(task: &'a ChoiceTask) -> Self {
        let model = &*task.model;
        Self {
            model,
            tokenizer: &task.tokenizer,
            text: AnswerText::new(&task.prepared, model.template_text()),
            pieces: Utf8Pieces::default(),
            with_controls: !task.prepared.functions.is_empty(),
        }
    }

    /// Returns what a token adds, and why the answer ends with it if it does.
    fn push(
        &mut self,
        token: u32,
        sampled: Option<SampledToken>,
    ) -> (ChoiceDelta, Option<FinishReason>) {
        let vocabulary = &self.model.vocabulary;
        let text = if vocabulary.end_tokens.contains(&token) {
            String::new()
        } else {
            let bytes = self.tokenizer.bytes(token, self.with_controls);
            self.pieces.push(&bytes)
        };
        let piece = self.text.push(&text, &[token]);
        let logprobs = sampled.map(|token| vocabulary.logprob(token));
        delta(piece, logprobs.into_iter().collect())
    }

    /// Returns what was held back, at the end of the answer.
    fn finish(&mut self, reason: FinishReason) -> (ChoiceDelta, Option<FinishReason>) {
        let rest = self.text.push(&self.pieces.finish(), &[]);
        if rest.ends.is_some() {
            return delta(rest, Vec::new());
        }
        let end = self.text.finish(reason);
        delta(
            AnswerPiece {
                content: rest.content + &end.content,
                reasoning: rest.reasoning + &end.reasoning,
                calls: [rest.calls, end.calls].concat(),
                ends: end.ends,
            },
            Vec::new(),
        )
    }
}

fn delta(piece: AnswerPiece, logprobs: Vec<TokenLogprob>) -> (ChoiceDelta, Option<FinishReason>) {
    let delta = ChoiceDelta {
        choice: 0,
        content: piece.content,
        reasoning: piece.reasoning,
        tool_calls: piece.calls,
        logprobs,
        ..ChoiceDelta::default()
    };
    (delta, piece.ends)
}
