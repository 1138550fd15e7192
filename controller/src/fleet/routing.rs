//! What requests are routed by: the tasks and the router, as they are wished for.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::rollout::Revision;
use flotilla_core::routing::Examples;
use flotilla_core::spec::{RouterSpec, Task};
use flotilla_core::{ModelName, TaskName};

use super::QualityRecord;

/// The tasks and the router.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    pub tasks: BTreeMap<TaskName, Arc<TaskView>>,
    /// The router that was applied, if one was.
    pub router: Option<RouterSpec>,
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

impl Routing {
    /// What there is to learn from.
    #[must_use]
    pub fn examples(&self) -> Examples {
        let of_tasks = self.tasks.iter();
        let router = self.router.as_ref();
        Examples {
            tasks: of_tasks
                .map(|(name, view)| (name.clone(), view.task.spec.examples.clone()))
                .collect(),
            none: router.map(|r| r.examples.clone()).unwrap_or_default(),
        }
    }

    /// How well a model that serves `revision` was measured to do a task, 0 to 1.
    #[must_use]
    pub fn quality(&self, task: &TaskName, model: &ModelName, revision: Revision) -> Option<f32> {
        let record = self.quality.get(task)?.get(model)?;
        (record.revision == revision).then(|| record.measured.rate() as f32)
    }

    /// The task that does what none is known to do.
    #[must_use]
    pub fn default_task(&self) -> Option<&TaskName> {
        self.router.as_ref()?.default_task.as_ref()
    }
}
