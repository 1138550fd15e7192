//! The gRPC service `Fleet`: agents join, send status reports and receive desired state.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::NodeName;
use flotilla_core::spec::Sha256Digest;
use flotilla_proto::v1::fleet_server::Fleet as FleetRpc;
use flotilla_proto::v1::{
    BlobChunk, CertificateResponse, DesiredState, EnrolRequest, FetchBlobRequest, IdentifyRequest,
    IdentifyResponse, JoinRequest, JoinResponse, RenewCertificateRequest, StatusReport,
};
use flotilla_telemetry::clock::unix_seconds;
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};

use super::enrolment::Enroller;
use super::join::{self, node_record};
use super::peer::{LinkPeer, apply_enrolment};
use super::sessions::OpenSessions;
use super::sync::SyncSession;
use crate::artifacts::{BlobReadError, BlobStore};
use crate::fleet::{FleetEvent, FleetHandle, JoinRefusal, LinkRecord, NodeLink, NodeRecord};

/// Longest time between two reports of an agent, which reports every five seconds.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time from an agent's `Join` to its `Sync`.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// The service. Its clones for each connection share everything but the address.
#[derive(Clone)]
pub(super) struct FleetService {
    /// The address that the agent dialled from.
    pub(super) address: SocketAddr,
    /// Who the agent is.
    pub(super) peer: LinkPeer,
    /// When cancelled, the connection ends.
    pub(super) cut: CancellationToken,
    /// What enrols nodes. `None`: links have no TLS.
    pub(super) enroller: Option<Enroller>,
    pub(super) fleet: FleetHandle,
    /// Id of this controller.
    pub(super) id: String,
    pub(super) blobs: BlobStore,
    pub(super) sessions: Arc<OpenSessions>,
    /// Number of reverse connections that each agent opens.
    pub(super) connections: u32,
    /// Longest time between two reports of an agent.
    pub(super) report_timeout: Duration,
    /// Cancelled when the controller begins to stop.
    pub(super) drain: CancellationToken,
    pub(super) stop: CancellationToken,
    /// Tasks that outlive a call.
    pub(super) tasks: TaskTracker,
}

#[tonic::async_trait]
impl FleetRpc for FleetService {
    async fn identify(
        &self,
        _: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        self.peer.certificate()?;
        Ok(Response::new(IdentifyResponse {
            controller_id: self.id.clone(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let name = NodeName::new(&request.name).map_err(|e| {
            Status::invalid_argument(format!("the node name '{}' {e}", request.name))
        })?;
        let peer = LinkRecord {
            process: request.process_id.clone(),
            address: self.address.to_string(),
        };
        let fleet_id = request.fleet_id.clone();
        let record = node_record(request)?;
        let checked = self.check_join(&name, record, &fleet_id, &peer).await;
        let record = match checked {
            Ok(record) => record,
            Err(refusal) => {
                // The agent tries again by itself.
                if refusal.code() == Code::Unavailable {
                    return Err(refusal);
                }
                let reason = refusal.message().to_owned();
                let event = FleetEvent::JoinRefused(JoinRefusal {
                    node: name,
                    address: peer.address,
                    reason,
                });
                self.fleet.send(event).await;
                return Err(refusal);
            }
        };
        let link = self.sessions.open(name.clone(), peer, &self.stop);
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

    async fn enrol(
        &self,
        request: Request<EnrolRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let Some(enroller) = &self.enroller else {
            return Err(Status::failed_precondition(
                "this controller has no authority to enrol nodes: start it with --secret-file",
            ));
        };
        let address = self.address.to_string();
        enroller
            .enrol(request.into_inner(), address)
            .await
            .map(Response::new)
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        match (&self.enroller, self.peer.certificate()?) {
            (Some(enroller), Some(certificate)) => enroller
                .renew(certificate, request.get_ref())
                .map(Response::new),
            _ => Err(Status::failed_precondition(
                "links to this controller have no TLS",
            )),
        }
    }

    type FetchBlobStream = Pin<Box<dyn Stream<Item = Result<BlobChunk, Status>> + Send>>;

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        self.peer.check(&self.fleet.peek())?;
        let request = request.into_inner();
        let sha256 = request
            .sha256
            .parse::<Sha256Digest>()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let chunks = self.blobs.read(sha256, request.offset).await;
        let chunks = chunks
            .map_err(|e| Status::unavailable(e.to_string()))?
            .ok_or_else(|| Status::not_found("this controller does not have the file"))?;
        let chunks = chunks.map(|chunk| match chunk {
            Ok(data) => Ok(BlobChunk { data }),
            Err(error @ BlobReadError::Damaged) => Err(Status::data_loss(error.to_string())),
            Err(error) => Err(Status::unavailable(error.to_string())),
        });
        Ok(Response::new(chunks.boxed()))
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
            .ok_or_else(|| Status::invalid_argument("the sync stream ended without a report"))?;
        let link = self
            .sessions
            .find(&first.session)
            .ok_or_else(|| Status::unauthenticated("no such session: join again"))?;
        self.peer.check_session(&self.fleet.peek(), &link.node)?;
        // One desired state at most is queued: the next one is made of the view at that time.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let sync = SyncSession {
            fleet: self.fleet.clone(),
            sessions: self.sessions.clone(),
            peer: self.peer.clone(),
            cut: self.cut.clone(),
            link,
            reports,
            sender,
            report_timeout: self.report_timeout,
            drain: self.drain.clone(),
            has_warned: false,
        };
        self.tasks.spawn(sync.run(first));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

impl FleetService {
    /// Checks whether a node may join. Returns its record with what its enrolment decides.
    async fn check_join(
        &self,
        name: &NodeName,
        record: NodeRecord,
        fleet_id: &str,
        link: &LinkRecord,
    ) -> Result<NodeRecord, Status> {
        if let Some(certificate) = self.peer.certificate()? {
            join::wait_for_enrolment(&self.fleet, name, certificate.key).await;
        }
        let enrolment = self
            .peer
            .check_join(&self.fleet.peek(), name, unix_seconds());
        // Nobody is refused for what a controller that has just started does not know yet.
        let enrolment = enrolment.map_err(|denial| match self.fleet.peek().synced {
            true => denial,
            false => Status::unavailable(
                "this controller has not read its store yet and does not know which nodes have enrolled",
            ),
        })?;
        let record = apply_enrolment(record, name, enrolment)?;
        join::check(&self.fleet, name, &record, fleet_id, link).await?;
        Ok(record)
    }

    /// Closes the session unless its sync stream opens in time.
    fn expect_sync(&self, link: &Arc<NodeLink>) {
        let (fleet, sessions) = (self.fleet.clone(), self.sessions.clone());
        let link = link.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Another session of the node has taken its place.
                () = link.closed.cancelled() => sessions.close(&link.session),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::{StoreEntry, StoreRevision, keys};
    use flotilla_proto::transport;
    use flotilla_proto::v1::Inventory;
    use flotilla_proto::v1::fleet_client::FleetClient;
    use flotilla_proto::v1::fleet_server::FleetServer;

    fn service(fleet: FleetHandle, dir: &Path, stop: &CancellationToken) -> FleetService {
        FleetService {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            peer: LinkPeer::Unknown,
            cut: CancellationToken::new(),
            enroller: None,
            fleet,
            id: "c".into(),
            blobs: BlobStore::new(dir.to_owned()),
            sessions: Arc::default(),
            connections: 1,
            report_timeout: REPORT_TIMEOUT,
            drain: stop.clone(),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        }
    }

    fn store_with_a_fleet() -> FleetEvent {
        let revision = StoreRevision(1);
        let fleet_id = StoreEntry {
            key: keys::FLEET_ID.into(),
            value: b"f".to_vec(),
            revision,
        };
        FleetEvent::StoreSnapshot {
            entries: vec![fleet_id],
            revision,
        }
    }

    fn join_request() -> JoinRequest {
        JoinRequest {
            name: "n1".into(),
            identity: "i".into(),
            inventory: Some(Inventory::default()),
            ..JoinRequest::default()
        }
    }

    #[tokio::test]
    async fn session_without_reports_ends_although_its_line_is_up() {
        let stop = CancellationToken::new();
        let (fleet, run) = FleetHandle::new("c", Duration::from_secs(5), stop.clone());
        let fleet_task = tokio::spawn(run);
        fleet.send(store_with_a_fleet()).await;
        let dir = tempfile::tempdir().unwrap();
        let mut service = service(fleet.clone(), dir.path(), &stop);
        service.report_timeout = Duration::from_millis(300);
        let (near, far) = tokio::io::duplex(1 << 16);
        let timeout = transport::DEFAULT_KEEPALIVE_TIMEOUT;
        let server = FleetServer::new(service.clone());
        let ended = stop.clone().cancelled_owned();
        let served = tokio::spawn(transport::serve(far, server, timeout, ended));
        let (channel, connection) = transport::connect(near, timeout).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut agent = FleetClient::with_origin(channel, transport::origin());
        let session = agent
            .join(join_request())
            .await
            .unwrap()
            .into_inner()
            .session;
        let report = StatusReport {
            session,
            ..StatusReport::default()
        };
        let reports = futures::stream::iter([report]).chain(futures::stream::pending());
        let mut changes = fleet.changes();
        let _states = agent.sync(reports).await.unwrap();
        let left = async {
            while service.sessions.len() > 0 {
                changes.changed().await.unwrap();
            }
        };
        let left = tokio::time::timeout(Duration::from_secs(20), left).await;
        assert!(left.is_ok(), "{} sessions", service.sessions.len());
        assert!(!connection.is_finished());
        stop.cancel();
        drop(agent);
        connection.abort();
        let _ = served.await;
        fleet_task.await.unwrap();
    }

    #[tokio::test]
    async fn sessions_that_a_node_has_replaced_are_forgotten() {
        let stop = CancellationToken::new();
        let (fleet, run) = FleetHandle::new("c", Duration::from_secs(5), stop.clone());
        let fleet_task = tokio::spawn(run);
        fleet.send(store_with_a_fleet()).await;
        let dir = tempfile::tempdir().unwrap();
        let service = service(fleet, dir.path(), &stop);
        for _ in 0..100 {
            service.join(Request::new(join_request())).await.unwrap();
        }
        // Only the newest session waits for its sync stream.
        let forgotten = async {
            while service.sessions.len() > 1 {
                tokio::task::yield_now().await;
            }
        };
        let forgotten = tokio::time::timeout(SYNC_TIMEOUT / 2, forgotten).await;
        assert!(forgotten.is_ok(), "{} sessions", service.sessions.len());
        stop.cancel();
        fleet_task.await.unwrap();
    }
}
