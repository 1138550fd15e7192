//! Embedding requests and their answers.

use flotilla_core::generate;

use super::energy::{energy_message, parse_energy};
use super::queue_key::{parse_queue_key, queue_key_message};
use super::{ConvertError, model_name};
use crate::v1;

impl From<&generate::EmbedRequest> for v1::EmbedRequest {
    fn from(request: &generate::EmbedRequest) -> Self {
        Self {
            model: request.model.as_str().to_owned(),
            inputs: request.inputs.clone(),
            queue_key: Some(queue_key_message(request.queue_key, request.deadline)),
        }
    }
}

impl TryFrom<v1::EmbedRequest> for generate::EmbedRequest {
    type Error = ConvertError;

    fn try_from(request: v1::EmbedRequest) -> Result<Self, ConvertError> {
        let (queue_key, deadline) = parse_queue_key(request.queue_key);
        Ok(Self {
            model: model_name(&request.model)?,
            inputs: request.inputs,
            queue_key,
            deadline,
        })
    }
}

impl From<generate::Embeddings> for v1::EmbedResponse {
    fn from(embeddings: generate::Embeddings) -> Self {
        let vector = |values| v1::Vector { values };
        Self {
            vectors: embeddings.vectors.into_iter().map(vector).collect(),
            prompt_tokens: embeddings.prompt_tokens,
            energy: embeddings.energy.map(energy_message),
        }
    }
}

impl From<v1::EmbedResponse> for generate::Embeddings {
    fn from(response: v1::EmbedResponse) -> Self {
        Self {
            vectors: response.vectors.into_iter().map(|v| v.values).collect(),
            prompt_tokens: response.prompt_tokens,
            energy: response.energy.and_then(parse_energy),
        }
    }
}
