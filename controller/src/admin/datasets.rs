//! The datasets of tasks: what all controllers have kept, merged.

use std::collections::BTreeMap;
use std::io;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use flotilla_core::TaskName;
use flotilla_core::dataset::{DatasetRecord, newest};
use flotilla_core::spec::LearnSource;
use flotilla_dispatch::{Dispatcher, LatestClassifier, RoutingView};
use flotilla_gateway::{ApiError, ApiPath, ApiQuery, ApiRoutes, Operation};
use flotilla_identity::keys::Action;
use http::{HeaderMap, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::not_found;
use super::example_suggestions::{SuggestionsQuery, suggest};
use super::off_thread::off_thread;
use super::other_controllers::{ControllerAnswers, OtherControllers, is_forwarded};
use super::router::JsonObject;
use crate::datasets::{DatasetCounts, DatasetFiles, DatasetHandle};

/// How many records the dataset of a task has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSummary {
    /// The task.
    pub task: TaskName,
    /// What the task learns from now. Empty: nothing more is kept, or the task was deleted.
    pub learns_from: Vec<LearnSource>,
    /// Records of requests that a larger model answered.
    pub escalations: usize,
    /// Records of requests with feedback.
    pub feedback: usize,
}

/// The reply to the deletion of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetDeletion {
    /// Number of records that were deleted.
    pub deleted: usize,
    /// The controllers that did not answer, and still have their records.
    pub notes: Vec<String>,
}

/// A list that is merged from what several controllers have.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MergedList<T> {
    pub(super) items: Vec<T>,
    /// What is missing, and why.
    pub(super) notes: Vec<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
struct RecordsQuery {
    /// Returns the records of all datasets that can be examples of the task, instead of its dataset.
    #[serde(default)]
    candidates: bool,
}

/// The parts of the controller that the handlers need.
#[derive(Clone)]
pub(crate) struct DatasetsState {
    pub(crate) datasets: DatasetHandle,
    pub(crate) others: OtherControllers,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) classifier: LatestClassifier,
}

/// The routes of datasets.
pub(crate) fn router(state: DatasetsState) -> ApiRoutes {
    let merged = |action, path, summary| {
        Operation::new(action, "get", path, summary)
            .returns::<JsonObject>(200)
            .errors(&[404, 503])
    };
    ApiRoutes::new()
        .route(
            merged(
                Action::Read,
                "/api/v1/datasets",
                "Counts the records of datasets",
            ),
            get(list),
        )
        .route(
            // It has what people have written.
            merged(
                Action::Operate,
                "/api/v1/datasets/{task}",
                "Returns the dataset of a task",
            )
            .query::<RecordsQuery>(),
            get(read),
        )
        .route(
            Operation::new(
                Action::Operate,
                "delete",
                "/api/v1/datasets/{task}",
                "Deletes the dataset of a task",
            )
            .returns::<JsonObject>(200)
            .errors(&[404, 503]),
            axum::routing::delete(delete),
        )
        .route(
            merged(
                Action::Operate,
                "/api/v1/tasks/{name}/suggestions",
                "Suggests examples of a task from what was kept",
            )
            .query::<SuggestionsQuery>(),
            get(suggest),
        )
        .with_state(state)
}

impl DatasetsState {
    /// The routing of the current view.
    fn routing(&self) -> std::sync::Arc<RoutingView> {
        self.others.fleet.view().routing.clone()
    }

    /// Does `work` on the files of this controller.
    ///
    /// # Errors
    /// 503 when the controller stops.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DatasetFiles) -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>, ApiError> {
        let stopping = || {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                Some("not_ready"),
                "The controller stops: send the request to another one.",
            )
        };
        self.datasets.run(work).await.ok_or_else(stopping)
    }

    /// Does `work` on the files of this controller, and sends the request to all others unless another has
    /// forwarded it. The answer of this controller is the first.
    ///
    /// # Errors
    /// 500 when neither the files can be read nor another controller answers.
    async fn collect<T: Send + for<'de> Deserialize<'de> + 'static>(
        &self,
        headers: &HeaderMap,
        method: Method,
        path: &str,
        work: impl FnOnce(&mut DatasetFiles) -> io::Result<T> + Send + 'static,
    ) -> Result<ControllerAnswers<T>, ApiError> {
        let own = self.run(work).await?;
        let mut collected = if is_forwarded(headers) {
            ControllerAnswers {
                answers: Vec::new(),
                notes: Vec::new(),
            }
        } else {
            self.others.send_to_all(method, path).await
        };
        match own {
            Ok(answer) => collected.answers.insert(0, answer),
            Err(error) if collected.answers.is_empty() => {
                tracing::error!(%error, "the datasets cannot be used");
                return Err(ApiError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "server_error",
                    Some("disk_failed"),
                    format!("The datasets of the controller cannot be used: {error}."),
                ));
            }
            Err(error) => collected.notes.push(format!(
                "the controller {} cannot use its datasets ({error}): what it has is missing here",
                self.others.id
            )),
        }
        Ok(collected)
    }
}

/// `GET /api/v1/datasets`: the datasets, and the tasks that learn but have none yet.
async fn list(
    State(state): State<DatasetsState>,
    headers: HeaderMap,
) -> Result<Json<MergedList<DatasetSummary>>, ApiError> {
    let routing = state.routing();
    let count_own = move |files: &mut DatasetFiles| {
        let mut items = Vec::new();
        let mut tasks = files.tasks()?;
        let learning = routing.tasks.iter();
        let learning = learning.filter(|(_, view)| view.task.spec.learn.is_some());
        tasks.extend(learning.map(|(name, _)| name.clone()));
        tasks.sort();
        tasks.dedup();
        for task in tasks {
            let counts = files.count(&task, keep(&routing, &task))?;
            items.push(summary(task, &routing, counts));
        }
        let notes = Vec::new();
        Ok(MergedList { items, notes })
    };
    let path = "/api/v1/datasets";
    let collected = state.collect(&headers, Method::GET, path, count_own);
    let ControllerAnswers { answers, notes } = collected.await?;
    let mut merged: BTreeMap<TaskName, DatasetSummary> = BTreeMap::new();
    for of_controller in answers.into_iter().flat_map(|list| list.items) {
        match merged.get_mut(&of_controller.task) {
            Some(sum) => {
                sum.escalations += of_controller.escalations;
                sum.feedback += of_controller.feedback;
            }
            None => drop(merged.insert(of_controller.task.clone(), of_controller)),
        }
    }
    let items = merged.into_values().collect();
    Ok(Json(MergedList { items, notes }))
}

fn summary(task: TaskName, routing: &RoutingView, counts: DatasetCounts) -> DatasetSummary {
    let view = routing.tasks.get(&task);
    let learn = view.and_then(|view| view.task.spec.learn.as_ref());
    let sources = [LearnSource::Escalations, LearnSource::Feedback].into_iter();
    DatasetSummary {
        learns_from: sources
            .filter(|source| learn.is_some_and(|learn| learn.learns_from(*source)))
            .collect(),
        task,
        escalations: counts.escalations,
        feedback: counts.feedback,
    }
}

/// The number of records that the dataset of a task keeps. `None`: the task does not learn, and its dataset
/// stays as it is.
fn keep(routing: &RoutingView, task: &TaskName) -> Option<usize> {
    let learn = routing.tasks.get(task)?.task.spec.learn.as_ref();
    learn.map(|learn| learn.keep as usize)
}

/// `GET /api/v1/datasets/{task}`.
async fn read(
    State(state): State<DatasetsState>,
    ApiPath(name): ApiPath<String>,
    ApiQuery(query): ApiQuery<RecordsQuery>,
    headers: HeaderMap,
) -> Result<Json<MergedList<DatasetRecord>>, ApiError> {
    let task = dataset_task(&name)?;
    let merged = merged_records(&state, &headers, &task, query.candidates).await?;
    let is_known = is_forwarded(&headers) || state.routing().tasks.contains_key(&task);
    if merged.items.is_empty() && merged.notes.is_empty() && !is_known {
        return Err(not_found("dataset of a task", &name));
    }
    Ok(Json(merged))
}

/// Returns the records that all controllers have of a task's dataset, or of all datasets those that can be
/// examples of the task.
pub(super) async fn merged_records(
    state: &DatasetsState,
    headers: &HeaderMap,
    task: &TaskName,
    candidates: bool,
) -> Result<MergedList<DatasetRecord>, ApiError> {
    let keep = keep(&state.routing(), task);
    let own = task.clone();
    let read_own = move |files: &mut DatasetFiles| {
        let items = if candidates {
            files.read_candidates(&own)?
        } else {
            files.read(&own, keep)?
        };
        let notes = Vec::new();
        Ok(MergedList { items, notes })
    };
    let path = format!("/api/v1/datasets/{task}?candidates={candidates}");
    let collected = state.collect(headers, Method::GET, &path, read_own);
    let ControllerAnswers { answers, notes } = collected.await?;
    let merge = move || {
        let all = answers.into_iter().flat_map(|list| list.items).collect();
        newest(all, usize::MAX)
    };
    let items = off_thread(merge).await?;
    Ok(MergedList { items, notes })
}

/// `DELETE /api/v1/datasets/{task}`: deletes what all controllers have of it, and what is held in memory.
async fn delete(
    State(state): State<DatasetsState>,
    ApiPath(name): ApiPath<String>,
    headers: HeaderMap,
) -> Result<Json<DatasetDeletion>, ApiError> {
    let task = dataset_task(&name)?;
    state.dispatcher.forget_prompts(&task);
    let own = task.clone();
    let delete_own = move |files: &mut DatasetFiles| {
        Ok(DatasetDeletion {
            deleted: files.delete(&own)?,
            notes: Vec::new(),
        })
    };
    let path = format!("/api/v1/datasets/{task}");
    let collected = state.collect(&headers, Method::DELETE, &path, delete_own);
    let ControllerAnswers { answers, notes } = collected.await?;
    Ok(Json(DatasetDeletion {
        deleted: answers.iter().map(|answer| answer.deleted).sum(),
        notes,
    }))
}

/// The task of a dataset, which may not exist any more.
fn dataset_task(name: &str) -> Result<TaskName, ApiError> {
    TaskName::new(name).map_err(|_| not_found("dataset of a task", name))
}
