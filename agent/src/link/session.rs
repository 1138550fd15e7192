//! One session with one controller: join, turn connections round, sync.

use std::io;
use std::time::{Duration, Instant};

use flotilla_proto::v1::fleet_client::FleetClient;
use flotilla_proto::v1::inference_server::InferenceServer;
use flotilla_proto::v1::{self, IdentifyRequest, JoinRequest, StatusReport};
use flotilla_proto::{preface, transport};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::AgentLink;
use super::linked_controllers::LinkedControllers;
use crate::energy_accounting::EnergyAccounting;
use crate::serve::InferenceService;

/// How long dialling, joining and opening the sync stream may take each.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often counters are reported when nothing else changes.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often what the node draws is told when it draws about the same.
const ENERGY_INTERVAL: Duration = Duration::from_secs(5);
/// Part that its watts must have moved by to be told before.
const WATTS_MOVED: f32 = 0.1;
/// Largest message on a link, in bytes; the controller's limit is the same.
const MAX_MESSAGE: usize = 256 << 20;

/// Why a session ended or never began.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot be reached: {0}")]
    Dial(#[from] io::Error),
    #[error("the connection failed: {0}")]
    Connection(#[from] hyper::Error),
    #[error("refused: {}", .0.message())]
    Refused(#[from] Status),
    #[error("did not answer within {} s", STEP_TIMEOUT.as_secs())]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("ended the session")]
    Ended,
    #[error("is linked already")]
    Known,
}

/// Joins the controller at `address` and stays until the session ends, or all requests of a
/// draining agent have.
pub(super) async fn run(
    link: &AgentLink,
    peers: &LinkedControllers,
    address: &str,
) -> Result<(), SessionError> {
    let stream = dial(address).await?;
    let (channel, connection) =
        transport::connect(stream, transport::DEFAULT_KEEPALIVE_TIMEOUT).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.map_err(SessionError::from) });
    let mut client = FleetClient::with_origin(channel, transport::origin());

    let identify = client.identify(IdentifyRequest {});
    let reply = tokio::time::timeout(STEP_TIMEOUT, identify).await??;
    let controller = reply.into_inner().controller_id;
    let linked = peers
        .link(&controller, client.clone())
        .ok_or(SessionError::Known)?;

    let taints = link.taints.iter().map(|taint| v1::Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
    });
    let request = JoinRequest {
        name: link.name.to_string(),
        identity: link.identity.clone(),
        labels: link.labels.clone().into_iter().collect(),
        inventory: Some(link.inventory.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taints: taints.collect(),
        zone: link
            .zone
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    let joined = tokio::time::timeout(STEP_TIMEOUT, client.join(request)).await??;
    let joined = joined.into_inner();

    let mut reversed = JoinSet::new();
    for _ in 0..joined.reverse_connections.max(1) {
        let mut stream = dial(address).await?;
        preface::write(&mut stream, &joined.session).await?;
        reversed.spawn(serve(stream, link.service.clone(), link.drain.clone()));
    }

    // One report waits at most: the next one is made when there is room.
    let (reports, receiver) = mpsc::channel(1);
    let mut energy = ReportedEnergy::default();
    let report = |models, energy| StatusReport {
        session: joined.session.clone(),
        models,
        energy,
    };
    let mut changes = link.statuses.changes();
    changes.borrow_and_update();
    let mut told = link.statuses.now();
    // There is room: nothing was sent before.
    let first = energy.news(&link.energy_accounting);
    let _ = reports.try_send(report(told.clone(), first));
    let sync = client.sync(ReceiverStream::new(receiver));
    let mut desired = tokio::time::timeout(STEP_TIMEOUT, sync)
        .await??
        .into_inner();
    tracing::info!(controller = address, node = %link.name, "linked");

    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    loop {
        tokio::select! {
            message = desired.message() => match message? {
                Some(mut message) => {
                    linked.names(std::mem::take(&mut message.controllers));
                    link.orders.take(message).await;
                }
                None => return Err(SessionError::Ended),
            },
            Some(ended) = reversed.join_next() => {
                // While draining, each connection ends with its last request.
                if !link.drain.is_cancelled() {
                    return ended.unwrap_or(Err(SessionError::Ended)).and(Err(SessionError::Ended));
                }
                if reversed.is_empty() {
                    return Ok(());
                }
                continue;
            }
            Some(ended) = tasks.join_next() => {
                return ended.unwrap_or(Err(SessionError::Ended)).and(Err(SessionError::Ended));
            }
            _ = changes.changed() => {}
            _ = tick.tick() => {}
        }
        let now = link.statuses.now();
        // Where there is no room the next tick tries again.
        if let Ok(room) = reports.try_reserve() {
            let news = energy.news(&link.energy_accounting);
            if now != told || news.is_some() {
                room.send(report(now.clone(), news));
                told = now;
            }
        }
    }
}

/// What was told of the node's energy.
#[derive(Default)]
struct ReportedEnergy {
    told: Option<(Instant, v1::NodeEnergy)>,
}

impl ReportedEnergy {
    /// What is to be told now, if it is much different or has not been told for a while.
    fn news(&mut self, energy_accounting: &EnergyAccounting) -> Option<v1::NodeEnergy> {
        let now = energy_accounting.latest_reading().message();
        if let Some((at, told)) = &self.told {
            let moved = (now.watts - told.watts).abs() > WATTS_MOVED * told.watts.max(1.0);
            let condition =
                now.throttle_reason != told.throttle_reason || now.battery != told.battery;
            if !moved && !condition && at.elapsed() < ENERGY_INTERVAL {
                return None;
            }
        }
        self.told = Some((Instant::now(), now.clone()));
        Some(now)
    }
}

async fn dial(address: &str) -> Result<TcpStream, SessionError> {
    let stream = tokio::time::timeout(STEP_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Answers requests on a connection that was turned round.
async fn serve(
    stream: TcpStream,
    service: InferenceService,
    drain: tokio_util::sync::CancellationToken,
) -> Result<(), SessionError> {
    let server = InferenceServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    transport::serve(
        stream,
        server,
        transport::DEFAULT_KEEPALIVE_TIMEOUT,
        drain.cancelled_owned(),
    )
    .await
    .map_err(Into::into)
}
