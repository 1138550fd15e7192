//! The JSON fields of a chat request, as clients send them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::routing_fields::RoutingFields;
use crate::stream_options::StreamOptions;
use crate::text_or::text_or;

/// The body of `/v1/chat/completions`, without the fields of
/// [`SamplingFields`](crate::sampling::SamplingFields) and
/// [`ExtraFields`](crate::extra_fields::ExtraFields). Other fields are accepted and ignored.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ChatBody {
    pub(super) model: String,
    pub(super) messages: Vec<MessageField>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    pub(super) stream_options: Option<StreamOptions>,
    #[serde(default)]
    pub(super) max_tokens: Option<u32>,
    #[serde(default)]
    pub(super) max_completion_tokens: Option<u32>,
    #[serde(default)]
    pub(super) logprobs: Option<bool>,
    #[serde(default)]
    pub(super) top_logprobs: Option<u32>,
    #[serde(default)]
    pub(super) response_format: Option<ResponseFormat>,
    #[serde(default)]
    pub(super) tools: Option<Vec<ToolField>>,
    #[serde(default)]
    pub(super) tool_choice: Option<ToolChoiceField>,
    #[serde(default)]
    pub(super) parallel_tool_calls: Option<bool>,
    #[serde(default)]
    pub(super) reasoning_effort: Option<String>,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) flotilla: Option<RoutingFields>,
    /// OpenAI's key for requests that share a cached prefix. It is used as the session when the
    /// request names none.
    #[serde(default)]
    pub(super) prompt_cache_key: Option<String>,
    /// vLLM's and llama.cpp's field for the arguments of the chat template.
    #[serde(default)]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) chat_template_kwargs: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) modalities: Option<Vec<String>>,
    /// Deprecated by OpenAI in favour of `tools`. A request that uses it is rejected, because
    /// ignoring it would change the answer.
    #[serde(default)]
    #[schemars(skip)]
    pub(super) functions: Option<serde::de::IgnoredAny>,
    /// Deprecated by OpenAI in favour of `tool_choice`, and rejected like `functions`.
    #[serde(default)]
    #[schemars(skip)]
    pub(super) function_call: Option<serde::de::IgnoredAny>,
    /// Rejected: the models write texts.
    #[serde(default)]
    #[schemars(skip)]
    pub(super) audio: Option<serde::de::IgnoredAny>,
    /// Rejected: answers are not moderated.
    #[serde(default)]
    #[schemars(skip)]
    pub(super) moderation: Option<serde::de::IgnoredAny>,
}

/// One element of `messages`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct MessageField {
    pub(super) role: String,
    #[serde(default)]
    pub(super) content: Option<MessageContent>,
    /// What an assistant message has instead of `content` when the model refused to answer.
    #[serde(default)]
    pub(super) refusal: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) tool_calls: Option<Vec<ToolCallField>>,
    #[serde(default)]
    pub(super) tool_call_id: Option<String>,
}

#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum MessageContent {
    Text(String),
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for MessageContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a string or an array of content parts";
        text_or(deserializer, expected, Self::Text, Self::Parts)
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ContentPart {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) text: Option<String>,
    /// The text of a part of the type `refusal`.
    #[serde(default)]
    pub(super) refusal: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ToolCallField {
    pub(super) id: String,
    pub(super) function: FunctionCallField,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct FunctionCallField {
    pub(super) name: String,
    pub(super) arguments: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ToolField {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) function: Option<FunctionField>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct FunctionField {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) parameters: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) strict: Option<bool>,
}

#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum ToolChoiceField {
    Mode(String),
    Object(ToolChoiceObject),
}

impl<'de> Deserialize<'de> for ToolChoiceField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected =
            "'none', 'auto', 'required' or {\"type\": \"function\", \"function\": {\"name\": …}}";
        text_or(deserializer, expected, Self::Mode, Self::Object)
    }
}

/// A tool choice that names functions.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ToolChoiceObject {
    #[serde(rename = "type", default)]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) function: Option<FunctionName>,
    #[serde(default)]
    pub(super) allowed_tools: Option<AllowedTools>,
}

/// The tools that may be called among all that the request has.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AllowedTools {
    pub(super) mode: String,
    pub(super) tools: Vec<AllowedTool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AllowedTool {
    #[serde(default)]
    pub(super) function: Option<FunctionName>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct FunctionName {
    pub(super) name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ResponseFormat {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) json_schema: Option<JsonSchemaField>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct JsonSchemaField {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) strict: Option<bool>,
    #[serde(default)]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) schema: Option<Box<RawValue>>,
}
