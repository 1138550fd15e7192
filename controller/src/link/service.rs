//! The gRPC service `Fleet`: joining, and desired state against status.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::energy::Power;
use flotilla_core::spec::{Sha256, Taint};
use flotilla_core::{Bytes, NodeName, Watts, ZoneName};
use flotilla_proto::v1::fleet_server::Fleet as FleetRpc;
use flotilla_proto::v1::{
    BlobPiece, Desired, DesiredModel, FetchBlobRequest, IdentifyReply, IdentifyRequest, JoinReply,
    JoinRequest, Report,
};
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::sessions::Sessions;
use crate::artifacts::Blobs;
use crate::fleet::{Fleet, FleetEvent, FleetView, Link, NodePhase, NodeRecord};

/// How long a joined node may take to open its sync stream.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct FleetService {
    pub(super) fleet: Fleet,
    /// This controller.
    pub(super) id: String,
    pub(super) blobs: Blobs,
    pub(super) sessions: Arc<Sessions>,
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
    ) -> Result<Response<IdentifyReply>, Status> {
        Ok(Response::new(IdentifyReply {
            controller: self.id.clone(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let name = NodeName::new(&request.name).map_err(|e| {
            Status::invalid_argument(format!("the node name '{}' {e}", request.name))
        })?;
        let record = record(request)?;
        refuse_impostor(&self.fleet.peek(), &name, &record)?;
        let link = self.sessions.open(name.clone(), &self.stop);
        let session = link.session.to_string();
        self.expect_sync(&link);
        let event = FleetEvent::Joined {
            node: name,
            record,
            link,
        };
        self.fleet.tell(event).await;
        Ok(Response::new(JoinReply {
            session,
            connections: self.connections,
        }))
    }

    type FetchBlobStream = Pin<Box<dyn Stream<Item = Result<BlobPiece, Status>> + Send>>;

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        let sha256 = request
            .sha256
            .parse::<Sha256>()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let pieces = self.blobs.read(sha256, request.offset).await;
        let pieces = pieces
            .map_err(|e| Status::unavailable(e.to_string()))?
            .ok_or_else(|| Status::not_found("this controller does not have the file"))?;
        let pieces = pieces.map(|piece| match piece {
            Ok(data) => Ok(BlobPiece { data }),
            Err(error) => Err(Status::unavailable(error)),
        });
        Ok(Response::new(pieces.boxed()))
    }

    type SyncStream = Pin<Box<dyn Stream<Item = Result<Desired, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<Report>>,
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
        let sync = Sync {
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
    fn expect_sync(&self, link: &Arc<Link>) {
        let (fleet, sessions) = (self.fleet.clone(), self.sessions.clone());
        let link = link.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = link.closed.cancelled() => {}
                () = link.synced.cancelled() => {}
                () = tokio::time::sleep(SYNC_TIMEOUT) => {
                    sessions.close(&link.session);
                    fleet.tell(FleetEvent::Left {
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
        memory: Bytes(inventory.memory),
        // What a newer agent computes with and nobody here knows no model asks for.
        accelerators: inventory
            .accelerators
            .iter()
            .filter_map(|name| serde_json::from_value(name.as_str().into()).ok())
            .collect(),
        cores: inventory.cores,
        cpu: inventory.cpu,
        platform: inventory.platform,
        power: inventory.power.map(|power| Power {
            idle: Watts(power.idle),
            max: Watts(power.max),
            stated: power.stated,
        }),
        version: request.version,
    })
}

/// One node's sync stream.
struct Sync {
    fleet: Fleet,
    sessions: Arc<Sessions>,
    link: Arc<Link>,
    reports: Streaming<Report>,
    sender: tokio::sync::mpsc::Sender<Result<Desired, Status>>,
}

impl Sync {
    async fn run(mut self, first: Report) {
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
            .tell(FleetEvent::Left {
                node: self.link.node.clone(),
                session: self.link.session.clone(),
            })
            .await;
    }

    async fn report(&self, report: Report) {
        self.fleet
            .tell(FleetEvent::Reported {
                node: self.link.node.clone(),
                session: self.link.session.clone(),
                models: report.models,
                energy: report.energy,
            })
            .await;
    }

    /// What the node should run. `None` while the store was not read or the view does not
    /// hold the node yet: telling an agent "nothing" would make it drop what it serves.
    fn desired(&self) -> Option<Desired> {
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
                revision,
                ..DesiredModel::default()
            };
            if let Some((model, files)) = model.at(revision) {
                // The resource came from JSON: it goes back to JSON.
                desired.resource = serde_json::to_string(model).unwrap_or_default();
                let files = files.into_iter().flat_map(|manifest| &manifest.files);
                desired.files = files.map(Into::into).collect();
            }
            Some(desired)
        });
        Some(Desired {
            models: models.collect(),
            fleet: view.fleet.clone()?,
            revision: node.touched,
            controllers: view.controllers.values().map(|c| c.link.clone()).collect(),
        })
    }
}
