//! What requests are routed by: the tasks and the router, as they are wished for.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::TaskName;
use flotilla_core::routing::Examples;
use flotilla_core::spec::{RouterSpec, Task};

/// The tasks and the router.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    pub tasks: BTreeMap<TaskName, Arc<TaskView>>,
    /// The router that was applied, if one was.
    pub router: Option<RouterSpec>,
}

/// A task that is wished for.
#[derive(Debug)]
pub struct TaskView {
    pub task: Task,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
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

    /// The task that does what none is known to do.
    #[must_use]
    pub fn default_task(&self) -> Option<&TaskName> {
        self.router.as_ref()?.default_task.as_ref()
    }
}
