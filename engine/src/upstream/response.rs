//! Completions in OpenAI's format. Every field may be missing or null.

use std::fmt;

use flotilla_core::generate::{FinishReason, MAX_TOOL_CALLS};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bounded_list::BoundedList;

/// The most choices of a chunk. One is requested; the others are needed only to name them in an error.
const MAX_CHOICES: usize = 16;

/// A chunk of a streamed completion, or a whole one.
#[derive(Deserialize)]
pub(super) struct UpstreamChunk {
    pub(super) choices: Option<BoundedList<UpstreamChoice, MAX_CHOICES>>,
    pub(super) usage: Option<UsageField>,
    /// A failure after the answer has started.
    error: Option<Box<RawValue>>,
    /// `error` in the errors of some versions of vLLM.
    object: Option<Box<RawValue>>,
    /// The text of such an error.
    message: Option<Box<RawValue>>,
}

/// What a chunk adds to a choice.
#[derive(Deserialize)]
pub(super) struct UpstreamChoice {
    pub(super) index: Option<u64>,
    /// The addition to a chat completion.
    delta: Option<UpstreamMessageField>,
    /// The whole message of a chat completion that is not streamed.
    message: Option<UpstreamMessageField>,
    /// The addition to a text completion.
    text: Option<String>,
    /// Parsed only if log-probabilities were requested.
    pub(super) logprobs: Option<Box<RawValue>>,
    finish_reason: Option<String>,
}

/// A message or a part of one.
#[derive(Default, Deserialize)]
pub(super) struct UpstreamMessageField {
    content: Option<TextField>,
    reasoning: Option<TextField>,
    reasoning_content: Option<TextField>,
    pub(super) refusal: Option<String>,
    pub(super) tool_calls: Option<BoundedList<CallField, MAX_TOOL_CALLS>>,
}

/// A text, or an array of its parts.
pub(super) struct TextField(String);

/// A part of a text. Parts of other kinds have no text.
#[derive(Deserialize)]
struct TextPart {
    text: Option<String>,
}

/// A tool call or a part of one.
#[derive(Deserialize)]
pub(super) struct CallField {
    pub(super) index: Option<u64>,
    pub(super) id: Option<String>,
    pub(super) function: Option<UpstreamFunctionField>,
}

/// The function of a tool call.
#[derive(Default, Deserialize)]
pub(super) struct UpstreamFunctionField {
    pub(super) name: Option<String>,
    /// A string with JSON text, or the value itself.
    pub(super) arguments: Option<Box<RawValue>>,
}

/// The tokens of a request.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct UsageField {
    pub(super) prompt_tokens: Option<u32>,
    pub(super) completion_tokens: Option<u32>,
}

impl UpstreamChunk {
    /// The failure that the chunk reports instead of an answer, as JSON.
    pub(super) fn failure(&self) -> Option<&str> {
        let is_error = self.object.as_ref().is_some_and(|o| o.get() == "\"error\"");
        let message = self.message.as_ref().filter(|_| is_error);
        let failure = self.error.as_ref().or(message);
        failure.map(|failure| failure.get())
    }
}

impl UpstreamChoice {
    /// Why the choice ends with this chunk. `None` if it goes on. Names that OpenAI does not have are
    /// those of Hugging Face, Mistral and Anthropic; any other counts as a normal end.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        let reason = self.finish_reason.as_deref()?;
        match reason {
            // Sent with every chunk by some servers.
            "" => None,
            "length" | "max_tokens" | "model_length" => Some(FinishReason::Length),
            "tool_calls" | "function_call" | "tool_use" => Some(FinishReason::ToolCalls),
            "content_filter" => Some(FinishReason::ContentFilter),
            _ => Some(FinishReason::Stop),
        }
    }

    /// Whether the choice ends because the server gave up, as some say in the finish reason.
    pub(super) fn is_aborted(&self) -> bool {
        matches!(self.finish_reason.as_deref(), Some("error" | "abort"))
    }

    /// Takes the choice's message with the text of a text completion as its content.
    pub(super) fn take_message(&mut self) -> UpstreamMessageField {
        let message = self.delta.take().or_else(|| self.message.take());
        let mut message = message.unwrap_or_default();
        if message.content.is_none() {
            message.content = self.text.take().map(TextField);
        }
        message
    }
}

impl UpstreamMessageField {
    /// Takes the text of the answer.
    pub(super) fn take_content(&mut self) -> String {
        self.content.take().map_or_else(String::new, |text| text.0)
    }

    /// Takes the reasoning. A server that sends it under both names sends it twice.
    pub(super) fn take_reasoning(&mut self) -> String {
        let fields = [self.reasoning_content.take(), self.reasoning.take()];
        let mut texts = fields.into_iter().flatten().map(|text| text.0);
        texts.find(|text| !text.is_empty()).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for TextField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

/// Joins the parts of a text as it reads them.
struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or an array of parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
        let mut text = String::new();
        while let Some(part) = parts.next_element::<TextPart>()? {
            text.push_str(part.text.as_deref().unwrap_or_default());
        }
        Ok(text)
    }
}
