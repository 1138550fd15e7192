//! A response of the engine.

use flotilla_core::generate::{FinishReason, RequestError};
use mistralrs_core::{CompletionChunkResponse, Response, ResponseLogprob};

use super::logits_processor;

/// A chunk of an answer.
#[derive(Default)]
pub(super) struct EngineChunk {
    pub(super) content: String,
    /// The token of the chunk, if log-probabilities were requested.
    pub(super) logprob: Option<ResponseLogprob>,
    /// Why the choice ends with this chunk.
    pub(super) finish_reason: Option<String>,
}

impl EngineChunk {
    /// Converts a response. Returns `None` for one without content for this choice.
    ///
    /// # Errors
    /// When the response is an error.
    pub(super) fn from_response(response: Response) -> Result<Option<Self>, RequestError> {
        Ok(match response {
            Response::CompletionChunk(CompletionChunkResponse { mut choices, .. }) => {
                choices.pop().map(|choice| Self {
                    content: choice.text,
                    logprob: choice.logprobs,
                    finish_reason: choice.finish_reason,
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
        let token = self.logprob.as_ref().and_then(logits_processor::token_text);
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
            && let Some(end) = self.logprob.as_ref().and_then(logits_processor::token_text)
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
            _ => FinishReason::Stop,
        })
    }
}

/// The error when the engine fails. Its message is the first line of `message`; a backtrace follows
/// there.
pub(super) fn failed(message: &str) -> RequestError {
    let line = message.lines().next().unwrap_or_default();
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
    fn failure_of_the_engine_is_reported_without_its_backtrace() {
        assert_eq!(
            failed("out of memory\nat"),
            RequestError::Engine("out of memory".into())
        );
    }
}
