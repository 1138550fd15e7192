//! Tasks and the router in the API.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use flotilla_core::spec::{Router, RouterSpec, Task};
use flotilla_core::{ModelName, RouterName, TaskName};
use flotilla_gateway::ApiError;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::watch::{self, Watch};
use super::{Admin, List, unknown};
use crate::fleet::{FleetView, TaskView};
use crate::trainer::Newest;

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
        let models = spec.models.iter().map(|name| {
            let model = view.by_name.get(name);
            ModelOfTask {
                name: name.clone(),
                known: model.is_some(),
                ready: model.map_or(0, |model| model.replicas.len()),
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

fn has_learnt(newest: &Newest, view: &FleetView) -> bool {
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

pub(super) async fn list(State(admin): State<Admin>, Query(watch): Query<Watch>) -> Response {
    let newest = admin.newest;
    watch::answer(admin.fleet, &watch, move |view| {
        let learnt = has_learnt(&newest, view);
        let tasks = view.routing.tasks.values();
        List::new(
            view,
            tasks.map(|task| TaskResource::new(task, view, learnt)),
        )
    })
}

pub(super) async fn get(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<TaskResource>, ApiError> {
    let view = admin.fleet.view();
    let task = view.routing.tasks.get(name.as_str());
    let learnt = has_learnt(&admin.newest, &view);
    task.map(|task| Json(TaskResource::new(task, &view, learnt)))
        .ok_or_else(|| unknown("task", &name))
}

pub(super) async fn put(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let resource = super::read_resource("Task", &name, body).await?;
    admin.apply(&resource).await
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let known = TaskName::new(&name).map_err(|_| unknown("task", &name))?;
    let deleted = admin.wish.delete_task(&known).await;
    admin.deleted("task", &name, deleted).await
}

pub(super) async fn list_routers(
    State(admin): State<Admin>,
    Query(watch): Query<Watch>,
) -> Response {
    watch::answer(admin.fleet, &watch, |view| {
        List::new(view, router_of(view).into_iter())
    })
}

pub(super) async fn get_router(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<RouterResource>, ApiError> {
    let router = router_of(&admin.fleet.view()).filter(|_| name == RouterName.as_str());
    router.map(Json).ok_or_else(|| unknown("router", &name))
}

pub(super) async fn put_router(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let resource = super::read_resource("Router", &name, body).await?;
    admin.apply(&resource).await
}

pub(super) async fn delete_router(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    if name != RouterName.as_str() {
        return Err(unknown("router", &name));
    }
    let deleted = admin.wish.delete_router().await;
    admin.deleted("router", &name, deleted).await
}
