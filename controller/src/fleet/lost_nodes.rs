//! Lost nodes: when they get their grace again, and whose models may be placed elsewhere.

use std::collections::BTreeSet;
use std::time::Instant;

use flotilla_core::NodeName;
use flotilla_core::health::NodePhase;
use flotilla_core::loss_guard::{GuardedNode, NodeConnection};

use super::node::NodeState;
use super::state::FleetState;

impl FleetState {
    /// Decides which lost nodes may have their models placed elsewhere at `now`.
    pub(super) fn update_loss_guard(&mut self, now: Instant) {
        let assignments = self.stored.assignments.keys();
        let with_models: BTreeSet<&NodeName> = assignments.map(|a| &a.node).collect();
        let nodes = self.nodes.iter().map(|(name, node)| GuardedNode {
            name,
            connection: node.health.connection(),
            has_models: with_models.contains(name),
            given_up: self.stored.given_up.contains(name),
        });
        let nodes: Vec<_> = nodes.collect();
        let was_held = self.loss_guard.hold().is_some();
        self.loss_guard.update(&nodes, now);
        match (was_held, self.loss_guard.hold()) {
            (false, Some(hold)) => tracing::error!("{hold}"),
            (true, None) => tracing::info!(
                "no lost node keeps its models any more: all have returned, or their models may be placed elsewhere"
            ),
            _ => {}
        }
    }

    /// Gives the lost nodes their grace again if `returned`, which was in the phase `before`, is the
    /// first that is connected after all were lost: then the fault was probably this controller's own,
    /// and the others return as well.
    pub(super) fn expect_returns(&mut self, returned: &NodeName, before: NodePhase, now: Instant) {
        let is_connected = |node: &NodeState| node.health.connection() == NodeConnection::Connected;
        let mut others = self.nodes.iter().filter(|(name, _)| *name != returned);
        if before != NodePhase::Lost || others.any(|(_, node)| is_connected(node)) {
            return;
        }
        for (name, node) in &mut self.nodes {
            if name != returned {
                node.health.expect_return(now);
            }
        }
    }
}
