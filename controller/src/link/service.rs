//! The gRPC service `Fleet`: joining, and desired state against status.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::{Bytes, NodeName};
use flotilla_proto::v1::fleet_server::Fleet as FleetRpc;
use flotilla_proto::v1::{Desired, DesiredModel, JoinReply, JoinRequest, Report};
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::sessions::Sessions;
use crate::fleet::{Fleet, FleetEvent, FleetView, Link, NodePhase, NodeRecord};
use crate::store::{Expect, Store, Write, keys};

/// How long a joined node may take to open its sync stream.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct FleetService {
    pub(super) fleet: Fleet,
    pub(super) store: Arc<dyn Store>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) connections: u32,
    pub(super) stop: CancellationToken,
    /// Owns what outlives a call.
    pub(super) tasks: TaskTracker,
}

#[tonic::async_trait]
impl FleetRpc for FleetService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let name = NodeName::new(&request.name).map_err(|e| {
            Status::invalid_argument(format!("the node name '{}' {e}", request.name))
        })?;
        let record = record(request)?;
        refuse_impostor(&self.fleet.peek(), &name, &record)?;
        self.keep(&name, &record).await;
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
    /// Writes the node's record, so that it is known after a restart. A store that is away
    /// does not keep a node from joining.
    async fn keep(&self, name: &NodeName, record: &NodeRecord) {
        // A record is made of strings and numbers: serializing it cannot fail.
        let value = serde_json::to_vec(record).unwrap_or_default();
        let key = keys::node(name);
        let known = self.store.get(&key).await;
        if known.is_ok_and(|entry| entry.is_some_and(|entry| entry.value == value)) {
            return;
        }
        let write = Write::Put {
            key,
            value,
            expect: Expect::Any,
        };
        if let Err(error) = self.store.write(vec![write]).await {
            tracing::warn!(node = %name, %error, "the node's record could not be kept");
        }
    }

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
    Ok(NodeRecord {
        identity: request.identity,
        labels: request.labels.into_iter().collect(),
        memory: Bytes(inventory.memory),
        cores: inventory.cores,
        cpu: inventory.cpu,
        platform: inventory.platform,
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
        let mut models = BTreeMap::new();
        for name in &node.assigned {
            let Some(model) = view.models.get(name) else {
                continue;
            };
            let desired = DesiredModel {
                name: name.to_string(),
                revision: model.revision,
                // The resource came from JSON: it goes back to JSON.
                resource: serde_json::to_string(&model.model).unwrap_or_default(),
            };
            models.insert(name, desired);
        }
        Some(Desired {
            models: models.into_values().collect(),
        })
    }
}
