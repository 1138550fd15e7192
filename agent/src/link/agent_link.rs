//! What the links of an agent share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::connector::Connector;
use super::desired_state::DesiredStateReceiver;
use super::security::LinkSecurity;
use crate::artifacts::ArtifactStore;
use crate::energy_accounting::EnergyAccounting;
use crate::inference_service::InferenceService;
use crate::models::ModelStatuses;
use crate::node_description::NodeDescription;

/// The parts of the agent that all its links use.
pub(crate) struct AgentLink {
    pub(crate) node: NodeDescription,
    pub(crate) service: InferenceService,
    pub(crate) statuses: ModelStatuses,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) energy_accounting: EnergyAccounting,
    pub(crate) desired_state: DesiredStateReceiver,
    pub(crate) connector: Connector,
    /// TLS of the links.
    pub(crate) security: Arc<LinkSecurity>,
    /// When cancelled, no new requests are accepted; running ones may finish.
    pub(crate) drain: CancellationToken,
    /// When cancelled, all links end at once.
    pub(crate) stop: CancellationToken,
}
