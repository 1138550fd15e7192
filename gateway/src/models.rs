//! `GET /v1/models` and `GET /v1/models/{name}`.

use axum::response::Response;
use flotilla_core::access::AccessScope;
use flotilla_core::generate::{RequestError, RouteTarget};
use schemars::JsonSchema;
use serde::Serialize;

use crate::backend::ModelCard;
use crate::json_response::json_response;
use crate::{ApiError, Backend};

#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelJson>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelJson {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl From<&ModelCard> for ModelJson {
    fn from(card: &ModelCard) -> Self {
        Self {
            id: card.target.to_string(),
            object: "model",
            created: card.created,
            owned_by: "flotilla",
        }
    }
}

/// Returns all models that `access` allows, and with `list_tasks` the tasks and `auto` too, so that a client that lets its user
/// choose a model can offer them.
///
/// # Errors
/// [`RequestError::NotReady`] while the backend does not know what there is.
pub(crate) fn list(
    backend: &impl Backend,
    access: &AccessScope,
    list_tasks: bool,
) -> Result<Response, ApiError> {
    check_ready(backend)?;
    let cards = backend.models(access);
    let is_listed = |card: &&ModelCard| list_tasks || matches!(card.target, RouteTarget::Model(_));
    Ok(json_response(&ModelList {
        object: "list",
        data: cards.iter().filter(is_listed).map(Into::into).collect(),
    }))
}

/// Fails while the backend does not know which models and tasks there are.
fn check_ready(backend: &impl Backend) -> Result<(), ApiError> {
    let readiness = backend.readiness();
    if readiness.ready {
        return Ok(());
    }
    let notes = readiness.notes.join("; ");
    Err(RequestError::NotReady(format!("The models are not known yet: {notes}.")).into())
}

/// Returns the model called `name`, the task of `task:NAME`, or `auto`, as far as `access` allows it.
///
/// # Errors
/// [`RequestError::ModelNotFound`], [`RequestError::TaskNotFound`], and those of [`list`].
pub(crate) fn get(
    backend: &impl Backend,
    access: &AccessScope,
    name: &str,
) -> Result<Response, ApiError> {
    let target = RouteTarget::parse(name)?;
    check_ready(backend)?;
    match backend.model(&target, access) {
        Some(card) => Ok(json_response(&ModelJson::from(&card))),
        None => Err(match target {
            RouteTarget::Task(task) => RequestError::TaskNotFound(task.to_string()),
            target => RequestError::ModelNotFound(target.to_string()),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{BackendAnswer, BackendError, EventStream, Readiness};
    use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, Route};
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    #[derive(Clone)]
    struct ListBackend;

    impl Backend for ListBackend {
        async fn generate(
            &self,
            _request: GenerateRequest<Route>,
        ) -> Result<BackendAnswer<EventStream>, BackendError> {
            Err(RequestError::NodeLost(String::new()).into())
        }

        async fn embed(
            &self,
            _request: EmbedRequest<Route>,
        ) -> Result<BackendAnswer<Embeddings>, BackendError> {
            Err(RequestError::NodeLost(String::new()).into())
        }

        fn models(&self, _access: &AccessScope) -> Vec<ModelCard> {
            let card = |name| ModelCard {
                target: RouteTarget::parse(name).unwrap(),
                created: 5,
            };
            ["m", "auto", "task:t"].map(card).into()
        }

        fn model(&self, target: &RouteTarget, access: &AccessScope) -> Option<ModelCard> {
            let cards = self.models(access);
            cards.into_iter().find(|card| card.target == *target)
        }

        fn answer_timeout(&self) -> Duration {
            Duration::from_secs(60)
        }

        fn readiness(&self) -> Readiness {
            Readiness {
                ready: true,
                notes: Vec::new(),
            }
        }
    }

    async fn body(response: Response) -> Value {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn tasks_are_listed_unless_turned_off() {
        let ids = async |list_tasks| {
            let list = body(list(&ListBackend, &AccessScope::default(), list_tasks).unwrap()).await;
            let models = list["data"].as_array().unwrap().clone();
            models.iter().map(|m| m["id"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids(true).await, ["m", "auto", "task:t"]);
        assert_eq!(ids(false).await, ["m"]);
    }

    #[tokio::test]
    async fn model_task_and_auto_are_found_by_name() {
        for name in ["m", "auto", "task:t"] {
            let model = body(get(&ListBackend, &AccessScope::default(), name).unwrap()).await;
            let expected =
                json!({"id": name, "object": "model", "created": 5, "owned_by": "flotilla"});
            assert_eq!(model, expected);
        }
        for (name, code) in [
            ("x", "model_not_found"),
            ("task:x", "task_not_found"),
            ("No/Name", "model_not_found"),
            ("task:No/Name", "task_not_found"),
        ] {
            let error = get(&ListBackend, &AccessScope::default(), name)
                .unwrap_err()
                .json();
            let error: Value = serde_json::from_slice(&error).unwrap();
            assert_eq!(error["error"]["code"], code, "{name}");
        }
    }
}
