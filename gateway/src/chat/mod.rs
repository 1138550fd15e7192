//! `/v1/chat/completions`.

mod request;
mod response;
mod stream;

use flotilla_core::generate::GenerateRequest;

use crate::ApiError;
use crate::backend::Answer;
use crate::clock::unix_seconds;
use crate::{Backend, sse};
use axum::response::{IntoResponse, Response};

pub(crate) use request::{ChatBody, StreamOptions, model_name};
pub(crate) use response::{Collected, UsageJson, collect, finite, json_response};
pub(crate) use stream::chunk_head;

/// What identifies one completion in all its pieces.
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Identity {
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
    request: GenerateRequest,
    include_usage: bool,
) -> Result<Response, ApiError> {
    let identity = Identity::new("chatcmpl", request.model.as_str().to_owned());
    let stream = request.stream;
    let logprobs = request.logprobs.is_some();
    let prompt = ApiError::prompt_in("messages");
    let Answer { by, content } = backend.generate(request).await.map_err(&prompt)?;
    let mut response = if stream {
        let writer = stream::ChunkWriter::new(&identity, include_usage);
        sse::response(content, writer)
    } else {
        let completion = collect(content).await.map_err(&prompt)?;
        response::ChatCompletion::new(&identity, completion, logprobs).into_response()
    };
    crate::router::tag(&mut response, &identity.model, &by);
    Ok(response)
}
