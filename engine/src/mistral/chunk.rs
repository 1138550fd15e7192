//! A response of the engine, whatever kind of completion it belongs to.

use flotilla_core::generate::{FinishReason, RequestError, ToolCallDelta};
use mistralrs_core::{
    ChatCompletionChunkResponse, CompletionChunkResponse, Response, ResponseLogprob,
    ToolCallResponse, Usage,
};

use super::sampler;

/// A chunk of a chat or text completion.
#[derive(Default)]
pub(super) struct EngineChunk {
    pub(super) content: String,
    pub(super) reasoning: String,
    pub(super) tool_calls: Vec<ToolCallResponse>,
    /// The token of the chunk, if log-probabilities were requested.
    pub(super) logprob: Option<ResponseLogprob>,
    /// Why the choice ends with this chunk.
    pub(super) finish_reason: Option<String>,
    pub(super) usage: Option<Usage>,
}

impl EngineChunk {
    /// Converts a response. Returns `None` for one without content for this choice.
    ///
    /// # Errors
    /// When the response is an error.
    pub(super) fn from_response(response: Response) -> Result<Option<Self>, RequestError> {
        Ok(match response {
            Response::Chunk(ChatCompletionChunkResponse {
                mut choices, usage, ..
            }) => choices.pop().map(|choice| Self {
                content: choice.delta.content.unwrap_or_default(),
                reasoning: choice.delta.reasoning_content.unwrap_or_default(),
                tool_calls: choice.delta.tool_calls.unwrap_or_default(),
                logprob: choice.logprobs,
                finish_reason: choice.finish_reason,
                usage,
            }),
            Response::CompletionChunk(CompletionChunkResponse { mut choices, .. }) => {
                choices.pop().map(|choice| Self {
                    content: choice.text,
                    logprob: choice.logprobs,
                    finish_reason: choice.finish_reason,
                    ..Self::default()
                })
            }
            Response::ValidationError(error) => return Err(invalid(&error.to_string())),
            Response::InternalError(error) => return Err(failed(&error.to_string())),
            Response::ModelError(error, _) | Response::CompletionModelError(error, _) => {
                return Err(failed(&error));
            }
            _ => None,
        })
    }

    /// The end of an answer for which the engine sent no last chunk.
    pub(super) fn end(has_reached_limit: bool) -> Self {
        let reason = if has_reached_limit { "length" } else { "stop" };
        Self {
            finish_reason: Some(reason.to_owned()),
            ..Self::default()
        }
    }

    /// Puts back the white space that the engine removes before the first token, if the token's own
    /// text is known: the texts of the tokens must add up to the answer.
    pub(super) fn restore_space(&mut self) {
        let token = self.logprob.as_ref().and_then(sampler::token_text);
        if let Some(token) = token
            && token.trim_start() == self.content
        {
            self.content = token.to_owned();
        }
    }

    /// Whether the model's end token ended the choice. The engine is given no stop texts, so it has no
    /// other reason to report `stop`.
    pub(super) fn is_end_token(&self) -> bool {
        self.finish_reason.as_deref() == Some("stop")
    }

    /// The content without the end token, whose text is part of it if the request has tools.
    pub(super) fn visible_content(&self) -> &str {
        if self.is_end_token()
            && let Some(end) = self.logprob.as_ref().and_then(sampler::token_text)
        {
            self.content.strip_suffix(end).unwrap_or(&self.content)
        } else {
            &self.content
        }
    }

    /// Why the choice ends with this chunk. `None` if it goes on.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        Some(match self.finish_reason.as_deref()? {
            "length" => FinishReason::Length,
            "tool_calls" => FinishReason::ToolCalls,
            _ => FinishReason::Stop,
        })
    }

    /// The first `limit` tool calls of the chunk, which are all calls of the answer.
    pub(super) fn tool_calls(&self, limit: usize) -> Vec<ToolCallDelta> {
        let calls = self
            .tool_calls
            .iter()
            .take(limit)
            .map(|call| ToolCallDelta {
                index: call.index as u32,
                id: Some(call.id.clone()),
                name: Some(call.function.name.clone()),
                arguments: call.function.arguments.clone(),
            });
        calls.collect()
    }
}

/// How an error of the chat template ends. The engine gives the template this name.
const TEMPLATE_ERROR: &str = "(in chat_template:";
/// The error of a model whose template for tools is missing.
const NO_TOOL_TEMPLATE: &str = "chat template does not handle tool usage";

/// The error when the engine fails. Its message is the first line of `message`; a backtrace follows
/// there. The engine reports in the same way that a chat template refuses a conversation, which is the
/// client's fault.
pub(super) fn failed(message: &str) -> RequestError {
    let line = message.lines().next().unwrap_or_default();
    if let Some((problem, _)) = line.split_once(TEMPLATE_ERROR) {
        let problem = problem.trim().trim_start_matches("invalid operation: ");
        let message = format!("The model's chat template refuses the conversation: {problem}.");
        return RequestError::invalid("messages", message);
    }
    if line.contains(NO_TOOL_TEMPLATE) {
        return RequestError::invalid("tools", "The model's chat template knows no tools.");
    }
    RequestError::Engine(line.to_owned())
}

/// The error when the engine rejects a request.
pub(super) fn invalid(message: &str) -> RequestError {
    if message.contains("sequence length is greater") {
        let limit: String = message.chars().filter(char::is_ascii_digit).collect();
        return RequestError::ContextLength(format!(
            "The prompt is longer than the model's context of {limit} tokens."
        ));
    }
    RequestError::Invalid {
        param: None,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversation_that_the_template_refuses_is_the_fault_of_the_client() {
        let error = failed(
            "invalid operation: Conversation roles must alternate (in chat_template:7)\n\nbacktrace",
        );
        let RequestError::Invalid { param, message } = error else {
            panic!("{error:?}");
        };
        assert_eq!(param.as_deref(), Some("messages"));
        assert!(message.ends_with("refuses the conversation: Conversation roles must alternate."));
        let no_tools = "Tools were provided but this chat template does not handle tool usage";
        assert!(matches!(failed(no_tools), RequestError::Invalid { .. }));
        assert_eq!(
            failed("out of memory\nat"),
            RequestError::Engine("out of memory".into())
        );
    }
}
