//! One session with one controller: it joins, opens the reverse connections, reports status and
//! receives the desired state.

use std::io;
use std::time::Duration;

use flotilla_proto::desired_state_parts::{MAX_PART_BYTES, PartialState, StateTooLarge};
use flotilla_proto::preface;
use flotilla_proto::transport::{self, LinkChannel};
use flotilla_proto::v1::fleet_client::FleetClient;
use flotilla_proto::v1::inference_server::InferenceServer;
use flotilla_proto::v1::{IdentifyRequest, JoinResponse};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::agent_link::AgentLink;
use super::connector::{ConnectError, Target};
use super::desired_state::ForeignFleetError;
use super::linked_controllers::LinkedControllers;
use super::peer_protocol::{self, PeerProtocol};
use super::status_reporter::StatusReporter;
use crate::inference_service::InferenceService;

/// Timeout of each step: connecting, identifying, joining, opening the sync stream.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a reverse connection is dialled until it reaches the controller of the session.
const MAX_REVERSE_DIALS: u32 = 64;
/// Pause before it is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);
/// Time between two status reports while only counters change.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Largest message on a link in bytes, equal to the controller's limit.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Why a session ended or could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the connection broke")]
    Broken,
    #[error("it does not answer any more")]
    Silent,
    #[error("it refused the request: {}", .0.message())]
    Refused(Status),
    #[error(transparent)]
    OtherProtocol(#[from] PeerProtocol),
    #[error(
        "what listens there ends the connection without an answer: is it the address of a controller's --link?"
    )]
    NoAnswer,
    #[error("it did not respond within {} s", STEP_TIMEOUT.as_secs())]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("it has closed the connection")]
    Ended,
    #[error("it has stopped")]
    Stopped,
    #[error("it is linked already")]
    AlreadyLinked,
    #[error(
        "it closes the connections for requests: several controllers share its address and too few \
         connections reach the right one"
    )]
    SessionUnknown,
    #[error("it sent too much: {0}")]
    StateTooLarge(#[from] StateTooLarge),
    #[error(transparent)]
    ForeignFleet(#[from] ForeignFleetError),
}

impl From<hyper::Error> for SessionError {
    fn from(error: hyper::Error) -> Self {
        tracing::debug!(?error, "a connection to a controller broke");
        if error.is_timeout() {
            Self::Silent
        } else {
            Self::Broken
        }
    }
}

impl From<Status> for SessionError {
    fn from(status: Status) -> Self {
        // Only the status of a call that got no answer has a cause.
        let cause = std::error::Error::source(&status);
        match cause.map(|cause| cause.downcast_ref::<hyper::Error>()) {
            None => Self::Refused(status),
            Some(Some(error)) if error.is_timeout() => Self::Silent,
            Some(_) => Self::Broken,
        }
    }
}

impl SessionError {
    /// Whether trying again is of no use before an operator has changed something.
    pub(super) fn needs_operator(&self) -> bool {
        match self {
            Self::ForeignFleet(_) | Self::OtherProtocol(_) => true,
            Self::Refused(status) => matches!(
                status.code(),
                Code::FailedPrecondition | Code::AlreadyExists | Code::InvalidArgument
            ),
            _ => false,
        }
    }
}

/// Joins the controller at `address` and returns when the session ends, or when all requests of a
/// draining agent have finished.
pub(super) async fn run(
    link: &AgentLink,
    controllers: &LinkedControllers,
    address: &str,
) -> Result<(), SessionError> {
    let (stream, target) = link.connector.connect(address).await?;
    let (channel, connection) =
        transport::connect(stream, transport::DEFAULT_KEEPALIVE_TIMEOUT).await?;
    let mut connection_task = JoinSet::new();
    connection_task.spawn(async move { connection.await.map_err(SessionError::from) });
    let mut client = FleetClient::with_origin(channel, transport::origin())
        .max_decoding_message_size(MAX_PART_BYTES);

    let controller = identify(link, address, &mut client).await?;
    let guard = controllers
        .register(&controller, client.clone())
        .ok_or(SessionError::AlreadyLinked)?;

    let join = client.join(link.node.join_request(link.desired_state.followed().fleet));
    let joined = tokio::time::timeout(STEP_TIMEOUT, join)
        .await??
        .into_inner();
    let mut reverse_connections = open_reverse_connections(link, &target, &joined).await?;

    // At most one report waits to be sent; the next one is made when it has been.
    let (reports, receiver) = mpsc::channel(1);
    let mut status_changes = link.statuses.changes();
    status_changes.borrow_and_update();
    let mut reporter = StatusReporter::new(link, joined.session, reports);
    reporter.send_first();
    let sync = client.sync(ReceiverStream::new(receiver));
    let mut desired_states = tokio::time::timeout(STEP_TIMEOUT, sync)
        .await??
        .into_inner();
    tracing::info!(controller = address, node = %link.node.name(), "linked");

    let mut stopping = false;
    // Whether it is reported that this agent drains.
    let mut drains = false;
    let mut partial_state = PartialState::default();
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    loop {
        tokio::select! {
            message = desired_states.message() => match message {
                Err(_) | Ok(None) if stopping => return Err(SessionError::Stopped),
                Err(status) => return Err(status.into()),
                Ok(Some(part)) => {
                    let Some(mut message) = partial_state.add(part)? else {
                        continue;
                    };
                    stopping = message.stopping;
                    let addresses = std::mem::take(&mut message.controllers);
                    link.desired_state.receive(message).await?;
                    guard.set_addresses(addresses);
                }
                Ok(None) => return Err(SessionError::Ended),
            },
            Some(ended) = reverse_connections.join_next() => {
                if stopping && !link.drain.is_cancelled() {
                    return Err(SessionError::Stopped);
                }
                if !link.drain.is_cancelled() {
                    return ended.unwrap_or(Err(SessionError::Ended)).and(Err(SessionError::Ended));
                }
                // While draining, each connection ends after its last request.
                if reverse_connections.is_empty() {
                    return Ok(());
                }
                continue;
            }
            Some(ended) = connection_task.join_next() => {
                if stopping {
                    return Err(SessionError::Stopped);
                }
                return ended.unwrap_or(Err(SessionError::Ended)).and(Err(SessionError::Ended));
            }
            () = link.drain.cancelled(), if !drains => drains = true,
            _ = status_changes.changed() => {}
            _ = tick.tick() => {}
        }
        reporter.send_changes();
    }
}

/// Returns the controller's id.
///
/// # Errors
/// What answers there, if it is no controller.
async fn identify(
    link: &AgentLink,
    address: &str,
    client: &mut FleetClient<LinkChannel>,
) -> Result<String, SessionError> {
    let identify = client.identify(IdentifyRequest {});
    let error = match tokio::time::timeout(STEP_TIMEOUT, identify).await {
        Ok(Ok(identified)) => return Ok(identified.into_inner().controller_id),
        Ok(Err(status)) => {
            tracing::debug!(controller = address, %status, "no answer of a controller");
            SessionError::NoAnswer
        }
        Err(elapsed) => elapsed.into(),
    };
    match peer_protocol::probe(&link.connector, address).await {
        Some(protocol) => Err(protocol.into()),
        None => Err(error),
    }
}

/// Opens the number of reverse connections that the controller has chosen, and serves requests on
/// them.
async fn open_reverse_connections(
    link: &AgentLink,
    target: &Target,
    joined: &JoinResponse,
) -> Result<JoinSet<Result<(), SessionError>>, SessionError> {
    let mut connections = JoinSet::new();
    for _ in 0..joined.reverse_connections.max(1) {
        let stream = open_reverse_connection(link, target, &joined.session).await?;
        let (service, drain) = (link.service.clone(), link.drain.clone());
        connections.spawn(serve(stream, service, drain));
    }
    Ok(connections)
}

/// Opens a reverse connection. Behind a load balancer it may reach another controller, which does not
/// know the session and closes it: then it is dialled again.
async fn open_reverse_connection(
    link: &AgentLink,
    target: &Target,
    session: &str,
) -> Result<TcpStream, SessionError> {
    for _ in 0..MAX_REVERSE_DIALS {
        let mut stream = link.connector.connect_again(target).await?;
        preface::write(&mut stream, session).await?;
        // The controller begins with HTTP/2's preface at once.
        let mut first = [0];
        let answered = tokio::time::timeout(STEP_TIMEOUT, stream.peek(&mut first)).await?;
        if answered.is_ok_and(|bytes| bytes > 0) {
            return Ok(stream);
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
    Err(SessionError::SessionUnknown)
}

/// Serves inference requests on a reverse connection until it is closed, or until its last request
/// after `drain` is cancelled.
async fn serve(
    stream: TcpStream,
    service: InferenceService,
    drain: CancellationToken,
) -> Result<(), SessionError> {
    let server = InferenceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    transport::serve(
        stream,
        server,
        transport::DEFAULT_KEEPALIVE_TIMEOUT,
        drain.cancelled_owned(),
    )
    .await
    .map_err(Into::into)
}
