//! One session with one controller: it joins, opens the reverse connections, reports status and
//! receives the desired state.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::NodeName;
use flotilla_proto::desired_state_parts::{MAX_PART_BYTES, PartialState, StateTooLarge};
use flotilla_proto::preface;
use flotilla_proto::transport::{self, LinkChannel};
use flotilla_proto::v1::fleet_client::FleetClient;
use flotilla_proto::v1::inference_server::InferenceServer;
use flotilla_proto::v1::{IdentifyRequest, JoinResponse, RenewCertificateRequest};
use flotilla_telemetry::clock::unix_seconds;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::agent_link::AgentLink;
use super::connector::{ConnectError, Target};
use super::desired_state::ForeignFleetError;
use super::enrolment;
use super::linked_controllers::LinkedControllers;
use super::peer_protocol::{self, PeerProtocol};
use super::security::{LinkSecurity, SecurityError};
use super::status_reporter::StatusReporter;
use super::tls_problem::TlsProblem;
use crate::inference_service::InferenceService;

/// Timeout of each step: connecting, identifying, joining, opening the sync stream.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a reverse connection is dialled until it reaches the controller of the session.
const MAX_REVERSE_DIALS: u32 = 64;
/// Pause before it is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);
/// Time between two status reports while only counters change.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Largest message on a link in bytes, equal to the controller's limit.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A reverse connection, with or without TLS.
type ReverseStream = Either<TcpStream, BufReader<TlsStream<TcpStream>>>;

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
    Tls(#[from] TlsProblem),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(
        "the certificate of this node has expired: enrol it again with a token of `flotilla token create --node {0}`, which its agent is started with (--token-file)"
    )]
    CertificateExpired(NodeName),
    #[error(transparent)]
    ForeignFleet(#[from] ForeignFleetError),
}

impl From<hyper::Error> for SessionError {
    fn from(error: hyper::Error) -> Self {
        tracing::debug!(?error, "a connection to a controller broke");
        if let Some(problem) = TlsProblem::find(&error) {
            problem.into()
        } else if error.is_timeout() {
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
        if let Some(problem) = cause.and_then(TlsProblem::find) {
            return problem.into();
        }
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
            Self::ForeignFleet(_)
            | Self::OtherProtocol(_)
            | Self::Tls(_)
            | Self::Security(_)
            | Self::CertificateExpired(_) => true,
            Self::Refused(status) => matches!(
                status.code(),
                Code::FailedPrecondition
                    | Code::AlreadyExists
                    | Code::InvalidArgument
                    | Code::PermissionDenied
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
    enrolment::enrol_if_due(link, address).await?;
    let (stream, target) = link.connector.connect(address).await?;
    let stream = match link.security.enrolled() {
        None => Either::Left(stream),
        Some(enrolled) if enrolled.has_expired(unix_seconds()) => {
            return Err(SessionError::CertificateExpired(
                link.security.name().clone(),
            ));
        }
        Some(enrolled) => match enrolment::shake_hands(enrolled.link(), stream).await {
            Ok(stream) => Either::Right(stream),
            // Something that is no controller says more about itself without TLS.
            Err(SessionError::Tls(TlsProblem::NoTls)) => {
                let probed = peer_protocol::probe(&link.connector, address).await;
                return Err(probed.map_or(TlsProblem::NoTls.into(), SessionError::from));
            }
            Err(error) => return Err(error),
        },
    };
    let connected = transport::connect(stream, transport::DEFAULT_KEEPALIVE_TIMEOUT);
    let (channel, connection) = tokio::time::timeout(STEP_TIMEOUT, connected).await??;
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
    let mut renewals = JoinSet::new();
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
            _ = tick.tick() => {
                if let Some(request) = link.security.begin_renewal(unix_seconds()) {
                    renewals.spawn(renew(link.security.clone(), client.clone(), request));
                }
            }
            Some(_) = renewals.join_next() => continue,
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
            let is_answer = std::error::Error::source(&status).is_none();
            match SessionError::from(status) {
                SessionError::Refused(status)
                    if is_answer && status.code() == Code::PermissionDenied =>
                {
                    return Err(SessionError::Refused(status));
                }
                SessionError::Tls(problem) => return Err(problem.into()),
                _ => SessionError::NoAnswer,
            }
        }
        Err(elapsed) => elapsed.into(),
    };
    if link.security.is_on() {
        return Err(error);
    }
    match peer_protocol::probe(&link.connector, address).await {
        Some(protocol) => Err(protocol.into()),
        None => Err(error),
    }
}

/// Renews the node's certificate. One that cannot be renewed is tried again.
async fn renew(
    security: Arc<LinkSecurity>,
    mut client: FleetClient<LinkChannel>,
    certificate_request: Vec<u8>,
) {
    let request = RenewCertificateRequest {
        certificate_request,
    };
    let renewed = tokio::time::timeout(STEP_TIMEOUT, client.renew_certificate(request)).await;
    let renewed = match renewed {
        Ok(Ok(response)) => security
            .set_renewed(response.into_inner())
            .map_err(|error| error.to_string()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(elapsed) => Err(elapsed.to_string()),
    };
    match renewed {
        Ok(()) => tracing::info!(node = %security.name(), "the node's certificate is renewed"),
        Err(problem) => {
            tracing::warn!(node = %security.name(), problem, "the node's certificate could not be renewed, retrying");
        }
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
) -> Result<ReverseStream, SessionError> {
    for _ in 0..MAX_REVERSE_DIALS {
        let mut stream = link.connector.connect_again(target).await?;
        // The controller begins with HTTP/2's preface at once.
        match link.security.enrolled() {
            None => {
                preface::write(&mut stream, session).await?;
                let mut first = [0];
                let answered = tokio::time::timeout(STEP_TIMEOUT, stream.peek(&mut first)).await?;
                if answered.is_ok_and(|bytes| bytes > 0) {
                    return Ok(Either::Left(stream));
                }
            }
            Some(enrolled) => {
                let stream = enrolment::shake_hands(enrolled.reverse(), stream).await?;
                // TLS cannot be peeked at: the first byte is kept until it is read.
                let mut stream = BufReader::with_capacity(1, stream);
                preface::write(&mut stream, session).await?;
                let answered = tokio::time::timeout(STEP_TIMEOUT, stream.fill_buf()).await?;
                if answered.is_ok_and(|first| !first.is_empty()) {
                    return Ok(Either::Right(stream));
                }
            }
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
    Err(SessionError::SessionUnknown)
}

/// Serves inference requests on a reverse connection until it is closed, or until its last request
/// after `drain` is cancelled.
async fn serve(
    stream: ReverseStream,
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
