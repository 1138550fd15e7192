//! The gRPC service `FleetHandle`: joining, and desired state against status.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::energy::PowerRange;
use flotilla_core::spec::{Sha256Digest, Taint};
use flotilla_core::{Bytes, NodeName, Watts, ZoneName};
use flotilla_proto::v1::fleet_server::Fleet as FleetRpc;
use flotilla_proto::v1::{
    BlobChunk, DesiredModel, DesiredState, FetchBlobRequest, IdentifyRequest, IdentifyResponse,
    JoinRequest, JoinResponse, StatusReport,
};
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::sessions::OpenSessions;
use crate::artifacts::BlobStore;
use crate::fleet::{FleetEvent, FleetHandle, FleetView, NodeLink, NodePhase, NodeRecord};

/// How long a joined node may take to open its sync stream.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct FleetService {
    pub(super) fleet: FleetHandle,
    /// This controller.
    pub(super) id: String,
    pub(super) blobs: BlobStore,
    pub(super) sessions: Arc<OpenSessions>,
    pub(super) connections: u32,
    pub(super) stop: CancellationToken,
    /// Owns what outlives a call.
    pub(super) tasks: TaskTracker,
}

#[tonic::async_trait]
impl FleetRpc for FleetService {
    async fn identify(
        &self,
        _: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        Ok(Response::new(IdentifyResponse {
            controller_id: self.id.clone(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let name = NodeName::new(&request.name).map_err(|e| {
            Status::invalid_argument(format!("the node name '{}' {e}", request.name))
        })?;
        let record = record(request)?;
        refuse_impostor(&self.fleet.peek(), &name, &record)?;
        let link = self.sessions.open(name.clone(), &self.stop);
        let session = link.session.to_string();
        self.expect_sync(&link);
        let event = FleetEvent::NodeJoined {
            node: name,
            record,
            link,
        };
        self.fleet.send(event).await;
        Ok(Response::new(JoinResponse {
            session,
            reverse_connections: self.connections,
        }))
    }

    type FetchBlobStream = Pin<Box<dyn Stream<Item = Result<BlobChunk, Status>> + Send>>;

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        let sha256 = request
            .sha256
            .parse::<Sha256Digest>()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let pieces = self.blobs.read(sha256, request.offset).await;
        let pieces = pieces
            .map_err(|e| Status::unavailable(e.to_string()))?
            .ok_or_else(|| Status::not_found("this controller does not have the file"))?;
        let pieces = pieces.map(|piece| match piece {
            Ok(data) => Ok(BlobChunk { data }),
            Err(error) => Err(Status::unavailable(error)),
        });
        Ok(Response::new(pieces.boxed()))
    }

    type SyncStream = Pin<Box<dyn Stream<Item = Result<DesiredState, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<StatusReport>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut reports = request.into_inner();
        let first = reports
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the sync stream brought no report"))?;
        let link = self
            .sessions
            .find(&first.session)
            .ok_or_else(|| Status::unauthenticated("no such session: join again"))?;
        // One desired state waits at most: a newer one is made from the newest view anyway.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let sync = NodeReports {
            fleet: self.fleet.clone(),
            sessions: self.sessions.clone(),
            link,
            reports,
            sender,
        };
        self.tasks.spawn(sync.run(first));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

impl FleetService {
    /// Ends the session unless its sync stream opens in time.
    fn expect_sync(&self, link: &Arc<NodeLink>) {
        let (fleet, sessions) = (self.fleet.clone(), self.sessions.clone());
        let link = link.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = link.closed.cancelled() => {}
                () = link.synced.cancelled() => {}
                () = tokio::time::sleep(SYNC_TIMEOUT) => {
                    sessions.close(&link.session);
                    fleet.send(FleetEvent::NodeLeft {
                        node: link.node.clone(),
                        session: link.session.clone(),
                    }).await;
                }
            }
        });
    }
}

/// Another machine must not take the name of a node that is there.
fn refuse_impostor(view: &FleetView, name: &NodeName, record: &NodeRecord) -> Result<(), Status> {
    match view.nodes.get(name) {
        Some(node) if node.phase == NodePhase::Ready && node.record.identity != record.identity => {
            Err(Status::already_exists(format!(
                "another node named '{name}' is part of the fleet: choose another --name"
            )))
        }
        _ => Ok(()),
    }
}

fn record(request: JoinRequest) -> Result<NodeRecord, Status> {
    let inventory = request
        .inventory
        .ok_or_else(|| Status::invalid_argument("the inventory is missing"))?;
    let taints = request.taints.into_iter();
    let zone = match request.zone.as_str() {
        "" => None,
        zone => Some(
            ZoneName::new(zone)
                .map_err(|e| Status::invalid_argument(format!("the zone '{zone}' {e}")))?,
        ),
    };
    Ok(NodeRecord {
        identity: request.identity,
        labels: request.labels.into_iter().collect(),
        taints: taints
            .map(|taint| Taint {
                key: taint.key,
                value: taint.value,
            })
            .collect(),
        zone,
        memory: Bytes(inventory.memory_bytes),
        // What a newer agent computes with and nobody here knows no model asks for.
        accelerators: inventory
            .accelerators
            .iter()
            .filter_map(|name| serde_json::from_value(name.as_str().into()).ok())
            .collect(),
        cores: inventory.cores,
        cpu: inventory.cpu,
        platform: inventory.platform,
        power: inventory.power.map(|power| PowerRange {
            idle: Watts(power.idle_watts),
            max: Watts(power.max_watts),
            configured: power.configured,
        }),
        version: request.version,
    })
}

/// One node's sync stream.
struct NodeReports {
    fleet: FleetHandle,
    sessions: Arc<OpenSessions>,
    link: Arc<NodeLink>,
    reports: Streaming<StatusReport>,
    sender: tokio::sync::mpsc::Sender<Result<DesiredState, Status>>,
}

impl NodeReports {
    async fn run(mut self, first: StatusReport) {
        self.link.synced.cancel();
        self.report(first).await;
        let mut changes = self.fleet.changes();
        let mut told = None;
        loop {
            changes.borrow_and_update();
            if let Some(desired) = self.desired()
                && told.as_ref() != Some(&desired)
            {
                let sent = tokio::select! {
                    () = self.link.closed.cancelled() => break,
                    sent = self.sender.send(Ok(desired.clone())) => sent,
                };
                if sent.is_err() {
                    break;
                }
                told = Some(desired);
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

    /// What the node should run. `None` while the store was not read or the view does not
    /// hold the node yet: telling an agent "nothing" would make it drop what it serves.
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
            if let Some((model, files)) = model.at(revision) {
                // The resource came from JSON: it goes back to JSON.
                desired.resource_json = serde_json::to_string(model).unwrap_or_default();
                let files = files.into_iter().flat_map(|manifest| &manifest.files);
                desired.files = files.map(Into::into).collect();
            }
            Some(desired)
        });
        Some(DesiredState {
            models: models.collect(),
            fleet: view.fleet.clone()?,
            store_revision: node.touched.0,
            controllers: view.controllers.values().map(|c| c.link.clone()).collect(),
        })
    }
}
