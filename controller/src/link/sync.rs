//! The sync stream of one node.

use std::sync::Arc;

use flotilla_proto::v1::{DesiredModel, DesiredState, StatusReport};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::sessions::OpenSessions;
use crate::fleet::{FleetEvent, FleetHandle, NodeLink};

/// Receives the reports of one node, and sends it its desired state.
pub(super) struct SyncSession {
    pub(super) fleet: FleetHandle,
    pub(super) sessions: Arc<OpenSessions>,
    pub(super) link: Arc<NodeLink>,
    pub(super) reports: Streaming<StatusReport>,
    pub(super) sender: tokio::sync::mpsc::Sender<Result<DesiredState, Status>>,
    /// Cancelled when the controller stops.
    pub(super) stop: CancellationToken,
}

impl SyncSession {
    /// Runs until the stream or the session ends. `first` is the report that opened the stream.
    pub(super) async fn run(mut self, first: StatusReport) {
        self.link.synced.cancel();
        self.report(first).await;
        let mut changes = self.fleet.changes();
        let mut sent_state = None;
        loop {
            changes.borrow_and_update();
            if let Some(desired) = self.desired()
                && sent_state.as_ref() != Some(&desired)
            {
                let sent = tokio::select! {
                    () = self.link.closed.cancelled() => break,
                    sent = self.sender.send(Ok(desired.clone())) => sent,
                };
                if sent.is_err() {
                    break;
                }
                sent_state = Some(desired);
            }
            tokio::select! {
                () = self.link.closed.cancelled() => break,
                changed = changes.changed() => if changed.is_err() {
                    break;
                },
                report = self.reports.message() => match report {
                    Ok(Some(report)) => self.report(report).await,
                    Ok(None) | Err(_) => break,
                },
            }
        }
        if self.stop.is_cancelled() {
            let goodbye = Status::unavailable("the controller has stopped");
            // If the queue is full, the agent sees the end of the stream alone.
            let _ = self.sender.try_send(Err(goodbye));
        }
        self.sessions.close(&self.link.session);
        self.fleet
            .send(FleetEvent::NodeLeft {
                node: self.link.node.clone(),
                session: self.link.session.clone(),
            })
            .await;
    }

    async fn report(&self, report: StatusReport) {
        self.fleet
            .send(FleetEvent::NodeReported {
                node: self.link.node.clone(),
                session: self.link.session.clone(),
                models: report.models,
                energy: report.energy,
            })
            .await;
    }

    /// The desired state of the node. `None` until the view has the store's content and the node: an
    /// empty desired state would make the agent unload its models.
    fn desired(&self) -> Option<DesiredState> {
        let view = self.fleet.peek();
        if !view.synced {
            return None;
        }
        let node = view.nodes.get(&self.link.node)?;
        let models = node.assigned.iter().filter_map(|name| {
            let model = view.models.get(name)?;
            let revision = *model.assigned.get(&self.link.node)?;
            let mut desired = DesiredModel {
                name: name.to_string(),
                revision: revision.0,
                ..DesiredModel::default()
            };
            if let Some((model, files)) = model.at_revision(revision) {
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
            store_revision: node.desired_revision.0,
            controllers: view.controllers.values().map(|c| c.link.clone()).collect(),
        })
    }
}
