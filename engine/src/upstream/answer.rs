//! The one choice of an answer, put together from what a server sends.

use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, RequestError, Usage,
};

use super::limits::UpstreamLimits;
use super::response::{UpstreamChoice, UpstreamChunk, UsageField};
use super::tool_calls::ToolCalls;
use super::{error, logprobs};

/// Bytes of text that count as one token where a server reports no usage.
const BYTES_PER_TOKEN: usize = 4;

/// An answer so far. A request has one choice, which is number 0 here; servers number it from 0 or 1.
pub(super) struct UpstreamAnswer {
    limits: UpstreamLimits,
    /// Bytes of texts and arguments so far.
    bytes: usize,
    /// The memory of log-probabilities so far, in bytes.
    logprob_bytes: usize,
    /// Whether there was a choice.
    has_choice: bool,
    /// The server's number of the choice.
    index: Option<u64>,
    calls: ToolCalls,
    /// Deltas so far.
    deltas: u32,
    usage: Option<UsageField>,
    is_finished: bool,
}

/// How the stream of an answer ended.
pub(super) enum StreamEnd {
    /// The server said that it is complete, or sent it as a whole.
    Done,
    /// Without a sign that it is complete.
    Closed,
    /// With an error.
    Broken(RequestError),
}

impl UpstreamAnswer {
    pub(super) fn new(limits: UpstreamLimits) -> Self {
        Self {
            limits,
            bytes: 0,
            logprob_bytes: 0,
            has_choice: false,
            index: None,
            calls: ToolCalls::default(),
            deltas: 0,
            usage: None,
            is_finished: false,
        }
    }

    /// Whether the choice has ended: then nothing but the usage is still to come.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Adds a chunk and returns its events.
    ///
    /// # Errors
    /// When the server reports a failure, or sends more than it may.
    pub(super) fn add(&mut self, chunk: UpstreamChunk) -> Result<Vec<GenerateEvent>, RequestError> {
        if let Some(failure) = chunk.failure() {
            return Err(error::failed(failure));
        }
        self.usage = chunk.usage.or(self.usage);
        let choices = chunk.choices.unwrap_or_default();
        if choices.0.len() > 1 && choices.0.iter().any(|choice| choice.index.is_none()) {
            return Err(several_choices());
        }
        let mut events = Vec::new();
        for choice in choices {
            self.add_choice(choice, &mut events)?;
        }
        Ok(events)
    }

    fn add_choice(
        &mut self,
        mut choice: UpstreamChoice,
        events: &mut Vec<GenerateEvent>,
    ) -> Result<(), RequestError> {
        self.has_choice = true;
        if let Some(index) = choice.index
            && *self.index.get_or_insert(index) != index
        {
            return Err(several_choices());
        }
        if self.is_finished {
            return Ok(());
        }
        if choice.is_aborted() {
            return Err(error::interrupted("the server gave up"));
        }
        let finish_reason = choice.finish_reason();
        let delta = self.take_delta(&mut choice)?;
        if !delta.is_empty() {
            self.deltas += 1;
            events.push(GenerateEvent::Delta(delta));
        }
        if let Some(reason) = finish_reason {
            events.push(self.finish(reason));
        }
        Ok(())
    }

    fn take_delta(&mut self, choice: &mut UpstreamChoice) -> Result<ChoiceDelta, RequestError> {
        let mut message = choice.take_message();
        let mut delta = ChoiceDelta {
            choice: 0,
            content: message.take_content(),
            reasoning: message.take_reasoning(),
            refusal: message.refusal.take().unwrap_or_default(),
            tool_calls: Vec::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
        };
        for part in message.tool_calls.take().unwrap_or_default() {
            delta.tool_calls.extend(self.calls.add(part)?);
        }
        // Some servers send log-probabilities that were not requested.
        if let (Some(max_bytes), Some(json)) = (self.limits.logprob_bytes, &choice.logprobs) {
            delta.logprobs = logprobs::parse(json)?;
            self.logprob_bytes += logprobs::memory(&delta.logprobs);
            check_bytes(self.logprob_bytes, max_bytes, "log-probabilities")?;
        }
        self.bytes += answer_bytes(&delta);
        check_bytes(self.bytes, self.limits.answer_bytes, "text")?;
        Ok(delta)
    }

    fn finish(&mut self, reason: FinishReason) -> GenerateEvent {
        self.is_finished = true;
        GenerateEvent::Finished(ChoiceFinished { choice: 0, reason })
    }

    /// Ends the answer and returns its last events.
    ///
    /// # Errors
    /// When the answer is not complete.
    pub(super) fn end(mut self, end: StreamEnd) -> Result<Vec<GenerateEvent>, RequestError> {
        let mut events = Vec::new();
        if !self.is_finished {
            match end {
                StreamEnd::Broken(error) => return Err(error),
                StreamEnd::Done if self.has_choice => {
                    let reason = if self.calls.is_empty() {
                        FinishReason::Stop
                    } else {
                        FinishReason::ToolCalls
                    };
                    events.push(self.finish(reason));
                }
                StreamEnd::Closed if self.has_choice => {
                    return Err(error::interrupted("it ended without a finish reason"));
                }
                StreamEnd::Done | StreamEnd::Closed => {
                    return Err(error::invalid("has no choice"));
                }
            }
        }
        events.push(GenerateEvent::Usage(self.usage()));
        Ok(events)
    }

    /// The usage that the server reports. One that reports none sends about one token per delta, or the
    /// whole text in one.
    fn usage(&self) -> Usage {
        let usage = self.usage.unwrap_or_default();
        let estimate = || {
            let tokens = u32::try_from(self.bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX);
            if self.deltas > 1 { self.deltas } else { tokens }
        };
        Usage {
            prompt_tokens: usage.prompt_tokens.unwrap_or(0),
            completion_tokens: usage.completion_tokens.unwrap_or_else(estimate),
            timing: None,
            energy: None,
        }
    }
}

fn several_choices() -> RequestError {
    error::invalid("has several choices, although one was requested")
}

/// Checks that an answer has no more than `max_bytes` of a kind of content.
fn check_bytes(bytes: usize, max_bytes: usize, content: &str) -> Result<(), RequestError> {
    if bytes <= max_bytes {
        return Ok(());
    }
    let what = format!("has more than {max_bytes} bytes of {content}, the most for this request");
    Err(error::invalid(&what))
}

/// The bytes of texts, names, ids and arguments in a delta.
fn answer_bytes(delta: &ChoiceDelta) -> usize {
    let calls = delta.tool_calls.iter().map(|call| {
        call.arguments.len()
            + call.id.as_ref().map_or(0, String::len)
            + call.name.as_ref().map_or(0, String::len)
    });
    delta.content.len() + delta.reasoning.len() + delta.refusal.len() + calls.sum::<usize>()
}

#[cfg(test)]
mod tests;
