//! `POST /v1/chat/completions`.

mod fields;
mod response;
mod stream;
mod validate;

use axum::response::Response;
use flotilla_core::generate::{GenerateRequest, Route};

use crate::backend::BackendAnswer;
use crate::collected_answer::collect;
use crate::completion_id::CompletionId;
use crate::json_response::json_response;
use crate::{ApiError, Backend, headers, sse};

pub(crate) use fields::{ChatBody, MessageField};
pub(crate) use validate::validate_messages;

/// Answers a validated chat request. `include_usage` adds a usage chunk to a stream.
pub(crate) async fn answer(
    backend: &impl Backend,
    request: GenerateRequest<Route>,
    include_usage: bool,
) -> Result<Response, ApiError> {
    let stream = request.stream;
    let logprobs = request.logprobs.is_some();
    let answer = backend.generate(request).await;
    let BackendAnswer { served_by, content } =
        answer.map_err(ApiError::with_prompt_param("messages"))?;
    let id = CompletionId::new("chatcmpl", served_by.model.as_str().to_owned());
    let mut response = if stream {
        sse::response(content, stream::ChatChunkWriter::new(&id, include_usage))
    } else {
        let answer = collect(content)
            .await
            .map_err(|error| served_by.error_response(error, "messages"))?;
        json_response(&response::ChatCompletion::new(&id, answer, logprobs))
    };
    headers::add_served_by(&mut response, &served_by);
    Ok(response)
}
