//! `POST /v1/embeddings`.

use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flotilla_core::admission::QueueKey;
use flotilla_core::generate::{EmbedInput, EmbedRequest, RequestError, RouteTarget};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::BackendAnswer;
use crate::json_response::json_response;
use crate::prompt_inputs::{PromptInput, PromptInputs};
use crate::routing_fields::{RoutingFields, parse_route};
use crate::usage::EnergyJson;
use crate::{ApiError, Backend, Caller, headers};

/// Maximum number of texts per request, as in OpenAI's API.
const MAX_INPUTS: usize = 2_048;

/// The body of `/v1/embeddings`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct EmbeddingBody {
    model: String,
    input: PromptInputs,
    #[serde(default)]
    encoding_format: Option<String>,
    #[serde(default)]
    dimensions: Option<usize>,
    #[serde(default)]
    flotilla: Option<RoutingFields>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: EmbeddingUsage,
}

#[derive(Serialize, JsonSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: VectorJson,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum VectorJson {
    Floats(Vec<f32>),
    /// Little-endian 32-bit floats in base64, which OpenAI's clients request.
    Base64(String),
}

#[derive(Serialize, JsonSchema)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy: Option<EnergyJson>,
}

/// Answers an embedding request.
pub(crate) async fn answer(
    backend: &impl Backend,
    body: EmbeddingBody,
    caller: &Caller,
) -> Result<Response, ApiError> {
    let route = parse_route(&body.model, body.flotilla, caller)?;
    if !matches!(route.target, RouteTarget::Model(_)) {
        return Err(RequestError::invalid(
            "model",
            "Embeddings of different models cannot be compared: name the model instead of 'auto' or a task.",
        )
        .into());
    }
    let inputs = body.input.validate("input", MAX_INPUTS, &route.target)?;
    let base64 = match body.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(RequestError::invalid(
                "encoding_format",
                format!("'{other}' is not an encoding format: use 'float' or 'base64'."),
            )
            .into());
        }
    };
    let request = EmbedRequest {
        model: route,
        inputs: inputs
            .into_iter()
            .map(|input| match input {
                PromptInput::Text(text) => EmbedInput::Text(text),
                PromptInput::Tokens(tokens) => EmbedInput::Tokens(tokens),
            })
            .collect(),
        queue_key: QueueKey::default(),
        deadline: None,
    };
    let BackendAnswer { served_by, content } = backend
        .embed(request)
        .await
        .map_err(ApiError::with_prompt_param("input"))?;
    let data = content
        .vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let vector = truncate(vector, body.dimensions)?;
            Ok(Embedding {
                object: "embedding",
                index,
                embedding: if base64 {
                    VectorJson::Base64(encode_base64(&vector))
                } else {
                    VectorJson::Floats(vector)
                },
            })
        })
        .collect::<Result<_, RequestError>>()?;
    let mut response = json_response(&EmbeddingList {
        object: "list",
        data,
        model: served_by.model.as_str(),
        usage: EmbeddingUsage {
            prompt_tokens: content.prompt_tokens,
            total_tokens: content.prompt_tokens,
            energy: content.energy.map(Into::into),
        },
    });
    headers::add_served_by(&mut response, &served_by);
    Ok(response)
}

/// Keeps the first `dimensions` numbers and scales the vector to length 1, as OpenAI does for
/// models whose prefixes are embeddings too.
fn truncate(mut vector: Vec<f32>, dimensions: Option<usize>) -> Result<Vec<f32>, RequestError> {
    let Some(dimensions) = dimensions else {
        return Ok(vector);
    };
    if dimensions == 0 || dimensions > vector.len() {
        return Err(RequestError::invalid(
            "dimensions",
            format!(
                "'dimensions' must be between 1 and {}, the model's number of dimensions.",
                vector.len()
            ),
        ));
    }
    vector.truncate(dimensions);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    Ok(vector)
}

fn encode_base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_vector_is_little_endian() {
        assert_eq!(encode_base64(&[1.0]), "AACAPw==");
    }

    #[test]
    fn truncated_vector_has_length_one() {
        assert_eq!(truncate(vec![3.0, 4.0, 5.0], Some(2)).unwrap(), [0.6, 0.8]);
        assert!(truncate(vec![1.0], Some(2)).is_err());
        assert!(truncate(vec![1.0], Some(0)).is_err());
    }
}
