//! `GET /v1/models` and `GET /v1/models/{name}`.

use axum::response::Response;
use flotilla_core::generate::RequestError;
use serde::Serialize;

use crate::backend::ModelCard;
use crate::json_response::json_response;
use crate::{ApiError, Backend};

#[derive(Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelJson>,
}

#[derive(Serialize)]
struct ModelJson {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl From<ModelCard> for ModelJson {
    fn from(card: ModelCard) -> Self {
        Self {
            id: card.name.into(),
            object: "model",
            created: card.created,
            owned_by: "flotilla",
        }
    }
}

/// Returns all models.
pub(crate) fn list(backend: &impl Backend) -> Response {
    json_response(&ModelList {
        object: "list",
        data: backend.models().into_iter().map(Into::into).collect(),
    })
}

/// Returns the model called `name`.
///
/// # Errors
/// [`RequestError::ModelNotFound`].
pub(crate) fn get(backend: &impl Backend, name: &str) -> Result<Response, ApiError> {
    let card = backend
        .model(name)
        .ok_or_else(|| RequestError::ModelNotFound(name.to_owned()))?;
    Ok(json_response(&ModelJson::from(card)))
}
