//! `/v1/chat/completions`.

mod request;
mod response;
mod stream;

use flotilla_core::generate::{GenerateRequest, RequestError, Route};

use crate::ApiError;
use crate::backend::BackendAnswer;
use crate::clock::unix_seconds;
use crate::{Backend, sse};
use axum::response::{IntoResponse, Response};

pub(crate) use request::{ChatBody, MessageField, StreamOptions, check_messages};
pub(crate) use response::{CollectedAnswer, collect, finite, json_response};
pub(crate) use stream::chunk_head;

/// What identifies one completion in all its pieces.
pub(crate) struct CompletionId {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl CompletionId {
    /// A new one; `prefix` tells the kind of completion.
    pub(crate) fn new(prefix: &str, model: String) -> Self {
        Self {
            id: format!(
                "{prefix}-{:016x}{:08x}",
                fastrand::u64(..),
                fastrand::u32(..)
            ),
            created: unix_seconds(),
            model,
        }
    }
}

/// Answers a chat request.
pub(crate) async fn answer(
    backend: &impl Backend,
    request: GenerateRequest<Route>,
    include_usage: bool,
) -> Result<Response, ApiError> {
    let stream = request.stream;
    let logprobs = request.logprobs.is_some();
    let answer = backend.generate(request).await;
    let BackendAnswer {
        served_by: by,
        content,
    } = answer.map_err(ApiError::prompt_in("messages"))?;
    let identity = CompletionId::new("chatcmpl", by.model.as_str().to_owned());
    let mut response = if stream {
        let writer = stream::ChunkWriter::new(&identity, include_usage);
        sse::response(content, writer)
    } else {
        let completion = collect(content)
            .await
            .map_err(|error: RequestError| by.failed(error, "messages"))?;
        response::ChatCompletion::new(&identity, completion, logprobs).into_response()
    };
    crate::router::tag(&mut response, &by);
    Ok(response)
}
