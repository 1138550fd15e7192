//! Progress of the start: which nodes have joined and which models are ready.

use std::io::IsTerminal;
use std::time::Duration;

use flotilla_controller::fleet::{FleetHandle, FleetView, NodePhase};
use flotilla_core::StoreRevision;
use indicatif::{ProgressBar, ProgressStyle};

/// Maximum time to wait for the nodes, and then for the models, before the summary is printed.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the numbers of ready and of desired replicas.
pub(super) fn count_replicas(view: &FleetView) -> (u64, u64) {
    let ready = view
        .models
        .values()
        .map(|model| model.endpoints.replicas().len() as u64)
        .sum();
    let desired = view
        .models
        .values()
        .map(|model| {
            u64::from(model.endpoints.model.spec.replicas.min).min(view.nodes.len() as u64)
        })
        .sum();
    (ready, desired)
}

/// A line on the terminal with the progress of the start.
pub(super) struct Progress<'a> {
    fleet: &'a FleetHandle,
    /// Number of nodes that should join.
    nodes: u32,
    bar: ProgressBar,
}

impl<'a> Progress<'a> {
    pub(super) fn new(fleet: &'a FleetHandle, nodes: u32) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            // The constant template is valid.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { fleet, nodes, bar }
    }

    /// Removes the line.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Waits until the fleet's view contains the store's changes up to `revision`, at most for [`START_TIMEOUT`].
    pub(super) async fn wait_for_revision(&self, revision: StoreRevision) {
        let wait = self.fleet.wait_for_revision(revision);
        let _: Result<(), _> = tokio::time::timeout(START_TIMEOUT, wait).await;
    }

    /// Waits until `is_settled` accepts the fleet and the number of nodes, at most for
    /// [`START_TIMEOUT`].
    pub(super) async fn wait_until(&self, is_settled: fn(&FleetView, u32) -> bool) {
        let mut changes = self.fleet.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let view = self.fleet.view();
                let (ready, desired) = count_replicas(&view);
                self.bar.set_message(format!(
                    "nodes {}/{}, replicas ready {ready}/{desired}",
                    count_ready_nodes(&view),
                    self.nodes
                ));
                if is_settled(&view, self.nodes) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _: Result<(), _> = tokio::time::timeout(START_TIMEOUT, wait).await;
    }
}

fn count_ready_nodes(view: &FleetView) -> u32 {
    let ready = view
        .nodes
        .values()
        .filter(|node| node.phase == NodePhase::Ready);
    ready.count() as u32
}

pub(super) fn all_nodes_ready(view: &FleetView, nodes: u32) -> bool {
    view.synced && count_ready_nodes(view) >= nodes
}

/// Returns whether every model has its desired replicas or a failure.
pub(super) fn all_models_settled(view: &FleetView, nodes: u32) -> bool {
    view.models.values().all(|model| {
        let desired = model.endpoints.model.spec.replicas.min.min(nodes) as usize;
        model.endpoints.replicas().len() >= desired || !model.failures.is_empty()
    })
}
