//! Completions in OpenAI's format. Every field may be missing or null.

use flotilla_core::generate::FinishReason;
use serde::Deserialize;
use serde_json::Value;

use super::logprobs::LogprobsField;

/// A chunk of a streamed completion, or a whole one.
#[derive(Deserialize)]
pub(super) struct UpstreamChunk {
    pub(super) choices: Option<Vec<UpstreamChoice>>,
    pub(super) usage: Option<UsageField>,
    /// A failure after the answer has started.
    error: Option<Value>,
    /// `error` in the errors of some versions of vLLM.
    object: Option<Value>,
    /// The text of such an error.
    message: Option<Value>,
}

/// What a chunk adds to a choice.
#[derive(Deserialize)]
pub(super) struct UpstreamChoice {
    pub(super) index: Option<u64>,
    /// The addition to a chat completion.
    delta: Option<MessageField>,
    /// The whole message of a chat completion that is not streamed.
    message: Option<MessageField>,
    /// The addition to a text completion.
    text: Option<String>,
    pub(super) logprobs: Option<LogprobsField>,
    finish_reason: Option<String>,
}

/// A message or a part of one.
#[derive(Default, Deserialize)]
pub(super) struct MessageField {
    content: Option<TextField>,
    reasoning: Option<TextField>,
    reasoning_content: Option<TextField>,
    pub(super) refusal: Option<String>,
    pub(super) tool_calls: Option<Vec<CallField>>,
}

/// A text, or its parts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or an array of parts")]
pub(super) enum TextField {
    Text(String),
    Parts(Vec<TextPart>),
}

/// A part of a text. Parts of other kinds have no text.
#[derive(Deserialize)]
pub(super) struct TextPart {
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
    pub(super) arguments: Option<ArgumentsField>,
}

/// Arguments as JSON text, or as the value itself.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum ArgumentsField {
    Text(String),
    Value(Value),
}

/// The tokens of a request.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct UsageField {
    pub(super) prompt_tokens: Option<u32>,
    pub(super) completion_tokens: Option<u32>,
}

impl UpstreamChunk {
    /// The failure that the chunk reports instead of an answer.
    pub(super) fn failure(&self) -> Option<&Value> {
        let object = self.object.as_ref().and_then(Value::as_str);
        match (&self.error, &self.message) {
            (Some(error), _) => Some(error),
            (None, Some(message)) if object == Some("error") => Some(message),
            (None, _) => None,
        }
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
    pub(super) fn take_message(&mut self) -> MessageField {
        let message = self.delta.take().or_else(|| self.message.take());
        let mut message = message.unwrap_or_default();
        if message.content.is_none() {
            message.content = self.text.take().map(TextField::Text);
        }
        message
    }
}

impl MessageField {
    /// Takes the text of the answer.
    pub(super) fn take_content(&mut self) -> String {
        self.content
            .take()
            .map_or_else(String::new, TextField::into_text)
    }

    /// Takes the reasoning. A server that sends it under both names sends it twice.
    pub(super) fn take_reasoning(&mut self) -> String {
        let fields = [self.reasoning_content.take(), self.reasoning.take()];
        let mut texts = fields.into_iter().flatten().map(TextField::into_text);
        texts.find(|text| !text.is_empty()).unwrap_or_default()
    }
}

impl TextField {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

impl ArgumentsField {
    /// The arguments as JSON text.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Value(value) => value.to_string(),
        }
    }
}
