//! The last report of a node.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use flotilla_core::energy::NodePressure;
use flotilla_core::{ModelName, StateVersion};
use flotilla_proto::v1::{ModelStatus, NodeDisk, NodeEnergy};

/// What a node reports: values that were checked, so that they can be added and written as JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReportedStatus {
    /// The status of every model on the node.
    pub models: Vec<ModelStatus>,
    /// The node's energy status. `None` if it has not changed since the last report.
    pub energy: Option<NodeEnergy>,
    /// The version of the desired state that the node follows.
    pub followed: StateVersion,
    /// The disk space that files of models take. `None`: not known.
    pub disk: Option<NodeDisk>,
    /// Whether the agent stops: it finishes its requests and accepts no others.
    pub stopping: bool,
}

/// The last report of a node, with what is derived from it and the reports before.
#[derive(Debug, Default)]
pub struct NodeReport {
    /// The status of every model on the node.
    pub models: Vec<ModelStatus>,
    /// When the node's replicas were last in use, by model.
    pub uses: HashMap<ModelName, LastUse>,
    /// The node's energy status. `None`: not reported yet.
    pub energy: Option<NodeEnergy>,
    /// The version of the desired state that the node follows.
    pub followed: StateVersion,
    /// The disk space that files of models take. `None`: not reported.
    pub disk: Option<NodeDisk>,
    /// Whether the agent stops: it finishes its requests and accepts no others.
    pub stopping: bool,
}

/// When a replica was last in use.
#[derive(Debug, Clone, Copy)]
pub struct LastUse {
    /// The number of requests that the replica had started.
    pub requests: u64,
    /// Whether the replica had requests at the last report.
    pub busy: bool,
    /// When the replica last had requests, or was first reported.
    pub last_used: Instant,
}

impl LastUse {
    /// Updates the last use with the counters of a new report. `before` is the value of the
    /// report before, if there was one.
    pub(super) fn update(before: Option<&Self>, requests: u64, busy: bool, now: Instant) -> Self {
        let unused = before.filter(|before| !busy && before.requests == requests);
        Self {
            requests,
            busy,
            last_used: unused.map_or(now, |before| before.last_used),
        }
    }
}

impl NodeReport {
    /// Returns the status of a model, if it is on the node.
    #[must_use]
    pub fn model(&self, name: &ModelName) -> Option<&ModelStatus> {
        self.models
            .iter()
            .find(|status| status.name == name.as_str())
    }

    /// Returns the power and thermal pressure of the node.
    #[must_use]
    pub fn pressure(&self) -> NodePressure {
        let Some(energy) = &self.energy else {
            return NodePressure::default();
        };
        let battery = energy.battery.filter(|battery| battery.discharging);
        NodePressure {
            battery: battery.map(|battery| battery.charge),
            throttled: !energy.throttle_reason.is_empty(),
        }
    }

    /// Returns how long the node's replica of a model has been idle. `None` while it is busy.
    #[must_use]
    pub fn idle_time(&self, model: &ModelName, now: Instant) -> Option<Duration> {
        match self.uses.get(model) {
            Some(used) if used.busy => None,
            Some(used) => Some(now.saturating_duration_since(used.last_used)),
            None => Some(Duration::ZERO),
        }
    }
}
