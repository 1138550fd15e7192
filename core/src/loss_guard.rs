//! Decides which lost nodes may have their models placed elsewhere.
//!
//! When many nodes are lost at once, the fault is more likely the network of the controllers than the
//! nodes. Placing everything on the nodes that are left would overload them, and would have to be
//! undone when the others return. Above a limit nothing is placed elsewhere for a while, and then the
//! models of one node after another. Kubernetes' node controller limits its evictions in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::NodeName;

/// Nodes whose connections were lost within this time were lost at once.
pub const LOSS_WINDOW: Duration = Duration::from_secs(60);
/// Number of nodes that may always be lost at once.
const MIN_ALLOWED_LOSSES: usize = 2;
/// Largest number of nodes that a text names.
const MAX_NAMED: usize = 4;
/// Time for which nothing is placed elsewhere after too many nodes were lost at once.
pub const HOLD: Duration = Duration::from_secs(300);
/// Time between two nodes whose models are placed elsewhere after [`HOLD`].
pub const RELEASE_INTERVAL: Duration = Duration::from_secs(60);

/// The connection of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeConnection {
    /// The node is connected.
    Connected,
    /// The node has been disconnected since this time, for less than its grace period.
    Disconnected(Instant),
    /// The node has been disconnected since this time and counts as lost.
    Lost(Instant),
}

impl NodeConnection {
    fn lost_at(self) -> Option<Instant> {
        match self {
            Self::Connected => None,
            Self::Disconnected(at) | Self::Lost(at) => Some(at),
        }
    }
}

/// Which lost nodes may have their models placed elsewhere.
#[derive(Debug, Clone, Default)]
pub struct LossGuard {
    /// The lost nodes whose models may be placed elsewhere.
    released: BTreeSet<NodeName>,
    hold: Option<PlacementHold>,
}

/// The lost nodes whose models stay where they are, since too many nodes were lost at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementHold {
    /// The lost nodes that keep their models, with the time of their disconnection.
    pub nodes: BTreeMap<NodeName, Instant>,
    /// Number of nodes that were lost at once.
    pub lost: usize,
    /// Number of nodes that the fleet had before.
    pub fleet: usize,
    /// When the models of the next node are placed elsewhere.
    pub next_release: Instant,
}

impl LossGuard {
    /// Returns why some lost nodes keep their models. `None`: none does.
    #[must_use]
    pub fn hold(&self) -> Option<&PlacementHold> {
        self.hold.as_ref()
    }

    /// Returns whether the models of a lost node stay assigned to it.
    #[must_use]
    pub fn is_held(&self, node: &NodeName) -> bool {
        self.hold
            .as_ref()
            .is_some_and(|hold| hold.nodes.contains_key(node))
    }

    /// Returns the time of the next change without an event. `None`: there is none.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.hold.as_ref().map(|hold| hold.next_release)
    }

    /// Decides about the nodes that are newly lost, forgets those that have returned, and releases the
    /// nodes that are due at `now`. `nodes` are all nodes of the fleet.
    pub fn update(&mut self, nodes: &[(&NodeName, NodeConnection)], now: Instant) {
        let lost: BTreeMap<&NodeName, Instant> = nodes
            .iter()
            .filter_map(|(name, connection)| match connection {
                NodeConnection::Lost(at) => Some((*name, *at)),
                _ => None,
            })
            .collect();
        self.released.retain(|name| lost.contains_key(name));
        if let Some(hold) = &mut self.hold {
            hold.nodes.retain(|name, _| lost.contains_key(name));
        }
        self.add_newly_lost(nodes, &lost, now);
        self.release_due(now);
    }

    fn add_newly_lost(
        &mut self,
        nodes: &[(&NodeName, NodeConnection)],
        lost: &BTreeMap<&NodeName, Instant>,
        now: Instant,
    ) {
        let is_new = |name: &NodeName| !self.released.contains(name) && !self.is_held(name);
        let new: Vec<(&NodeName, Instant)> = lost
            .iter()
            .filter(|(name, _)| is_new(name))
            .map(|(name, at)| (*name, *at))
            .collect();
        if new.is_empty() {
            return;
        }
        let connected = nodes
            .iter()
            .filter(|(_, connection)| *connection == NodeConnection::Connected)
            .count();
        let mut losses: Vec<Instant> = nodes.iter().filter_map(|(_, c)| c.lost_at()).collect();
        losses.sort_unstable();
        for (name, at) in new {
            let first = losses.partition_point(|other| *other + LOSS_WINDOW < at);
            let end = losses.partition_point(|other| *other <= at + LOSS_WINDOW);
            let at_once = end - first;
            let fleet = connected + at_once;
            if let Some(hold) = &mut self.hold {
                hold.nodes.insert(name.clone(), at);
                hold.lost = hold.lost.max(at_once);
            } else if at_once > allowed_losses(fleet) {
                self.hold = Some(PlacementHold {
                    nodes: BTreeMap::from([(name.clone(), at)]),
                    lost: at_once,
                    fleet,
                    next_release: now + HOLD,
                });
            } else {
                self.released.insert(name.clone());
            }
        }
    }

    /// Releases the node that has been lost for longest if its time has come.
    fn release_due(&mut self, now: Instant) {
        let Some(hold) = &mut self.hold else { return };
        if hold.next_release <= now {
            let longest = hold.nodes.iter().min_by_key(|(name, at)| (**at, *name));
            if let Some(name) = longest.map(|(name, _)| name.clone()) {
                hold.nodes.remove(&name);
                self.released.insert(name);
            }
            hold.next_release = now + RELEASE_INTERVAL;
        }
        if hold.nodes.is_empty() {
            self.hold = None;
        }
    }
}

impl fmt::Display for PlacementHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} nodes were lost within a minute, probably by a fault of the network: ",
            self.lost, self.fleet
        )?;
        let names: Vec<&str> = self.nodes.keys().map(NodeName::as_str).collect();
        f.write_str(&names[..names.len().min(MAX_NAMED)].join(", "))?;
        if names.len() > MAX_NAMED {
            write!(f, " and {} more", names.len() - MAX_NAMED)?;
        }
        let keep = if names.len() == 1 {
            "keeps its"
        } else {
            "keep their"
        };
        write!(
            f,
            " {keep} models. If they do not return within {} minutes, the models of one node a minute \
             are placed elsewhere; `flotilla drain NODE` does so at once for a node that will not return",
            HOLD.as_secs() / 60
        )
    }
}

/// Returns how many of `fleet` nodes may be lost at once: the larger of two nodes and half of them.
fn allowed_losses(fleet: usize) -> usize {
    (fleet / 2).max(MIN_ALLOWED_LOSSES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(n: usize) -> Vec<NodeName> {
        (0..n)
            .map(|i| NodeName::new(&format!("n{i:03}")).unwrap())
            .collect()
    }

    /// Returns the number of lost nodes that keep their models.
    fn held(guard: &LossGuard) -> usize {
        guard.hold().map_or(0, |hold| hold.nodes.len())
    }

    /// Updates a guard of `total` nodes of which the first `lost` are lost since `at`.
    fn lose(guard: &mut LossGuard, total: usize, lost: usize, at: Instant, now: Instant) {
        let names = names(total);
        let connection = |i| {
            if i < lost {
                NodeConnection::Lost(at)
            } else {
                NodeConnection::Connected
            }
        };
        let nodes: Vec<_> = (0..total).map(|i| (&names[i], connection(i))).collect();
        guard.update(&nodes, now);
    }

    #[test]
    fn larger_of_two_nodes_and_half_of_the_fleet_may_be_lost_at_once() {
        let now = Instant::now();
        for (total, lost, expected) in [
            (1, 1, 0),
            (2, 2, 0),
            (3, 2, 0),
            (3, 3, 3),
            (5, 3, 3),
            (8, 4, 0),
            (8, 5, 5),
        ] {
            let mut guard = LossGuard::default();
            lose(&mut guard, total, lost, now, now);
            assert_eq!(held(&guard), expected, "{lost} of {total}");
        }
    }

    #[test]
    fn nodes_that_are_about_to_be_lost_count() {
        let now = Instant::now();
        let names = names(4);
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut nodes: Vec<_> = (0..4)
            .map(|i| (&names[i], NodeConnection::Disconnected(at(i as u64))))
            .collect();
        nodes[0].1 = NodeConnection::Lost(now);
        let mut guard = LossGuard::default();
        guard.update(&nodes, at(15));
        assert!(guard.is_held(&names[0]));
    }

    #[test]
    fn nodes_lost_one_after_another_are_released_at_once() {
        let mut now = Instant::now();
        let names = names(10);
        let mut nodes: Vec<_> = names
            .iter()
            .map(|name| (name, NodeConnection::Connected))
            .collect();
        let mut guard = LossGuard::default();
        for i in 0..10 {
            now += LOSS_WINDOW + Duration::from_secs(1);
            nodes[i].1 = NodeConnection::Lost(now);
            guard.update(&nodes, now);
            assert_eq!(guard.hold(), None);
        }
    }

    #[test]
    fn held_nodes_are_released_one_by_one_after_the_hold() {
        let start = Instant::now();
        let mut guard = LossGuard::default();
        lose(&mut guard, 4, 4, start, start);
        assert_eq!(guard.next_deadline(), Some(start + HOLD));
        lose(
            &mut guard,
            4,
            4,
            start,
            start + HOLD - Duration::from_millis(1),
        );
        assert_eq!(held(&guard), 4);
        let mut now = start + HOLD;
        for left in [3, 2, 1] {
            lose(&mut guard, 4, 4, start, now);
            assert_eq!(held(&guard), left);
            lose(&mut guard, 4, 4, start, now + RELEASE_INTERVAL / 2);
            assert_eq!(held(&guard), left);
            now += RELEASE_INTERVAL;
        }
        lose(&mut guard, 4, 4, start, now);
        assert_eq!(guard.hold(), None);
        assert_eq!(guard.next_deadline(), None);
    }

    #[test]
    fn text_says_what_happened_and_what_happens_next() {
        let now = Instant::now();
        let mut guard = LossGuard::default();
        lose(&mut guard, 8, 6, now, now);
        let text = guard.hold().unwrap().to_string();
        assert!(
            text.starts_with(
                "6 of 8 nodes were lost within a minute, probably by a fault of the network: \
                 n000, n001, n002, n003 and 2 more keep their models. If they do not return within 5 minutes"
            ),
            "{text}"
        );
    }

    #[test]
    fn hold_ends_when_the_nodes_return() {
        let start = Instant::now();
        let mut guard = LossGuard::default();
        lose(&mut guard, 8, 8, start, start);
        lose(&mut guard, 8, 1, start, start + Duration::from_secs(10));
        assert_eq!(held(&guard), 1);
        lose(&mut guard, 8, 0, start, start + Duration::from_secs(20));
        assert_eq!(guard.hold(), None);
    }

    proptest! {
        #[test]
        fn each_lost_node_is_either_held_or_released(
            total in 1usize..30, steps in prop::collection::vec((0usize..30, 0u64..20, any::<bool>()), 1..80),
        ) {
            let mut now = Instant::now();
            let names = names(total);
            let mut nodes: Vec<_> = names.iter().map(|name| (name, NodeConnection::Connected)).collect();
            let mut guard = LossGuard::default();
            for (node, wait, lost) in steps {
                now += Duration::from_secs(wait);
                nodes[node % total].1 = if lost { NodeConnection::Lost(now) } else { NodeConnection::Connected };
                let before = guard.released.clone();
                guard.update(&nodes, now);
                let newly = guard.released.difference(&before).count();
                for (name, connection) in &nodes {
                    let is_lost = matches!(connection, NodeConnection::Lost(_));
                    let is_known = guard.is_held(name) != guard.released.contains(*name);
                    prop_assert_eq!(is_lost, is_known);
                }
                prop_assert!(newly <= 1, "each step loses one node at most");
            }
        }

        #[test]
        fn nodes_lost_together_are_all_held_or_all_released(
            total in 1usize..200, lost in 0usize..200, spread in 0u64..60,
        ) {
            let lost = lost.min(total);
            let start = Instant::now();
            let names = names(total);
            let mut guard = LossGuard::default();
            // All are disconnected before the first one counts as lost.
            for counted in 1..=lost {
                let connection = |i: usize| {
                    let at = start + Duration::from_secs(spread * i as u64 / total as u64);
                    if i < counted {
                        NodeConnection::Lost(at)
                    } else if i < lost {
                        NodeConnection::Disconnected(at)
                    } else {
                        NodeConnection::Connected
                    }
                };
                let nodes: Vec<_> = (0..total).map(|i| (&names[i], connection(i))).collect();
                guard.update(&nodes, start + Duration::from_secs(60));
            }
            let expected = if lost > (total / 2).max(2) { lost } else { 0 };
            prop_assert_eq!(held(&guard), expected);
        }
    }
}
