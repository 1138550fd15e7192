//! Tasks, their quality measurements, and the router in the admin API.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use flotilla_core::ModelRevision;
use flotilla_core::quality::{Proportion, Scoring};
use flotilla_core::spec::{Router, RouterSpec, Task};
use flotilla_core::{Joules, ModelName, RouterName, TaskName};
use flotilla_dispatch::{LatestClassifier, QualityRecord, TaskView};
use flotilla_gateway::{ApiError, ApiPath, ApiQuery, read_json};
use flotilla_telemetry::clock::unix_seconds;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::errors::{not_found, not_in_view};
use super::resources::{MAX_RESOURCE, ResourceList, read_resource};
use super::state::AdminState;
use super::watch::{self, WatchQuery};
use crate::fleet::FleetView;

/// A task in the form of its YAML, with its status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResource {
    /// The task as it was applied.
    #[serde(flatten)]
    pub task: Task,
    /// Its state in the fleet.
    pub status: TaskStatus,
}

/// State of a task in the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// When the task was first applied, in seconds since 1970.
    pub created: u64,
    /// Whether requests go to this task when the classifier abstains.
    pub default: bool,
    /// Whether this controller's classifier is trained on the tasks as they are now.
    pub trained: bool,
    /// Number of examples that the classifier is trained with.
    pub examples: usize,
    /// The task's models, in order of preference.
    pub models: Vec<TaskModel>,
}

/// A model of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskModel {
    /// Name of the model.
    pub name: ModelName,
    /// Whether the fleet has a model with this name.
    pub exists: bool,
    /// Replicas of the model that take requests.
    pub ready: usize,
    /// The revision that the replicas serve.
    pub revision: String,
    /// How well the model was measured to do the task. `None` when it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// How well a model was measured to do a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// The revision of the model that was measured.
    pub revision: String,
    /// Quantization of the weights while it was measured. `None`: as in the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// How answers were scored.
    pub scoring: Scoring,
    /// The proportion of correct answers.
    #[serde(flatten)]
    pub measured: Proportion,
    /// Median time to the end of an answer, in milliseconds.
    pub median_ms: f64,
    /// Mean energy of an answer. `None` when no node reported any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// Whether the model still serves the measured revision. Routing ignores the measurement when
    /// it does not.
    #[serde(default)]
    pub current: bool,
}

impl Quality {
    fn new(record: &QualityRecord, served: ModelRevision) -> Self {
        Self {
            revision: record.revision.to_string(),
            quantization: record.quantization.clone(),
            scoring: record.scoring,
            measured: record.measured,
            median_ms: record.median_ms,
            joules: record.joules,
            current: record.revision == served,
        }
    }
}

/// A router in the form of its YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterResource {
    /// The router as it was applied.
    #[serde(flatten)]
    pub router: Router,
}

impl TaskResource {
    fn new(task: &TaskView, view: &FleetView, trained: bool) -> Self {
        let spec = &task.task.spec;
        let measurements = view.routing.quality.get(task.task.name());
        let models = spec.models.iter().map(|name| {
            let model = view.models.get(name);
            let served = model.map_or(ModelRevision::default(), |model| {
                model.endpoints.serving_revision()
            });
            let record = measurements.and_then(|measurements| measurements.get(name));
            TaskModel {
                name: name.clone(),
                exists: model.is_some(),
                ready: model.map_or(0, |model| model.endpoints.replicas().len()),
                revision: served.to_string(),
                quality: record.map(|record| Quality::new(record, served)),
            }
        });
        Self {
            task: task.task.clone(),
            status: TaskStatus {
                created: task.created,
                default: view.routing.default_task() == Some(task.task.name()),
                trained,
                examples: spec.examples.len(),
                models: models.collect(),
            },
        }
    }
}

/// Whether the classifier is trained on the tasks of the view.
fn is_trained(classifier: &LatestClassifier, view: &FleetView) -> bool {
    let classifier = classifier.borrow();
    classifier
        .as_ref()
        .is_some_and(|classifier| classifier.is_current(&view.routing))
}

/// The router. `None` when none was applied.
fn router(view: &FleetView) -> Option<RouterResource> {
    let spec: RouterSpec = view.routing.router.clone()?;
    let router = Router::new(spec);
    Some(RouterResource { router })
}

/// `GET /api/v1/tasks`.
pub(super) async fn list(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    let classifier = state.classifier.clone();
    watch::reply(state, &query, move |view| {
        let trained = is_trained(&classifier, view);
        let tasks = view.routing.tasks.values();
        ResourceList::new(
            view,
            tasks.map(|task| TaskResource::new(task, view, trained)),
        )
    })
    .await
}

/// `GET /api/v1/tasks/{name}`.
pub(super) async fn get(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<TaskResource>, ApiError> {
    let view = state.fleet.view();
    let task = view.routing.tasks.get(name.as_str());
    let trained = is_trained(&state.classifier, &view);
    task.map(|task| Json(TaskResource::new(task, &view, trained)))
        .ok_or_else(|| not_in_view(&view, "task", &name))
}

/// `PUT /api/v1/tasks/{name}`.
pub(super) async fn put(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let (resource, document) = read_resource("Task", &name, body).await?;
    state.apply(&resource, &document).await
}

/// `PUT /api/v1/tasks/{name}/quality/{model}`: records how well a model was measured to do a task.
/// Replies 409 when the model no longer serves the measured revision.
pub(super) async fn put_quality(
    State(state): State<AdminState>,
    ApiPath((task, model)): ApiPath<(String, String)>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let quality: Quality = read_json(body, MAX_RESOURCE).await?;
    let view = state.fleet.view();
    let (Some(task_view), Some(model_view)) = (
        view.routing.tasks.get(task.as_str()),
        view.models.get(model.as_str()),
    ) else {
        return Err(not_in_view(
            &view,
            "pair of task and model",
            &format!("{task}/{model}"),
        ));
    };
    let served = model_view.endpoints.serving_revision();
    let is_only_revision = model_view
        .endpoints
        .served_revisions()
        .iter()
        .all(|other| *other == served);
    if quality.revision != served.to_string() || !is_only_revision {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("revision_changed"),
            format!(
                "The model '{model}' serves the revision {}{}, but {} was measured: measure it again.",
                served,
                if is_only_revision { "" } else { " and others" },
                quality.revision
            ),
        ));
    }
    if quality.measured.total == 0 || quality.measured.correct > quality.measured.total {
        let problem = "'total' must be at least 1, and 'correct' at most 'total'.";
        return Err(ApiError::invalid(Some("total".into()), problem));
    }
    let record = QualityRecord {
        revision: served,
        quantization: model_view.endpoints.model.spec.options.quantization.clone(),
        scoring: quality.scoring,
        measured: quality.measured,
        median_ms: quality.median_ms,
        joules: quality.joules,
        at: unix_seconds(),
    };
    let (task, model) = (task_view.task.name(), model_view.endpoints.model.name());
    let written = state.desired.record_quality(task, model, &record).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/tasks/{name}`.
pub(super) async fn delete(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let task = TaskName::new(&name).map_err(|_| not_found("task", &name))?;
    let deleted = state.desired.delete_task(&task).await;
    state.finish_deletion("task", &name, deleted).await
}

/// `GET /api/v1/routers`: one router or none.
pub(super) async fn list_routers(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    watch::reply(state, &query, |view| {
        ResourceList::new(view, router(view).into_iter())
    })
    .await
}

/// `GET /api/v1/routers/{name}`.
pub(super) async fn get_router(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<RouterResource>, ApiError> {
    let view = state.fleet.view();
    let router = router(&view).filter(|_| name == RouterName.as_str());
    router
        .map(Json)
        .ok_or_else(|| not_in_view(&view, "router", &name))
}

/// `PUT /api/v1/routers/{name}`.
pub(super) async fn put_router(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let (resource, document) = read_resource("Router", &name, body).await?;
    state.apply(&resource, &document).await
}

/// `DELETE /api/v1/routers/{name}`.
pub(super) async fn delete_router(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    if name != RouterName.as_str() {
        return Err(not_found("router", &name));
    }
    let deleted = state.desired.delete_router().await;
    state.finish_deletion("router", &name, deleted).await
}
