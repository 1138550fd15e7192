//! The health of a node, from its sessions with all controllers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla_core::health::{NodeLifecycle, NodePhase};
use flotilla_core::loss_guard::NodeConnection;

/// A node's connection to this controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalSession {
    /// The node has no session here.
    None,
    /// The node has joined but not reported yet.
    Joined,
    /// The node has joined and reported.
    Reporting,
}

/// The health of a node, derived from its sessions with all controllers.
pub(super) struct NodeHealth {
    lifecycle: NodeLifecycle,
    /// The other controllers that the node is linked to, by id.
    remote_links: BTreeSet<String>,
}

impl NodeHealth {
    /// A node without any session, which becomes lost unless it connects within its grace.
    pub(super) fn disconnected(now: Instant) -> Self {
        Self {
            lifecycle: NodeLifecycle::disconnected(now),
            remote_links: BTreeSet::new(),
        }
    }

    /// Returns the phase of the node.
    pub(super) fn phase(&self) -> NodePhase {
        self.lifecycle.phase()
    }

    /// Returns whether the node disconnected too often lately to get new models.
    pub(super) fn is_flapping(&self, now: Instant) -> bool {
        self.lifecycle.is_flapping(now)
    }

    /// Returns whether another controller has a link to the node.
    pub(super) fn has_remote_links(&self) -> bool {
        !self.remote_links.is_empty()
    }

    /// Records that another controller has a link to the node. Call [`update`](Self::update) next.
    pub(super) fn add_remote_link(&mut self, controller_id: String) {
        self.remote_links.insert(controller_id);
    }

    /// Records that another controller has lost its link to the node. Call
    /// [`update`](Self::update) next.
    pub(super) fn remove_remote_link(&mut self, controller_id: &str) {
        self.remote_links.remove(controller_id);
    }

    /// Forgets the links to other controllers, before they are read from the store again.
    pub(super) fn clear_remote_links(&mut self) {
        self.remote_links.clear();
    }

    /// Moves the node to the phase that follows from its sessions. Returns whether it changed.
    pub(super) fn update(&mut self, local: LocalSession, now: Instant) -> bool {
        let before = self.phase();
        let remote = self.has_remote_links();
        if local != LocalSession::None || remote {
            self.lifecycle.on_connected(now);
        } else {
            self.lifecycle.on_disconnected(now);
        }
        // A controller publishes its link to a node only after the node's first report.
        if local == LocalSession::Reporting || remote {
            self.lifecycle.on_report(now);
        }
        before != self.phase()
    }

    /// Restarts the grace of a disconnected node at `now`.
    pub(super) fn restart_grace(&mut self, now: Instant) {
        self.lifecycle.restart_grace(now);
    }

    /// Returns whether and since when the node is disconnected.
    pub(super) fn connection(&self) -> NodeConnection {
        self.lifecycle.connection()
    }

    /// Gives a lost node its grace again at `now`.
    pub(super) fn expect_return(&mut self, now: Instant) {
        self.lifecycle.expect_return(now);
    }

    /// When the phase or the flapping state changes next by itself. While the store is unavailable,
    /// no node becomes lost: another controller may have a link to it.
    pub(super) fn next_deadline(&self, grace: Duration, store_available: bool) -> Option<Instant> {
        if !store_available && self.phase() == NodePhase::Suspect {
            return None;
        }
        self.lifecycle.next_deadline(grace)
    }

    /// Makes the changes that are due at `now`. Returns whether there were any.
    pub(super) fn expire(&mut self, grace: Duration, store_available: bool, now: Instant) -> bool {
        if !store_available && self.phase() == NodePhase::Suspect {
            return false;
        }
        self.lifecycle.apply_timeouts(grace, now)
    }
}
