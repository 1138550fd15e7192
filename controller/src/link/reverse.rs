//! Reverse connections: the agent has dialled, and the controller is the gRPC client.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::transport::{self, LinkStream};

use crate::fleet::{FleetEvent, FleetHandle, NodeLink};

/// Runs a reverse connection until it or its session ends. The link counts as silent, and the
/// connection is closed, after `silence`.
pub(super) async fn run(
    stream: impl LinkStream,
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
