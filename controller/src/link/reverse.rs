//! A reversed connection: the agent dialled it, the controller is the client on it.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::transport;
use tokio::net::TcpStream;

use crate::fleet::{FleetEvent, FleetHandle, NodeLink};

/// Drives a reversed connection to its end, or to the end of its session.
pub(super) async fn run(
    stream: TcpStream,
    link: &Arc<NodeLink>,
    fleet: &FleetHandle,
    silence: Duration,
) -> Result<(), hyper::Error> {
    let (channel, connection) = transport::connect(stream, silence).await?;
    link.add(&channel);
    let changed = || FleetEvent::ConnectionsChanged {
        node: link.node.clone(),
    };
    fleet.send(changed()).await;
    let ended = tokio::select! {
        () = link.closed.cancelled() => Ok(()),
        ended = connection => ended,
    };
    link.sweep();
    fleet.send(changed()).await;
    ended
}
