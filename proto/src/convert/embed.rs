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
            inputs: request.inputs.iter().map(input_message).collect(),
            queue_key: Some(queue_key_message(request.queue_key, request.deadline)),
            check_only: false,
        }
    }
}

impl TryFrom<v1::EmbedRequest> for generate::EmbedRequest {
    type Error = ConvertError;

    fn try_from(request: v1::EmbedRequest) -> Result<Self, ConvertError> {
        let (queue_key, deadline) = parse_queue_key(request.queue_key);
        Ok(Self {
            model: model_name(&request.model)?,
            inputs: request
                .inputs
                .into_iter()
                .map(parse_input)
                .collect::<Result<_, _>>()?,
            queue_key,
            deadline,
        })
    }
}

fn input_message(input: &generate::EmbedInput) -> v1::EmbedInput {
    use v1::embed_input::Input;
    let input = match input {
        generate::EmbedInput::Text(text) => Input::Text(text.clone()),
        generate::EmbedInput::Tokens(ids) => Input::Tokens(v1::TokenIds { ids: ids.clone() }),
    };
    v1::EmbedInput { input: Some(input) }
}

fn parse_input(input: v1::EmbedInput) -> Result<generate::EmbedInput, ConvertError> {
    use v1::embed_input::Input;
    Ok(match input.input.ok_or(ConvertError::Missing("input"))? {
        Input::Text(text) => generate::EmbedInput::Text(text),
        Input::Tokens(tokens) => generate::EmbedInput::Tokens(tokens.ids),
    })
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
