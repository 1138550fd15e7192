//! The health of a node, from its sessions with all controllers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla_core::health::{NodeLifecycle, NodePhase};
use flotilla_core::loss_guard::NodeConnection;

/// How long a rollout or a drain waits for a node that is linked to other controllers only.
const REPORT_TIMEOUT: Duration = Duration::from_secs(120);

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
    /// Since when the node has been linked to other controllers but not reported to this one.
    unheard_since: Option<Instant>,
    /// Whether that has lasted for longer than [`REPORT_TIMEOUT`].
    is_unheard: bool,
}

impl NodeHealth {
    /// A node without any session, which becomes lost unless it connects within its grace.
    pub(super) fn disconnected(now: Instant) -> Self {
        Self {
            lifecycle: NodeLifecycle::disconnected(now),
            remote_links: BTreeSet::new(),
            unheard_since: None,
            is_unheard: false,
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

    /// Returns whether the node has been linked to other controllers only for so long that nothing
    /// waits for its reports any more.
    pub(super) fn is_unheard(&self) -> bool {
        self.is_unheard
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

    /// Moves the node to the phase that follows from its sessions. Returns whether the phase changed, or
    /// whether something waits for the node's reports.
    pub(super) fn update(&mut self, local: LocalSession, now: Instant) -> bool {
        let before = (self.phase(), self.is_unheard);
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
        self.unheard_since =
            (remote && local != LocalSession::Reporting).then(|| self.unheard_since.unwrap_or(now));
        self.is_unheard &= self.unheard_since.is_some();
        before != (self.phase(), self.is_unheard)
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

    /// When the phase, the flapping state or what waits for the node changes next by itself. While the store is unavailable,
    /// no node becomes lost: another controller may have a link to it.
    pub(super) fn next_deadline(&self, grace: Duration, store_available: bool) -> Option<Instant> {
        if !store_available && self.phase() == NodePhase::Suspect {
            return None;
        }
        let unheard = self.unheard_since.filter(|_| !self.is_unheard);
        let lifecycle = self.lifecycle.next_deadline(grace).into_iter();
        lifecycle
            .chain(unheard.map(|since| since + REPORT_TIMEOUT))
            .min()
    }

    /// Makes the changes that are due at `now`. Returns whether there were any.
    pub(super) fn expire(&mut self, grace: Duration, store_available: bool, now: Instant) -> bool {
        if !store_available && self.phase() == NodePhase::Suspect {
            return false;
        }
        let is_unheard = self
            .unheard_since
            .is_some_and(|since| since + REPORT_TIMEOUT <= now);
        let changed = std::mem::replace(&mut self.is_unheard, is_unheard) != is_unheard;
        self.lifecycle.apply_timeouts(grace, now) || changed
    }
}
