//! What a generation yields, piece by piece.

use std::time::Duration;

use crate::energy::EnergyUsage;

/// One step of an answer. The last event of a successful generation is [`GenerateEvent::Usage`].
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// More of one choice.
    Delta(ChoiceDelta),
    /// One choice is complete.
    Finished(ChoiceFinished),
    /// All choices are complete: what they took.
    Usage(Usage),
}

/// More text, reasoning or calls of one choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChoiceDelta {
    /// Which of the choices, from 0.
    pub choice: u32,
    pub content: String,
    /// Thoughts that the model keeps apart from its answer.
    pub reasoning: String,
    pub tool_calls: Vec<ToolCallDelta>,
    /// The tokens of this piece, where log-probabilities were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A piece of a call: id and name come first, arguments may come in several pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCallDelta {
    /// Which of the choice's calls, from 0.
    pub index: u32,
    pub id: Option<String>,
    pub name: Option<String>,
    /// JSON text to append.
    pub arguments: String,
}

/// A token and how probable it was, by natural logarithm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f32,
    /// The most probable tokens at this place, best first.
    pub top: Vec<TopLogprob>,
}

/// A token that might have been.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopLogprob {
    pub token: String,
    pub logprob: f32,
}

/// The end of one choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChoiceFinished {
    pub choice: u32,
    pub reason: FinishReason,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// It reached `max_tokens` or the model's context.
    Length,
    /// It calls tools.
    ToolCalls,
}

impl FinishReason {
    /// OpenAI's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt, counted once whatever the number of choices.
    pub prompt_tokens: u32,
    /// Tokens generated, over all choices.
    pub completion_tokens: u32,
    /// How long it took the node, where it says so.
    pub timing: Option<AnswerTiming>,
    /// What energy it took, where that is known.
    pub energy: Option<EnergyUsage>,
}

/// How long a node took for an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnswerTiming {
    /// From its arrival there until it was its turn.
    pub queued: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From there to its end.
    pub decode: Duration,
}
