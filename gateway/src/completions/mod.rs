//! `POST /v1/completions`: continues a text without a chat template.

mod prompt_only;
mod prompt_schedule;
mod request;
mod response;
mod several_prompts;

use std::time::Duration;

use axum::response::Response;

use crate::collected_answer::collect;
use crate::completion_id::CompletionId;
use crate::json_response::json_response;
use crate::sse::StreamStart;
use crate::{ApiError, Backend, headers, sse};
use response::TextChunkWriter;
pub(crate) use response::TextCompletion;

pub(crate) use request::{CompletionBody, CompletionRequest};

/// Answers a validated completion request. `stream_keep_alive` is the longest silence of a stream.
pub(crate) async fn answer(
    backend: &impl Backend,
    request: CompletionRequest,
    stream_keep_alive: Duration,
) -> Result<Response, ApiError> {
    let (stream, include_usage) = (request.stream(), request.include_usage);
    let echo = request.echo();
    let (logprobs, choices) = (request.logprobs(), request.choices());
    let backend = backend.clone();
    let begin = async move {
        let answer = several_prompts::generate(&backend, request.generations).await;
        let (served_by, events) = answer.map_err(ApiError::with_prompt_param("prompt"))?;
        match request.prompt_only {
            true => Ok((served_by, prompt_only::without_answer(events))),
            false => Ok((served_by, events)),
        }
    };
    if stream {
        let new_writer =
            move |start: StreamStart<'_>| TextChunkWriter::new(&start, include_usage, echo);
        return sse::respond(begin, stream_keep_alive, new_writer).await;
    }
    let (served_by, events) = begin.await?;
    let answer = collect(events, choices)
        .await
        .map_err(|error| served_by.error_response(error, "prompt"))?;
    let id = CompletionId::new("cmpl", served_by.model.as_str().to_owned());
    let mut response = json_response(&TextCompletion::new(&id, answer, &echo, logprobs));
    headers::add_served_by(&mut response, &served_by);
    Ok(response)
}
