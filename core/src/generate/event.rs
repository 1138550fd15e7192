//! The events of an answer, in the order in which they are generated.

use std::time::Duration;

use crate::energy::EnergyUsage;

/// An event of an answer. The last event of a successful generation is [`GenerateEvent::Usage`].
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// More of a choice.
    Delta(ChoiceDelta),
    /// A choice is complete.
    Finished(ChoiceFinished),
    /// All choices are complete.
    Usage(Usage),
    /// How long the engine has computed for this answer so far: its parts of the steps that were computed for several.
    /// The agent accounts for energy by it, and passes it on to nobody.
    Computed(Duration),
}

/// More text, reasoning or tool calls of a choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChoiceDelta {
    /// The index of the choice, from 0.
    pub choice: u32,
    /// Text to append to the answer.
    pub content: String,
    /// Text to append to the reasoning, which the model keeps apart from its answer.
    pub reasoning: String,
    /// Text to append to the explanation of why the model refuses to answer.
    pub refusal: String,
    /// Parts of tool calls.
    pub tool_calls: Vec<ToolCallDelta>,
    /// The tokens of `content`, if log-probabilities were requested.
    pub logprobs: Vec<TokenLogprob>,
    /// The tokens of the prompt, if their log-probabilities were requested: all in one delta, before the
    /// first token of the answer. Nothing precedes the first one, which has no log-probability: what is
    /// said of it has no meaning.
    pub prompt_logprobs: Vec<TokenLogprob>,
}

impl ChoiceDelta {
    /// Returns whether the delta adds nothing. It says that the choice has begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
            && self.reasoning.is_empty()
            && self.refusal.is_empty()
            && self.tool_calls.is_empty()
            && self.logprobs.is_empty()
            && self.prompt_logprobs.is_empty()
    }
}

/// The most tool calls of a choice, as many as OpenAI's API takes tools.
pub const MAX_TOOL_CALLS: usize = 128;

/// A part of a tool call: id and name come in the first part, the arguments may come in several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCallDelta {
    /// The index of the call within the choice, from 0, less than [`MAX_TOOL_CALLS`].
    pub index: u32,
    /// The id of the call.
    pub id: Option<String>,
    /// The name of the function.
    pub name: Option<String>,
    /// JSON text to append to the arguments.
    pub arguments: String,
}

/// A token of an answer with its log-probability.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenLogprob {
    /// The text of the token.
    pub token: String,
    /// The bytes of the token. A character may take several tokens: the texts of their bytes are not
    /// valid on their own. Empty if the bytes are not known.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The most probable tokens at this position, the most probable first.
    pub top: Vec<TopLogprob>,
}

/// One of the most probable tokens at a position.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopLogprob {
    /// The text of the token.
    pub token: String,
    /// The bytes of the token. A character may take several tokens: the texts of their bytes are not
    /// valid on their own. Empty if the bytes are not known.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// The end of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChoiceFinished {
    /// The index of the choice, from 0.
    pub choice: u32,
    /// Why it ended.
    pub reason: FinishReason,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the answer, or a stop text was generated.
    Stop,
    /// The answer reached `max_tokens` or filled the model's context.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// An upstream server's filter withheld the answer or its rest.
    ContentFilter,
}

impl FinishReason {
    /// The name in OpenAI's API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// The tokens, time and energy of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt, counted once for all choices.
    pub prompt_tokens: u32,
    /// Generated tokens of all choices.
    pub completion_tokens: u32,
    /// How long the node took. `None` if it does not report it.
    pub timing: Option<AnswerTiming>,
    /// The energy of the answer. `None` if it is not known.
    pub energy: Option<EnergyUsage>,
}

/// How long the phases of an answer took on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnswerTiming {
    /// From the arrival on the node until the computation began.
    pub queued: Duration,
    /// From then until the first token.
    pub prefill: Duration,
    /// From then until the end.
    pub decode: Duration,
}
