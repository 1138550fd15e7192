//! The first contact with a fleet: the node enrols with a join token.

use std::sync::Arc;

use flotilla_identity::authority::tls;
use flotilla_proto::transport;
use flotilla_proto::v1::CertificateResponse;
use flotilla_proto::v1::fleet_client::FleetClient;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::agent_link::AgentLink;
use super::session::{STEP_TIMEOUT, SessionError};
use super::tls_problem::TlsProblem;

/// Enrols the node at the controller `address`, if it has a token that it has not used. Links to other controllers
/// wait meanwhile.
///
/// # Errors
/// Why it cannot. A node with a certificate goes on with that one if the token is refused.
pub(super) async fn enrol_if_due(link: &AgentLink, address: &str) -> Result<(), SessionError> {
    let security = &link.security;
    let _enrolling = security.enrolling.lock().await;
    let Some(token) = security.pending_token() else {
        return Ok(());
    };
    let request = security.enrol_request(&token)?;
    let config = Arc::new(
        tls::first_contact_client(token.authority).map_err(super::security::SecurityError::from)?,
    );
    let (stream, _) = link.connector.connect(address).await?;
    let stream = shake_hands(config, stream).await?;
    let connected = transport::connect(stream, transport::DEFAULT_KEEPALIVE_TIMEOUT);
    let (channel, connection) = timeout(STEP_TIMEOUT, connected).await??;
    let mut client = FleetClient::with_origin(channel, transport::origin());
    let response = tokio::select! {
        response = timeout(STEP_TIMEOUT, client.enrol(request)) => response?,
        ended = connection => return Err(ended.map_or_else(SessionError::from, |()| SessionError::Ended)),
    };
    let response: CertificateResponse = match response {
        Ok(response) => response.into_inner(),
        Err(refused) if security.enrolled().is_some() && is_refusal(&refused) => {
            tracing::warn!(
                controller = address,
                "the new token is not used, and the node keeps its certificate: {}",
                refused.message()
            );
            security.drop_token();
            return Ok(());
        }
        Err(status) => return Err(status.into()),
    };
    security.set_enrolled(&token, response)?;
    tracing::info!(controller = address, node = %security.name(), token = token.id, "enrolled");
    Ok(())
}

/// Whether a controller has decided against the token.
fn is_refusal(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::PermissionDenied
}

/// Shakes hands with a controller.
///
/// # Errors
/// What is wrong.
pub(super) async fn shake_hands(
    config: Arc<rustls::ClientConfig>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, SessionError> {
    let connector = TlsConnector::from(config);
    let shaken = timeout(
        STEP_TIMEOUT,
        connector.connect(tls::controller_name(), stream),
    )
    .await?;
    shaken.map_err(|error| match TlsProblem::find(&error) {
        Some(problem) => problem.into(),
        None => error.into(),
    })
}
