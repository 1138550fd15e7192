//! A chat answer that is not streamed.

use flotilla_core::generate::{FinishReason, TokenLogprob, ToolCall};
use schemars::JsonSchema;
use serde::Serialize;

use crate::collected_answer::{CollectedAnswer, CollectedChoice};
use crate::completion_id::CompletionId;
use crate::logprob::finite;
use crate::usage::UsageJson;

/// OpenAI's `chat.completion` object.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChatChoiceJson>,
    usage: UsageJson,
}

#[derive(Serialize, JsonSchema)]
struct ChatChoiceJson {
    index: usize,
    message: MessageJson,
    logprobs: Option<LogprobsJson>,
    finish_reason: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct MessageJson {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallJson>,
}

#[derive(Serialize, JsonSchema)]
struct ToolCallJson {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionJson,
}

#[derive(Serialize, JsonSchema)]
struct FunctionJson {
    name: String,
    arguments: String,
}

/// OpenAI's `logprobs` object of a chat choice.
#[derive(Serialize, JsonSchema)]
pub(super) struct LogprobsJson {
    content: Vec<TokenLogprobJson>,
    /// Always null: models here have no separate refusals.
    refusal: Option<()>,
}

#[derive(Serialize, JsonSchema)]
struct TokenLogprobJson {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    top_logprobs: Vec<TopLogprobJson>,
}

#[derive(Serialize, JsonSchema)]
struct TopLogprobJson {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

/// Returns the bytes of a token. `None` when the token ends inside a character, because its bytes
/// are then not known.
fn token_bytes(token: &str) -> Option<Vec<u8>> {
    (!token.contains(char::REPLACEMENT_CHARACTER)).then(|| token.as_bytes().to_vec())
}

impl From<Vec<TokenLogprob>> for LogprobsJson {
    fn from(logprobs: Vec<TokenLogprob>) -> Self {
        Self {
            content: logprobs.into_iter().map(Into::into).collect(),
            refusal: None,
        }
    }
}

impl From<TokenLogprob> for TokenLogprobJson {
    fn from(logprob: TokenLogprob) -> Self {
        Self {
            bytes: token_bytes(&logprob.token),
            token: logprob.token,
            logprob: finite(logprob.logprob),
            top_logprobs: logprob
                .top
                .into_iter()
                .map(|top| TopLogprobJson {
                    bytes: token_bytes(&top.token),
                    token: top.token,
                    logprob: finite(top.logprob),
                })
                .collect(),
        }
    }
}

impl From<ToolCall> for ToolCallJson {
    fn from(call: ToolCall) -> Self {
        Self {
            id: call.id,
            kind: "function",
            function: FunctionJson {
                name: call.name,
                arguments: call.arguments,
            },
        }
    }
}

impl<'a> ChatCompletion<'a> {
    pub(super) fn new(id: &'a CompletionId, answer: CollectedAnswer, logprobs: bool) -> Self {
        let choices = answer
            .choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| ChatChoiceJson::new(index, choice, logprobs))
            .collect();
        Self {
            id: &id.id,
            object: "chat.completion",
            created: id.created,
            model: &id.model,
            choices,
            usage: answer.usage.into(),
        }
    }
}

impl ChatChoiceJson {
    fn new(index: usize, choice: CollectedChoice, logprobs: bool) -> Self {
        // OpenAI sends null as the content of an answer that consists of tool calls or a refusal only.
        let has_other = !choice.tool_calls.is_empty() || !choice.refusal.is_empty();
        let has_no_content = choice.content.is_empty() && has_other;
        Self {
            index,
            message: MessageJson {
                role: "assistant",
                content: (!has_no_content).then_some(choice.content),
                refusal: (!choice.refusal.is_empty()).then_some(choice.refusal),
                reasoning_content: choice.reasoning,
                tool_calls: choice.tool_calls.into_iter().map(Into::into).collect(),
            },
            logprobs: logprobs.then(|| choice.logprobs.into()),
            finish_reason: choice.finish_reason.map_or("stop", FinishReason::as_str),
        }
    }
}
