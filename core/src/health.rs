//! The life of a node as the fleet sees it, damped: a short absence moves nothing, and a node
//! that comes and goes is not given new models until it has stayed for a while.
//!
//! ```text
//!            linked                  reported
//!   (new) ──────────► Joining ─────────────────► Ready
//!                        ▲                         │ unlinked
//!                        │ linked                  ▼
//!                        └──────────────────── Suspect ──── grace ────► Lost
//!                        └─────────────────────────────── linked ────────┘
//! ```
//!
//! The damping is that of routes in BGP (RFC 2439): every loss adds to a penalty that halves
//! with time, and from a threshold on the node has to stay for longer, the higher the penalty.
//! Cordoning and draining are wishes of people and not part of this.

use std::time::{Duration, Instant};

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePhase {
    /// Linked, but has not yet told what it runs.
    Joining,
    /// Linked: takes requests.
    Ready,
    /// Away, but not for long: keeps its models, gets no requests.
    Suspect,
    /// Away for longer than the grace: its models are placed elsewhere.
    Lost,
}

impl NodePhase {
    /// The phase's name for people.
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

/// A penalty halves in this time.
const HALF_LIFE: Duration = Duration::from_secs(300);
/// Losses in a short time that are still forgiven at once.
const FORGIVEN: f64 = 2.0;
/// How long a node has to stay at the first loss that is not; twice as long with each further.
const FIRST_HOLD: Duration = Duration::from_secs(30);
/// Never longer than this.
const LONGEST_HOLD: Duration = Duration::from_secs(900);

/// The life of one node.
#[derive(Debug, Clone)]
pub struct NodeLifecycle {
    phase: NodePhase,
    /// When the phase began.
    since: Instant,
    /// Losses, each worth less the longer it is ago.
    penalty: f64,
    /// When the penalty was that.
    punished: Instant,
    /// From when on it is trusted with new models again, where it is not now.
    steady_from: Option<Instant>,
}

impl NodeLifecycle {
    /// A node that is known but away.
    #[must_use]
    pub fn disconnected(now: Instant) -> Self {
        Self {
            phase: NodePhase::Suspect,
            since: now,
            penalty: 0.0,
            punished: now,
            steady_from: None,
        }
    }

    /// The phase it is in.
    #[must_use]
    pub fn phase(&self) -> NodePhase {
        self.phase
    }

    /// It is linked.
    pub fn on_connected(&mut self, now: Instant) {
        if matches!(self.phase, NodePhase::Joining | NodePhase::Ready) {
            return;
        }
        let penalty = self.decayed(now);
        if penalty > FORGIVEN {
            let doublings = (penalty - FORGIVEN).ceil().min(16.0) as i32 - 1;
            let hold = FIRST_HOLD.mul_f64(2f64.powi(doublings)).min(LONGEST_HOLD);
            self.steady_from = Some(now + hold);
        }
        self.enter(NodePhase::Joining, now);
    }

    /// It has told what it runs.
    pub fn on_report(&mut self, now: Instant) {
        if self.phase == NodePhase::Joining {
            self.enter(NodePhase::Ready, now);
        }
    }

    /// Its last link is gone.
    pub fn on_disconnected(&mut self, now: Instant) {
        if matches!(self.phase, NodePhase::Joining | NodePhase::Ready) {
            self.penalty = self.decayed(now) + 1.0;
            self.punished = now;
            self.enter(NodePhase::Suspect, now);
        }
    }

    /// Its absence counts from now on only: nobody could have seen it before.
    pub fn restart_grace(&mut self, now: Instant) {
        if self.phase == NodePhase::Suspect {
            self.since = now;
        }
    }

    /// Lets happen what is due. Returns whether anything has: it is lost, or steady again.
    pub fn apply_timeouts(&mut self, grace: Duration, now: Instant) -> bool {
        if self.next_deadline(grace).is_none_or(|due| due > now) {
            return false;
        }
        if self.phase == NodePhase::Suspect {
            self.enter(NodePhase::Lost, now);
        } else {
            self.steady_from = None;
        }
        true
    }

    /// When something happens by itself next.
    #[must_use]
    pub fn next_deadline(&self, grace: Duration) -> Option<Instant> {
        match self.phase {
            NodePhase::Suspect => Some(self.since + grace),
            NodePhase::Joining | NodePhase::Ready => self.steady_from,
            NodePhase::Lost => None,
        }
    }

    /// Whether it is trusted with new models at `now`.
    #[must_use]
    pub fn is_flapping(&self, now: Instant) -> bool {
        self.steady_from.is_some_and(|from| from > now)
    }

    fn enter(&mut self, phase: NodePhase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    fn decayed(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.punished);
        self.penalty * 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_node_joins_is_ready_is_suspected_and_is_lost() {
        let now = Instant::now();
        let mut life = NodeLifecycle::disconnected(now);
        life.on_connected(now);
        assert_eq!(life.phase(), NodePhase::Joining);
        life.on_report(now);
        assert_eq!(
            (life.phase(), life.next_deadline(GRACE)),
            (NodePhase::Ready, None)
        );
        life.on_disconnected(now);
        assert_eq!(life.phase(), NodePhase::Suspect);
        assert!(!life.apply_timeouts(GRACE, now + second(4)));
        assert!(life.apply_timeouts(GRACE, now + GRACE));
        assert_eq!(
            (life.phase(), life.next_deadline(GRACE)),
            (NodePhase::Lost, None)
        );
        life.on_connected(now + second(60));
        life.on_report(now + second(60));
        assert!(life.phase() == NodePhase::Ready && !life.is_flapping(now + second(60)));
    }

    #[test]
    fn an_excused_absence_counts_anew() {
        let now = Instant::now();
        let mut life = NodeLifecycle::disconnected(now);
        life.restart_grace(now + second(4));
        assert!(!life.apply_timeouts(GRACE, now + second(8)));
        assert!(life.apply_timeouts(GRACE, now + second(9)));
    }

    #[test]
    fn a_node_that_comes_and_goes_has_to_stay_ever_longer() {
        let mut now = Instant::now();
        let mut life = NodeLifecycle::disconnected(now);
        let mut holds = Vec::new();
        for _ in 0..9 {
            life.on_connected(now);
            life.on_report(now);
            let deadline = life.next_deadline(GRACE);
            holds.push(deadline.map_or(Duration::ZERO, |due| due - now).as_secs());
            now += second(2);
            life.on_disconnected(now);
            now += second(2);
        }
        assert_eq!(holds[..3], [0, 0, 0]);
        assert_eq!(holds[3..], [30, 60, 120, 240, 480, 900]);
        // It is trusted again once it has stayed.
        life.on_connected(now);
        life.on_report(now);
        assert!(life.is_flapping(now));
        assert!(life.apply_timeouts(GRACE, now + LONGEST_HOLD));
        assert!(!life.is_flapping(now + LONGEST_HOLD));
        assert_eq!(
            (life.phase(), life.next_deadline(GRACE)),
            (NodePhase::Ready, None)
        );
        // An hour later all is forgiven.
        now += second(3_600);
        life.on_disconnected(now);
        life.on_connected(now);
        assert!(!life.is_flapping(now));
    }
}
