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

/// What a request says of the shape of its answer.
#[derive(Clone, Copy)]
pub(super) struct AnswerOptions {
    /// Whether choices have log-probabilities.
    pub(super) logprobs: bool,
    /// Whether each choice must be a tool call.
    pub(super) is_call: bool,
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

/// Returns the bytes of a token: those that the engine reported, else those of its text. `None` when
/// neither are known, as of a token that ends inside a character.
fn token_bytes(token: &str, bytes: Vec<u8>) -> Option<Vec<u8>> {
    if !bytes.is_empty() {
        return Some(bytes);
    }
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
            bytes: token_bytes(&logprob.token, logprob.bytes),
            token: logprob.token,
            logprob: finite(logprob.logprob),
            top_logprobs: logprob
                .top
                .into_iter()
                .map(|top| TopLogprobJson {
                    bytes: token_bytes(&top.token, top.bytes),
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
    pub(super) fn new(
        id: &'a CompletionId,
        answer: CollectedAnswer,
        options: AnswerOptions,
    ) -> Self {
        let choices = answer
            .choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| ChatChoiceJson::new(index, choice, options))
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
    fn new(index: usize, choice: CollectedChoice, options: AnswerOptions) -> Self {
        // OpenAI sends null as the content of an answer that consists of tool calls or a refusal only. So
        // does one that was cut before the call that it must be.
        let has_other =
            options.is_call || !choice.tool_calls.is_empty() || !choice.refusal.is_empty();
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
            logprobs: options.logprobs.then(|| choice.logprobs.into()),
            finish_reason: choice.finish_reason.map_or("stop", FinishReason::as_str),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(content: &str, is_call: bool) -> serde_json::Value {
        let choice = CollectedChoice {
            content: content.into(),
            finish_reason: Some(FinishReason::Length),
            ..CollectedChoice::default()
        };
        let options = AnswerOptions {
            logprobs: false,
            is_call,
        };
        serde_json::to_value(ChatChoiceJson::new(0, choice, options)).unwrap()
    }

    #[test]
    fn content_of_a_call_that_was_cut_is_null() {
        assert!(choice("", true)["message"]["content"].is_null());
        assert_eq!(choice("", false)["message"]["content"], "");
        assert_eq!(choice("a", true)["message"]["content"], "a");
    }

    #[test]
    fn bytes_of_a_token_are_those_that_the_engine_reported() {
        assert_eq!(token_bytes("\u{fffd}", vec![0xe4]), Some(vec![0xe4]));
        assert_eq!(token_bytes("\u{fffd}", Vec::new()), None);
        assert_eq!(token_bytes("ä", Vec::new()), Some("ä".as_bytes().to_vec()));
    }
}
