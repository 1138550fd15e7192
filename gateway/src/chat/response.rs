//! A whole chat answer.

use axum::response::{IntoResponse, Response};
use flotilla_core::generate::{
    ChoiceDelta, FinishReason, GenerateEvent, RequestError, TokenLogprob, ToolCall, ToolCallDelta,
    Usage,
};
use futures::StreamExt;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::CompletionId;
use crate::EventStream;
use crate::usage::UsageJson;

/// All events of an answer, put together.
#[derive(Debug, Default)]
pub(crate) struct CollectedAnswer {
    pub(crate) choices: Vec<CollectedChoice>,
    pub(crate) usage: Usage,
}

#[derive(Debug, Default)]
pub(crate) struct CollectedChoice {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) tool_calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) finish: Option<FinishReason>,
}

/// Reads an answer to its end.
///
/// # Errors
/// What broke it off.
pub(crate) async fn collect(mut batches: EventStream) -> Result<CollectedAnswer, RequestError> {
    let mut collected = CollectedAnswer::default();
    let mut complete = false;
    while let Some(batch) = batches.next().await {
        let events = match batch {
            Ok(events) => events,
            Err(_) if complete => break,
            Err(error) => return Err(error),
        };
        for event in events {
            match event {
                GenerateEvent::Delta(delta) => collected.choice(delta.choice).append(delta),
                GenerateEvent::Finished(end) => {
                    collected.choice(end.choice).finish = Some(end.reason)
                }
                GenerateEvent::Usage(usage) => {
                    collected.usage = usage;
                    complete = true;
                }
            }
        }
    }
    if complete {
        Ok(collected)
    } else {
        Err(RequestError::NodeLost(
            "the answer broke off before its end".into(),
        ))
    }
}

impl CollectedAnswer {
    fn choice(&mut self, index: u32) -> &mut CollectedChoice {
        let index = index as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Default::default);
        }
        &mut self.choices[index]
    }
}

impl CollectedChoice {
    fn append(&mut self, delta: ChoiceDelta) {
        if self.content.is_empty() {
            self.content = delta.content;
        } else {
            self.content.push_str(&delta.content);
        }
        self.reasoning.push_str(&delta.reasoning);
        self.logprobs.extend(delta.logprobs);
        for call in delta.tool_calls {
            self.append_call(call);
        }
    }

    fn append_call(&mut self, delta: ToolCallDelta) {
        let index = delta.index as usize;
        if self.tool_calls.len() <= index {
            self.tool_calls.resize_with(index + 1, Default::default);
        }
        let call = &mut self.tool_calls[index];
        if let Some(id) = delta.id {
            call.id = id;
        }
        if let Some(name) = delta.name {
            call.name = name;
        }
        call.arguments.push_str(&delta.arguments);
    }
}

#[derive(Serialize)]
pub(super) struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChoiceJson>,
    usage: UsageJson,
}

#[derive(Serialize)]
struct ChoiceJson {
    index: usize,
    message: MessageJson,
    logprobs: Option<LogprobsJson>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct MessageJson {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallJson>,
}

#[derive(Serialize)]
struct ToolCallJson {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionJson,
}

#[derive(Serialize)]
struct FunctionJson {
    name: String,
    arguments: String,
}

#[derive(Serialize)]
struct LogprobsJson {
    content: Vec<LogprobJson>,
    refusal: Option<()>,
}

/// One token's log-probability.
#[derive(Serialize)]
pub(crate) struct LogprobJson {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    top_logprobs: Vec<TopJson>,
}

#[derive(Serialize)]
struct TopJson {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

/// What OpenAI writes for a probability of zero, whose logarithm JSON cannot hold.
const LEAST_LOGPROB: f32 = -9999.0;

/// A log-probability that JSON can hold.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob.max(LEAST_LOGPROB)
    } else {
        LEAST_LOGPROB
    }
}

/// The token's bytes; unknown where the token ends inside a character.
fn bytes(token: &str) -> Option<Vec<u8>> {
    (!token.contains(char::REPLACEMENT_CHARACTER)).then(|| token.as_bytes().to_vec())
}

impl From<TokenLogprob> for LogprobJson {
    fn from(logprob: TokenLogprob) -> Self {
        Self {
            bytes: bytes(&logprob.token),
            token: logprob.token,
            logprob: finite(logprob.logprob),
            top_logprobs: logprob
                .top
                .into_iter()
                .map(|top| TopJson {
                    bytes: bytes(&top.token),
                    token: top.token,
                    logprob: finite(top.logprob),
                })
                .collect(),
        }
    }
}

impl<'a> ChatCompletion<'a> {
    pub(super) fn new(
        identity: &'a CompletionId,
        collected: CollectedAnswer,
        logprobs: bool,
    ) -> Self {
        let choices = collected
            .choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| ChoiceJson::new(index, choice, logprobs))
            .collect();
        Self {
            id: &identity.id,
            object: "chat.completion",
            created: identity.created,
            model: &identity.model,
            choices,
            usage: collected.usage.into(),
        }
    }
}

impl ChoiceJson {
    fn new(index: usize, choice: CollectedChoice, logprobs: bool) -> Self {
        // OpenAI leaves the content out where there are only calls.
        let only_calls = choice.content.is_empty() && !choice.tool_calls.is_empty();
        let content = (!only_calls).then_some(choice.content);
        let tool_calls = choice
            .tool_calls
            .into_iter()
            .map(|call| ToolCallJson {
                id: call.id,
                kind: "function",
                function: FunctionJson {
                    name: call.name,
                    arguments: call.arguments,
                },
            })
            .collect();
        Self {
            index,
            message: MessageJson {
                role: "assistant",
                content,
                refusal: None,
                reasoning_content: choice.reasoning,
                tool_calls,
            },
            logprobs: logprobs.then(|| LogprobsJson {
                content: choice.logprobs.into_iter().map(Into::into).collect(),
                refusal: None,
            }),
            finish_reason: choice.finish.map_or("stop", FinishReason::as_str),
        }
    }
}

impl IntoResponse for ChatCompletion<'_> {
    fn into_response(self) -> Response {
        json_response(&self)
    }
}

/// A response of status 200 with `value` as JSON.
pub(crate) fn json_response(value: &impl Serialize) -> Response {
    // Strings, numbers and lists of them: serializing cannot fail.
    let mut json = Vec::with_capacity(512);
    let _ = serde_json::to_writer(&mut json, value);
    let mut response = Response::new(json.into());
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ChoiceFinished;
    use futures::stream;

    fn delta(choice: u32, content: &str) -> GenerateEvent {
        GenerateEvent::Delta(ChoiceDelta {
            choice,
            content: content.into(),
            ..ChoiceDelta::default()
        })
    }

    #[tokio::test]
    async fn pieces_of_several_choices_are_put_together() {
        let events = vec![
            delta(1, "c"),
            delta(0, "a"),
            delta(0, "b"),
            GenerateEvent::Finished(ChoiceFinished {
                choice: 0,
                reason: FinishReason::Length,
            }),
            GenerateEvent::Usage(Usage {
                prompt_tokens: 3,
                completion_tokens: 3,
                timing: None,
                energy: None,
            }),
        ];
        let collected = collect(Box::pin(stream::iter([Ok(events)]))).await.unwrap();
        assert_eq!(collected.choices[0].content, "ab");
        assert_eq!(collected.choices[0].finish, Some(FinishReason::Length));
        assert_eq!(collected.choices[1].content, "c");
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_an_error() {
        let batches: EventStream = Box::pin(stream::iter([Ok(vec![delta(0, "a")])]));
        assert!(matches!(
            collect(batches).await,
            Err(RequestError::NodeLost(_))
        ));
    }

    #[test]
    fn an_impossible_token_stays_valid_json() {
        assert_eq!(finite(f32::NEG_INFINITY), LEAST_LOGPROB);
        assert_eq!(finite(f32::NAN), LEAST_LOGPROB);
        assert_eq!(finite(-0.5), -0.5);
    }
}
