//! `POST /v1/completions`: continues a text without a chat template.

mod prompt_schedule;
mod request;
mod response;
mod several_prompts;

use axum::response::Response;

use crate::collected_answer::collect;
use crate::completion_id::CompletionId;
use crate::json_response::json_response;
use crate::{ApiError, Backend, headers, sse};

pub(crate) use request::{CompletionBody, CompletionRequest};

/// Answers a validated completion request.
pub(crate) async fn answer(
    backend: &impl Backend,
    request: CompletionRequest,
) -> Result<Response, ApiError> {
    let (stream, include_usage) = (request.stream(), request.include_usage);
    let echo = request.echo();
    let logprobs = request.logprobs();
    let (served_by, events) = several_prompts::generate(backend, request.generations)
        .await
        .map_err(ApiError::with_prompt_param("prompt"))?;
    let id = CompletionId::new("cmpl", served_by.model.as_str().to_owned());
    let mut response = if stream {
        sse::response(
            events,
            response::TextChunkWriter::new(&id, include_usage, echo),
        )
    } else {
        let answer = collect(events)
            .await
            .map_err(|error| served_by.error_response(error, "prompt"))?;
        json_response(&response::TextCompletion::new(&id, answer, &echo, logprobs))
    };
    headers::add_served_by(&mut response, &served_by);
    Ok(response)
}
