//! The life cycle of a node as the fleet sees it. A short disconnection moves no models, and a node
//! that flaps gets no new models until it has stayed connected for a while.
//!
//! ```text
//!           connected                 report
//!   (new) ──────────► Joining ─────────────────► Ready
//!                        ▲                         │ disconnected
//!                        │ connected               ▼
//!                        └──────────────────── Suspect ──── grace ────► Lost
//!                        └────────────────────────────── connected ──────┘
//! ```
//!
//! Flapping is damped as for routes in BGP (RFC 2439): every disconnection adds 1 to a penalty that
//! decays exponentially, and a node whose penalty is above a threshold must stay connected for a
//! time that doubles with the penalty. Cordon and drain are node operations and not part of this.

use std::time::{Duration, Instant};

use crate::loss_guard::NodeConnection;

/// The phase of a node in its life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePhase {
    /// Connected, but has not yet reported its models.
    Joining,
    /// Connected and takes requests.
    Ready,
    /// Disconnected for less than the grace period: keeps its assignments, gets no requests.
    Suspect,
    /// Disconnected for longer than the grace period: its models are placed on other nodes, unless too
    /// many nodes were lost at once.
    Lost,
}

impl NodePhase {
    /// Returns the name of the phase.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "Joining",
            Self::Ready => "Ready",
            Self::Suspect => "Suspect",
            Self::Lost => "Lost",
        }
    }
}

/// Time in which a penalty decays to half.
const PENALTY_HALF_LIFE: Duration = Duration::from_secs(300);
/// Largest penalty without consequences: two disconnections in a short time.
const TOLERATED_PENALTY: f64 = 2.0;
/// Time that a node must stay connected at the first disconnection above the tolerated penalty. It
/// doubles with each further one.
const INITIAL_HOLD: Duration = Duration::from_secs(30);
/// Longest time that a node must stay connected.
const MAX_HOLD: Duration = Duration::from_secs(900);

/// The life cycle of one node: its phase and its penalty for flapping.
#[derive(Debug, Clone)]
pub struct NodeLifecycle {
    phase: NodePhase,
    /// Start of the phase, for a lost node that of its grace period. The grace period is counted from
    /// it.
    since: Instant,
    /// Number of disconnections, decayed, as of `penalty_time`.
    penalty: f64,
    /// Time of the last disconnection.
    penalty_time: Instant,
    /// End of the hold after flapping. `None`: the node does not flap.
    hold_until: Option<Instant>,
}

impl NodeLifecycle {
    /// Returns the life cycle of a node that is known but not connected.
    #[must_use]
    pub fn disconnected(now: Instant) -> Self {
        Self {
            phase: NodePhase::Suspect,
            since: now,
            penalty: 0.0,
            penalty_time: now,
            hold_until: None,
        }
    }

    /// Returns the current phase.
    #[must_use]
    pub fn phase(&self) -> NodePhase {
        self.phase
    }

    /// Handles that the node has a link.
    pub fn on_connected(&mut self, now: Instant) {
        if matches!(self.phase, NodePhase::Joining | NodePhase::Ready) {
            return;
        }
        let penalty = self.decayed_penalty(now);
        if penalty > TOLERATED_PENALTY {
            let doublings = (penalty - TOLERATED_PENALTY).ceil().min(16.0) as i32 - 1;
            let hold = INITIAL_HOLD.mul_f64(2f64.powi(doublings)).min(MAX_HOLD);
            self.hold_until = Some(now + hold);
        }
        self.enter(NodePhase::Joining, now);
    }

    /// Handles the node's first report of its models after it connected.
    pub fn on_report(&mut self, now: Instant) {
        if self.phase == NodePhase::Joining {
            self.enter(NodePhase::Ready, now);
        }
    }

    /// Handles that the node lost its last link.
    pub fn on_disconnected(&mut self, now: Instant) {
        if matches!(self.phase, NodePhase::Joining | NodePhase::Ready) {
            self.penalty = self.decayed_penalty(now) + 1.0;
            self.penalty_time = now;
            self.enter(NodePhase::Suspect, now);
        }
    }

    /// Counts the grace period of a disconnected node from `now`. Called when links could not be
    /// observed before.
    pub fn restart_grace(&mut self, now: Instant) {
        if self.phase == NodePhase::Suspect {
            self.since = now;
        }
    }

    /// Gives a lost node its grace period again. Called when the first node returns after all were
    /// disconnected, since the others probably return, too.
    pub fn expect_return(&mut self, now: Instant) {
        if self.phase == NodePhase::Lost {
            self.enter(NodePhase::Suspect, now);
        }
    }

    /// Makes the changes that are due at `now`: a disconnected node is lost, or a hold ends. Returns
    /// whether anything changed.
    pub fn apply_timeouts(&mut self, grace: Duration, now: Instant) -> bool {
        if self.next_deadline(grace).is_none_or(|due| due > now) {
            return false;
        }
        if self.phase == NodePhase::Suspect {
            self.phase = NodePhase::Lost;
        } else {
            self.hold_until = None;
        }
        true
    }

    /// Returns the time of the next change without an event. `None`: there is none.
    #[must_use]
    pub fn next_deadline(&self, grace: Duration) -> Option<Instant> {
        match self.phase {
            NodePhase::Suspect => Some(self.since + grace),
            NodePhase::Joining | NodePhase::Ready => self.hold_until,
            NodePhase::Lost => None,
        }
    }

    /// Returns whether and since when the node is disconnected.
    #[must_use]
    pub fn connection(&self) -> NodeConnection {
        match self.phase {
            NodePhase::Joining | NodePhase::Ready => NodeConnection::Connected,
            NodePhase::Suspect => NodeConnection::Disconnected(self.since),
            NodePhase::Lost => NodeConnection::Lost(self.since),
        }
    }

    /// Returns whether the node has disconnected too often lately to get new models.
    #[must_use]
    pub fn is_flapping(&self, now: Instant) -> bool {
        self.hold_until.is_some_and(|end| end > now)
    }

    fn enter(&mut self, phase: NodePhase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    fn decayed_penalty(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.penalty_time);
        self.penalty * 0.5f64.powf(elapsed.as_secs_f64() / PENALTY_HALF_LIFE.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn node_joins_becomes_ready_suspect_and_lost() {
        let now = Instant::now();
        let mut lifecycle = NodeLifecycle::disconnected(now);
        lifecycle.on_connected(now);
        assert_eq!(lifecycle.phase(), NodePhase::Joining);
        lifecycle.on_report(now);
        assert_eq!(
            (lifecycle.phase(), lifecycle.next_deadline(GRACE)),
            (NodePhase::Ready, None)
        );
        lifecycle.on_disconnected(now);
        assert_eq!(lifecycle.phase(), NodePhase::Suspect);
        assert!(!lifecycle.apply_timeouts(GRACE, now + seconds(4)));
        assert!(lifecycle.apply_timeouts(GRACE, now + GRACE));
        assert_eq!(
            (lifecycle.phase(), lifecycle.next_deadline(GRACE)),
            (NodePhase::Lost, None)
        );
        lifecycle.on_connected(now + seconds(60));
        lifecycle.on_report(now + seconds(60));
        assert!(lifecycle.phase() == NodePhase::Ready && !lifecycle.is_flapping(now + seconds(60)));
    }

    #[test]
    fn restarted_grace_period_counts_from_the_restart() {
        let now = Instant::now();
        let mut lifecycle = NodeLifecycle::disconnected(now);
        lifecycle.restart_grace(now + seconds(4));
        assert!(!lifecycle.apply_timeouts(GRACE, now + seconds(8)));
        assert!(lifecycle.apply_timeouts(GRACE, now + seconds(9)));
    }

    #[test]
    fn lost_node_keeps_the_time_of_its_disconnection_and_may_get_its_grace_again() {
        let now = Instant::now();
        let mut lifecycle = NodeLifecycle::disconnected(now);
        assert_eq!(lifecycle.connection(), NodeConnection::Disconnected(now));
        assert!(lifecycle.apply_timeouts(GRACE, now + GRACE));
        assert_eq!(lifecycle.connection(), NodeConnection::Lost(now));
        lifecycle.expect_return(now + seconds(60));
        assert_eq!(lifecycle.phase(), NodePhase::Suspect);
        assert_eq!(
            lifecycle.next_deadline(GRACE),
            Some(now + seconds(60) + GRACE)
        );
    }

    #[test]
    fn flapping_node_must_stay_connected_ever_longer() {
        let mut now = Instant::now();
        let mut lifecycle = NodeLifecycle::disconnected(now);
        let mut holds = Vec::new();
        for _ in 0..9 {
            lifecycle.on_connected(now);
            lifecycle.on_report(now);
            let deadline = lifecycle.next_deadline(GRACE);
            holds.push(deadline.map_or(Duration::ZERO, |due| due - now).as_secs());
            now += seconds(2);
            lifecycle.on_disconnected(now);
            now += seconds(2);
        }
        assert_eq!(holds[..3], [0, 0, 0]);
        assert_eq!(holds[3..], [30, 60, 120, 240, 480, 900]);
        // The hold ends once the node has stayed connected for that long.
        lifecycle.on_connected(now);
        lifecycle.on_report(now);
        assert!(lifecycle.is_flapping(now));
        assert!(lifecycle.apply_timeouts(GRACE, now + MAX_HOLD));
        assert!(!lifecycle.is_flapping(now + MAX_HOLD));
        assert_eq!(
            (lifecycle.phase(), lifecycle.next_deadline(GRACE)),
            (NodePhase::Ready, None)
        );
        // The penalty has decayed after an hour.
        now += seconds(3_600);
        lifecycle.on_disconnected(now);
        lifecycle.on_connected(now);
        assert!(!lifecycle.is_flapping(now));
    }
}
