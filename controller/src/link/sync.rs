//! The sync stream of one node.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::{ModelName, ModelRevision, StoreRevision};
use flotilla_proto::desired_state_parts::{self, SplitState};
use flotilla_proto::v1::{DesiredModel, DesiredState, StatusReport};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::peer::LinkPeer;
use super::report;
use super::sessions::OpenSessions;
use crate::fleet::{FleetEvent, FleetHandle, NodeLink};

/// Longest time until an agent has taken a part of its desired state, on the slowest line.
const PART_TIMEOUT: Duration = Duration::from_secs(300);

/// What a node's desired state depends on. Comparing it costs little, while the desired state itself
/// lists the files of all models.
#[derive(PartialEq)]
struct DesiredIdentity {
    fleet_id: String,
    epoch: u64,
    /// The revision of the last change to what the node should run, specs included.
    store_revision: StoreRevision,
    /// The assigned models with their revisions, and whether these are known.
    models: Vec<(ModelName, ModelRevision, bool)>,
    controllers: Vec<String>,
    stopping: bool,
}

/// Receives the reports of one node, and sends it its desired state.
pub(super) struct SyncSession {
    pub(super) fleet: FleetHandle,
    pub(super) sessions: Arc<OpenSessions>,
    /// Who the node is.
    pub(super) peer: LinkPeer,
    /// Ends the connection when it is cancelled.
    pub(super) cut: CancellationToken,
    pub(super) link: Arc<NodeLink>,
    pub(super) reports: Streaming<StatusReport>,
    pub(super) sender: tokio::sync::mpsc::Sender<Result<DesiredState, Status>>,
    /// Longest time between two reports: an agent that is alive reports its energy every few seconds.
    pub(super) report_timeout: Duration,
    /// Cancelled when the controller begins to stop.
    pub(super) drain: CancellationToken,
    /// Whether the log says already that the node reports wrong numbers.
    pub(super) has_warned: bool,
}

impl SyncSession {
    /// Runs until the stream or the session ends. `first` is the report that opened the stream.
    pub(super) async fn run(mut self, first: StatusReport) {
        self.link.synced.cancel();
        self.report(first).await;
        let mut changes = self.fleet.changes();
        let mut sent_state = None;
        let mut last_report = Instant::now();
        loop {
            changes.borrow_and_update();
            if !self.may_stay() {
                break;
            }
            let stopping = self.drain.is_cancelled();
            if let Some(identity) = self.desired_identity(stopping)
                && sent_state.as_ref() != Some(&identity)
            {
                if !self.send_desired(stopping).await {
                    break;
                }
                sent_state = Some(identity);
                // Reports were not read meanwhile.
                last_report = Instant::now();
            }
            tokio::select! {
                () = self.link.closed.cancelled() => break,
                () = self.drain.cancelled(), if !stopping => {}
                changed = changes.changed() => if changed.is_err() {
                    break;
                },
                report = self.reports.message() => match report {
                    Ok(Some(report)) => {
                        self.report(report).await;
                        last_report = Instant::now();
                    }
                    Ok(None) | Err(_) => break,
                },
                () = tokio::time::sleep_until(last_report + self.report_timeout) => {
                    tracing::warn!(
                        node = %self.link.node,
                        "the node's line is up, but it has reported nothing for {} s: its session ends; look at the agent's log and its disk",
                        self.report_timeout.as_secs()
                    );
                    break;
                }
            }
        }
        self.sessions.close(&self.link.session);
        self.fleet
            .send(FleetEvent::NodeLeft {
                node: self.link.node.clone(),
                session: self.link.session.clone(),
            })
            .await;
    }

    /// Whether the node may stay linked. One that was revoked may not: its connection is cut.
    fn may_stay(&self) -> bool {
        let Err(denial) = self.peer.check(&self.fleet.peek()) else {
            return true;
        };
        tracing::warn!(node = %self.link.node, reason = denial.message(), "the node's links are cut");
        self.cut.cancel();
        false
    }

    /// Sends the desired state of the node. Returns whether the session goes on.
    async fn send_desired(&self, stopping: bool) -> bool {
        let Some(desired) = self.desired(stopping) else {
            return true;
        };
        let SplitState { parts, left_out } = desired_state_parts::split(desired);
        let names = left_out.join(", ");
        if self.link.set_left_out(left_out) && !names.is_empty() {
            tracing::error!(
                node = %self.link.node,
                models = names,
                "the files and settings of these models are too many for a node: they are left out"
            );
        }
        for part in parts {
            let sent = tokio::select! {
                () = self.link.closed.cancelled() => return false,
                () = tokio::time::sleep(PART_TIMEOUT) => {
                    tracing::warn!(node = %self.link.node, "the node does not take its desired state: its session ends");
                    return false;
                }
                sent = self.sender.send(Ok(part)) => sent,
            };
            if sent.is_err() {
                return false;
            }
        }
        true
    }

    async fn report(&mut self, report: StatusReport) {
        let (status, wrong) = report::checked(report);
        if wrong && !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                node = %self.link.node,
                "the node reports numbers that cannot be true, which are left out"
            );
        }
        self.fleet
            .send(FleetEvent::NodeReported {
                node: self.link.node.clone(),
                session: self.link.session.clone(),
                status,
            })
            .await;
    }

    /// What the desired state of the node depends on. `None` as for [`SyncSession::desired`].
    fn desired_identity(&self, stopping: bool) -> Option<DesiredIdentity> {
        let view = self.fleet.peek();
        if !view.synced {
            return None;
        }
        let node = view.nodes.get(&self.link.node)?;
        // What the node runs is needed where its assignment is not understood.
        if !node.linked_locally {
            return None;
        }
        let models = node.assigned.iter().filter_map(|name| {
            let (model, revision) = view.assigned(&self.link.node, name)?;
            let known = model.and_then(|model| model.at_revision(revision));
            Some((name.clone(), revision, known.is_some()))
        });
        Some(DesiredIdentity {
            fleet_id: view.fleet_id.clone()?,
            epoch: view.epoch,
            store_revision: node.desired_revision,
            models: models.collect(),
            controllers: view.controllers.values().map(|c| c.link.clone()).collect(),
            stopping,
        })
    }

    /// The desired state of the node. `None` until the view has the store's content, the node and its first
    /// report: a desired state that lacks something would make the agent unload models.
    fn desired(&self, stopping: bool) -> Option<DesiredState> {
        let view = self.fleet.peek();
        if !view.synced {
            return None;
        }
        let node = view.nodes.get(&self.link.node)?;
        let models = node.assigned.iter().filter_map(|name| {
            // Of a model that this version does not understand, the node keeps the instance that it has.
            let (model, revision) = view.assigned(&self.link.node, name)?;
            let mut desired = DesiredModel {
                name: name.to_string(),
                revision: revision.0,
                ..DesiredModel::default()
            };
            if let Some((model, files)) = model.and_then(|model| model.at_revision(revision)) {
                // A resource that was read from JSON can be written as JSON again.
                desired.resource_json = serde_json::to_string(model).unwrap_or_default();
                let files = files.into_iter().flat_map(|manifest| &manifest.files);
                desired.files = files.map(Into::into).collect();
            }
            Some(desired)
        });
        Some(DesiredState {
            models: models.collect(),
            fleet_id: view.fleet_id.clone()?,
            epoch: view.epoch,
            store_revision: node.desired_revision.0,
            controllers: view.controllers.values().map(|c| c.link.clone()).collect(),
            more: false,
            stopping,
        })
    }
}
