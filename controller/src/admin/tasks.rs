//! Tasks and the router in the API.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use flotilla_core::ModelRevision;
use flotilla_core::quality::{Proportion, Scoring};
use flotilla_core::spec::{Resource, Router, RouterSpec, Task};
use flotilla_core::{Joules, ModelName, RouterName, TaskName};
use flotilla_gateway::{ApiError, read_json};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::watch::{self, WatchQuery};
use super::{AdminState, MAX_RESOURCE, ResourceList, unknown};
use crate::decisions::unix_millis;
use crate::fleet::{FleetView, QualityRecord, TaskView};
use crate::trainer::LatestClassifier;

/// A task in the form of its YAML, with its status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResource {
    #[serde(flatten)]
    pub task: Task,
    pub status: TaskStatus,
}

/// How a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// Whether it does what the classifier abstains from.
    pub default: bool,
    /// Whether the classifier has learnt the tasks as they are now.
    pub learnt: bool,
    /// How many examples it is told from others by.
    pub examples: usize,
    /// Its models, in order of preference.
    pub models: Vec<ModelOfTask>,
}

/// A model that does a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelOfTask {
    pub name: ModelName,
    /// Whether the fleet has a model of this name.
    pub known: bool,
    /// Its replicas that take requests.
    pub ready: usize,
    /// The revision that they serve.
    pub revision: String,
    /// How well it was measured to do the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// How well a model was measured to do a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// The revision of the model that was measured.
    pub revision: String,
    /// How its weights were quantised when it was loaded, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    pub scoring: Scoring,
    #[serde(flatten)]
    pub measured: Proportion,
    /// Median time to the end of an answer, in milliseconds.
    pub median_ms: f64,
    /// Mean energy of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// Whether the model still is what was measured: only then routing goes by it.
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
    #[serde(flatten)]
    pub router: Router,
}

impl TaskResource {
    fn new(task: &TaskView, view: &FleetView, learnt: bool) -> Self {
        let spec = &task.task.spec;
        let of_task = view.routing.quality.get(task.task.name());
        let models = spec.models.iter().map(|name| {
            let model = view.by_name.get(name);
            let served = model.map_or(ModelRevision::default(), |model| model.serving());
            let record = of_task.and_then(|of_task| of_task.get(name));
            ModelOfTask {
                name: name.clone(),
                known: model.is_some(),
                ready: model.map_or(0, |model| model.replicas.len()),
                revision: served.to_string(),
                quality: record.map(|record| Quality::new(record, served)),
            }
        });
        Self {
            task: task.task.clone(),
            status: TaskStatus {
                created: task.created,
                default: view.routing.default_task() == Some(task.task.name()),
                learnt,
                examples: spec.examples.len(),
                models: models.collect(),
            },
        }
    }
}

fn has_learnt(newest: &LatestClassifier, view: &FleetView) -> bool {
    let newest = newest.borrow();
    newest
        .as_ref()
        .is_some_and(|newest| newest.knows(&view.routing))
}

fn router_of(view: &FleetView) -> Option<RouterResource> {
    let spec: RouterSpec = view.routing.router.clone()?;
    let router = Router::new(spec);
    Some(RouterResource { router })
}

pub(super) async fn list(
    State(admin): State<AdminState>,
    Query(watch): Query<WatchQuery>,
) -> Response {
    let newest = admin.newest;
    watch::answer(admin.fleet, &watch, move |view| {
        let learnt = has_learnt(&newest, view);
        let tasks = view.routing.tasks.values();
        ResourceList::new(
            view,
            tasks.map(|task| TaskResource::new(task, view, learnt)),
        )
    })
}

pub(super) async fn get(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<TaskResource>, ApiError> {
    let view = admin.fleet.view();
    let task = view.routing.tasks.get(name.as_str());
    let learnt = has_learnt(&admin.newest, &view);
    task.map(|task| Json(TaskResource::new(task, &view, learnt)))
        .ok_or_else(|| unknown("task", &name))
}

pub(super) async fn put(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let resource = super::read_resource("Task", &name, body).await?;
    if let Resource::Task(task) = &resource {
        // What its type cannot check.
        let checked = TaskView::new(task.clone(), 0);
        checked.map_err(|problem| ApiError::invalid(Some("spec".into()), problem))?;
    }
    admin.apply(&resource).await
}

/// Takes down how well a model was measured to do a task.
pub(super) async fn put_quality(
    State(admin): State<AdminState>,
    Path((task, model)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let quality: Quality = read_json(body, MAX_RESOURCE).await?;
    let view = admin.fleet.view();
    let (Some(of), Some(measured)) = (
        view.routing.tasks.get(task.as_str()),
        view.by_name.get(model.as_str()),
    ) else {
        return Err(unknown(
            "pair of task and model",
            &format!("{task}/{model}"),
        ));
    };
    let served = measured.serving();
    let alone = measured.served.iter().all(|other| *other == served);
    if quality.revision != served.to_string() || !alone {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("revision_changed"),
            format!(
                "The model '{model}' serves the revision {}{}, measured was {}: measure it again.",
                served.to_string(),
                if alone { "" } else { " and others" },
                quality.revision
            ),
        ));
    }
    if quality.measured.total == 0 || quality.measured.right > quality.measured.total {
        let problem = "'right' of 'total' must be a part of at least one.";
        return Err(ApiError::invalid(Some("total".into()), problem));
    }
    let record = QualityRecord {
        revision: served,
        quantization: measured.model.spec.options.quantization.clone(),
        scoring: quality.scoring,
        measured: quality.measured,
        median_ms: quality.median_ms,
        joules: quality.joules,
        at: unix_millis() / 1_000,
    };
    let (task, model) = (of.task.name(), measured.model.name());
    admin
        .see(admin.wish.note_quality(task, model, &record).await)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn delete(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let known = TaskName::new(&name).map_err(|_| unknown("task", &name))?;
    let deleted = admin.wish.delete_task(&known).await;
    admin.deleted("task", &name, deleted).await
}

pub(super) async fn list_routers(
    State(admin): State<AdminState>,
    Query(watch): Query<WatchQuery>,
) -> Response {
    watch::answer(admin.fleet, &watch, |view| {
        ResourceList::new(view, router_of(view).into_iter())
    })
}

pub(super) async fn get_router(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<RouterResource>, ApiError> {
    let router = router_of(&admin.fleet.view()).filter(|_| name == RouterName.as_str());
    router.map(Json).ok_or_else(|| unknown("router", &name))
}

pub(super) async fn put_router(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let resource = super::read_resource("Router", &name, body).await?;
    admin.apply(&resource).await
}

pub(super) async fn delete_router(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    if name != RouterName.as_str() {
        return Err(unknown("router", &name));
    }
    let deleted = admin.wish.delete_router().await;
    admin.deleted("router", &name, deleted).await
}
