//! `POST /v1/chat/completions`.

mod fields;
mod messages;
mod response;
mod stream;
mod tools;
mod validate;

use std::time::Duration;

use axum::response::Response;
use flotilla_core::generate::{GenerateRequest, Route, ToolChoice};

use crate::backend::BackendAnswer;
use crate::collected_answer::collect;
use crate::completion_id::CompletionId;
use crate::json_response::json_response;
use crate::sse::StreamStart;
use crate::{ApiError, Backend, headers, sse};

use self::response::AnswerOptions;

pub(crate) use fields::{ChatBody, MessageField};
pub(crate) use messages::validate_messages;

pub(crate) use response::ChatCompletion;
use stream::ChatChunkWriter;

/// Answers a validated chat request. `include_usage` adds a usage chunk to a stream, and
/// `stream_keep_alive` is its longest silence.
pub(crate) async fn answer(
    backend: &impl Backend,
    request: GenerateRequest<Route>,
    include_usage: bool,
    stream_keep_alive: Duration,
) -> Result<Response, ApiError> {
    let (stream, choices) = (request.stream, request.choices);
    let options = AnswerOptions {
        logprobs: request.logprobs.is_some(),
        is_call: matches!(
            request.tool_choice,
            ToolChoice::Required | ToolChoice::Named(_)
        ),
    };
    let backend = backend.clone();
    let begin = async move {
        let answer = backend.generate(request).await;
        let BackendAnswer { served_by, content } =
            answer.map_err(ApiError::with_prompt_param("messages"))?;
        Ok((served_by, content))
    };
    if stream {
        let new_writer = move |start: StreamStart<'_>| ChatChunkWriter::new(&start, include_usage);
        return sse::respond(begin, stream_keep_alive, new_writer).await;
    }
    let (served_by, events) = begin.await?;
    let answer = collect(events, choices)
        .await
        .map_err(|error| served_by.error_response(error, "messages"))?;
    let id = CompletionId::new("chatcmpl", served_by.model.as_str().to_owned());
    let mut response = json_response(&ChatCompletion::new(&id, answer, options));
    headers::add_served_by(&mut response, &served_by);
    Ok(response)
}
