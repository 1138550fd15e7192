//! What requests are routed by: the tasks and the router, as they are wished for.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::ModelRevision;
use flotilla_core::energy::Grid;
use flotilla_core::routing::TrainingSet;
use flotilla_core::spec::{RouterSpec, Task};
use flotilla_core::{ModelName, TaskName};

use super::QualityRecord;

/// The tasks and the router.
#[derive(Debug, Clone, Default)]
pub struct RoutingView {
    pub tasks: BTreeMap<TaskName, Arc<TaskView>>,
    /// The router that was applied, if one was.
    pub router: Option<RouterSpec>,
    /// What energy costs, as the router says.
    pub grid: Arc<Grid>,
    /// How well models were measured to do the tasks.
    pub quality: BTreeMap<TaskName, BTreeMap<ModelName, QualityRecord>>,
}

/// A task that is wished for.
#[derive(Debug)]
pub struct TaskView {
    pub task: Task,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// What an answer of a cascade's smaller models must match to be kept.
    pub schema: Option<jsonschema::Validator>,
}

impl TaskView {
    /// A task that the fleet learned of when it was `created`.
    ///
    /// # Errors
    /// When the schema of its cascade is none.
    pub fn new(task: Task, created: u64) -> Result<Self, String> {
        let cascade = task.spec.cascade.as_ref();
        let schema = cascade.and_then(|cascade| cascade.schema.clone());
        let schema = schema
            .map(|schema| jsonschema::validator_for(&serde_json::Value::Object(schema)))
            .transpose()
            .map_err(|error| format!("spec.cascade.schema is no JSON schema: {error}"))?;
        Ok(Self {
            task,
            created,
            schema,
        })
    }
}

/// How well a revision of a model does a task, if it was measured.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredQuality(Option<(ModelRevision, f32)>);

impl MeasuredQuality {
    /// The quality of what serves `revision`, 0 to 1.
    #[must_use]
    pub fn of(self, revision: ModelRevision) -> Option<f32> {
        let (measured, quality) = self.0?;
        (measured == revision).then_some(quality)
    }
}

impl RoutingView {
    /// This is the router from here on. Returns whether there was one.
    pub(super) fn set_router(&mut self, router: Option<RouterSpec>) -> bool {
        let grid = router.as_ref().map(|router| Grid::new(&router.grid));
        self.grid = Arc::new(grid.unwrap_or_default());
        std::mem::replace(&mut self.router, router).is_some()
    }

    /// What there is to learn from.
    #[must_use]
    pub fn examples(&self) -> TrainingSet {
        let of_tasks = self.tasks.iter();
        let router = self.router.as_ref();
        TrainingSet {
            tasks: of_tasks
                .map(|(name, view)| (name.clone(), view.task.spec.examples.clone()))
                .collect(),
            none: router.map(|r| r.examples.clone()).unwrap_or_default(),
        }
    }

    /// How well a model was measured to do a task.
    #[must_use]
    pub fn measured(&self, task: Option<&TaskName>, model: &ModelName) -> MeasuredQuality {
        let record = task.and_then(|task| self.quality.get(task)?.get(model));
        MeasuredQuality(record.map(|record| (record.revision, record.measured.rate() as f32)))
    }

    /// The task that does what none is known to do.
    #[must_use]
    pub fn default_task(&self) -> Option<&TaskName> {
        self.router.as_ref()?.default_task.as_ref()
    }
}
