//! The tasks, the router and the measured quality of models, as requests are routed by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::energy::Grid;
use flotilla_core::quality::{Proportion, Scoring};
use flotilla_core::routing::{TaskExamples, TrainingSet};
use flotilla_core::spec::{RouterSpec, Task};
use flotilla_core::{Joules, ModelName, ModelRevision, TaskName};
use serde::{Deserialize, Serialize};

/// The tasks, the router and the measured quality of models.
#[derive(Debug, Clone, Default)]
pub struct RoutingView {
    /// The tasks by name.
    pub tasks: BTreeMap<TaskName, Arc<TaskView>>,
    /// The router's spec, if one was applied. Set with [`RoutingView::set_router`].
    pub router: Option<RouterSpec>,
    /// The cost of energy, from the router's spec.
    pub grid: Arc<Grid>,
    /// The measured quality of models, by task and model.
    pub quality: BTreeMap<TaskName, BTreeMap<ModelName, QualityRecord>>,
}

/// A task in its desired state.
#[derive(Debug)]
pub struct TaskView {
    /// The task's desired state.
    pub task: Task,
    /// When the fleet learned of the task, in seconds since 1970.
    pub created: u64,
    /// The compiled JSON schema of the task's cascade, which answers of smaller models must match.
    pub schema: Option<jsonschema::Validator>,
}

impl TaskView {
    /// Compiles a task that the fleet learned of at `created`, in seconds since 1970.
    ///
    /// # Errors
    /// When the schema of its cascade is not a JSON schema.
    pub fn new(task: Task, created: u64) -> Result<Self, String> {
        let cascade = task.spec.cascade.as_ref();
        let schema = cascade.and_then(|cascade| cascade.schema.clone());
        let schema = schema
            .map(|schema| jsonschema::validator_for(&serde_json::Value::Object(schema)))
            .transpose()
            .map_err(|error| format!("spec.cascade.schema is not a JSON schema: {error}"))?;
        Ok(Self {
            task,
            created,
            schema,
        })
    }
}

/// The measured quality of a model for a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QualityRecord {
    /// The revision that was measured. The record says nothing about other revisions.
    pub revision: ModelRevision,
    /// The quantisation of the weights when they were loaded, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// When an answer counted as right.
    pub scoring: Scoring,
    /// The right answers out of all.
    #[serde(flatten)]
    pub measured: Proportion,
    /// The median time to the end of an answer, in milliseconds.
    pub median_ms: f64,
    /// The mean energy of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// When the quality was measured, in seconds since 1970.
    pub at: u64,
}

/// The measured quality of one revision of a model, if it was measured.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredQuality(Option<(ModelRevision, f32)>);

impl MeasuredQuality {
    /// Returns the quality of a replica that serves `revision`, from 0 to 1.
    #[must_use]
    pub fn for_revision(self, revision: ModelRevision) -> Option<f32> {
        let (measured, quality) = self.0?;
        (measured == revision).then_some(quality)
    }
}

impl RoutingView {
    /// Replaces the router. Returns whether there was one before.
    pub fn set_router(&mut self, router: Option<RouterSpec>) -> bool {
        let grid = router.as_ref().map(|router| Grid::new(&router.grid));
        self.grid = Arc::new(grid.unwrap_or_default());
        std::mem::replace(&mut self.router, router).is_some()
    }

    /// Returns the examples that the classifier is trained on.
    #[must_use]
    pub fn examples(&self) -> TrainingSet {
        let tasks = self.tasks.values();
        let router = self.router.as_ref();
        TrainingSet {
            tasks: tasks.map(|view| TaskExamples::of(&view.task)).collect(),
            out_of_scope: router.map(|r| r.examples.clone()).unwrap_or_default(),
        }
    }

    /// Returns the measured quality of a model for a task.
    #[must_use]
    pub fn measured(&self, task: Option<&TaskName>, model: &ModelName) -> MeasuredQuality {
        let record = task.and_then(|task| self.quality.get(task)?.get(model));
        MeasuredQuality(record.map(|record| (record.revision, record.measured.rate() as f32)))
    }

    /// Returns the task of requests that fit no other task.
    #[must_use]
    pub fn default_task(&self) -> Option<&TaskName> {
        self.router.as_ref()?.default_task.as_ref()
    }
}
