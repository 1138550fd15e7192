//! Decides which lost nodes may have their models placed elsewhere.
//!
//! When many nodes are lost at once, the fault is more likely the network of the controllers than the
//! nodes. Placing everything on the nodes that are left would overload them, and would have to be
//! undone when the others return. Above a limit nothing is placed elsewhere for a while, and then the
//! models of one node after another. Kubernetes' node controller limits its evictions in the same way.
//!
//! Each lost node is judged by the losses within a minute of its own, so that a node that fails later
//! does not wait for those that are held. A node counts only while it has models and its loss is news:
//! the leader records in the store which nodes are given up, as Kubernetes records it in taints, and a
//! controller that starts does not count them again. Once most of the nodes that were lost together
//! have returned, those that stay away are given up soon.

use std::collections::BTreeMap;
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
/// Time in which the last nodes return once so many have returned that the others could be lost at
/// once: longer than an agent's longest pause between two attempts to dial, and the time to join.
pub const RETURN_TIME: Duration = Duration::from_secs(30);

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

/// A node of the fleet, as far as the guard needs it.
#[derive(Debug, Clone, Copy)]
pub struct GuardedNode<'a> {
    /// The name of the node.
    pub name: &'a NodeName,
    /// The connection of the node.
    pub connection: NodeConnection,
    /// Whether models are assigned to the node.
    pub has_models: bool,
    /// Whether the store records that the node's models may be placed elsewhere.
    pub given_up: bool,
}

impl GuardedNode<'_> {
    /// Returns whether there is something to decide if the node is lost: it has models, and whether they
    /// may be placed elsewhere has not been decided before.
    fn is_undecided(&self) -> bool {
        self.has_models && !self.given_up
    }
}

/// Why the models of a lost node may be placed elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// The guard has decided it. The loss counts among those of the same minute.
    Decided,
    /// There was nothing to decide.
    Undisputed,
}

/// Which lost nodes may have their models placed elsewhere.
#[derive(Debug, Clone, Default)]
pub struct LossGuard {
    /// The lost nodes whose models may be placed elsewhere.
    released: BTreeMap<NodeName, Release>,
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
    /// The time of the last loss that was one of too many. Nodes that are lost within [`LOSS_WINDOW`]
    /// of it are held as well.
    last_loss: Instant,
    /// Since when so many nodes have returned that the held ones could be lost at once.
    settled_since: Option<Instant>,
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
        self.hold.as_ref().map(PlacementHold::next_deadline)
    }

    /// Decides about the nodes that are newly lost, forgets those that have returned, and releases the
    /// nodes that are due at `now`. `nodes` are all nodes of the fleet.
    pub fn update(&mut self, nodes: &[GuardedNode<'_>], now: Instant) {
        let is_lost = |node: &GuardedNode<'_>| matches!(node.connection, NodeConnection::Lost(_));
        let lost: BTreeMap<&NodeName, &GuardedNode<'_>> = nodes
            .iter()
            .filter(|node| is_lost(node))
            .map(|node| (node.name, node))
            .collect();
        self.released.retain(|name, _| lost.contains_key(name));
        if let Some(hold) = &mut self.hold {
            hold.nodes
                .retain(|name, _| lost.get(name).is_some_and(|node| node.is_undecided()));
        }
        self.add_newly_lost(nodes, &lost, now);
        self.release_due(nodes, now);
    }

    /// Returns when a node was disconnected if its loss counts.
    fn counted_loss(&self, node: &GuardedNode<'_>) -> Option<Instant> {
        let counts = match self.released.get(node.name) {
            Some(release) => *release == Release::Decided,
            None => node.is_undecided(),
        };
        node.connection.lost_at().filter(|_| counts)
    }

    fn add_newly_lost(
        &mut self,
        nodes: &[GuardedNode<'_>],
        lost: &BTreeMap<&NodeName, &GuardedNode<'_>>,
        now: Instant,
    ) {
        let connected = connected(nodes);
        let losses = nodes.iter().filter_map(|node| self.counted_loss(node));
        let mut losses: Vec<Instant> = losses.collect();
        losses.sort_unstable();
        let mut new = Vec::new();
        for (name, node) in lost {
            if self.released.contains_key(*name) || self.is_held(name) {
                continue;
            }
            match self.counted_loss(node) {
                Some(at) => new.push((*name, at)),
                None => {
                    self.released.insert((*name).clone(), Release::Undisputed);
                }
            }
        }
        let mut within_limit = Vec::new();
        for (name, at) in new {
            let first = losses.partition_point(|other| *other + LOSS_WINDOW < at);
            let end = losses.partition_point(|other| *other <= at + LOSS_WINDOW);
            let at_once = end - first;
            let fleet = connected + at_once;
            if at_once <= allowed_losses(fleet) {
                within_limit.push((name, at));
                continue;
            }
            let hold = self.hold.get_or_insert_with(|| PlacementHold {
                nodes: BTreeMap::new(),
                lost: at_once,
                fleet,
                next_release: now + HOLD,
                last_loss: at,
                settled_since: None,
            });
            hold.nodes.insert(name.clone(), at);
            hold.last_loss = hold.last_loss.max(at);
            if at_once > hold.lost {
                (hold.lost, hold.fleet) = (at_once, fleet);
            }
        }
        for (name, at) in within_limit {
            match &mut self.hold {
                Some(hold) if hold.is_part(at) => {
                    hold.nodes.insert(name.clone(), at);
                }
                _ => {
                    self.released.insert(name.clone(), Release::Decided);
                }
            }
        }
    }

    /// Releases the node that has been lost for longest if its time has come, or all held nodes if the
    /// others have returned.
    fn release_due(&mut self, nodes: &[GuardedNode<'_>], now: Instant) {
        let Some(hold) = &mut self.hold else { return };
        let is_away = |node: &&GuardedNode<'_>| match self.released.get(node.name) {
            Some(Release::Decided) => node.connection.lost_at().is_some_and(|at| hold.is_part(at)),
            Some(Release::Undisputed) => false,
            None => node.is_undecided() && node.connection.lost_at().is_some(),
        };
        let away = nodes.iter().filter(is_away).count();
        let settled = away <= allowed_losses(connected(nodes) + away);
        hold.settled_since = settled.then(|| hold.settled_since.unwrap_or(now));
        if hold
            .settled_since
            .is_some_and(|since| since + RETURN_TIME <= now)
        {
            let nodes = std::mem::take(&mut hold.nodes).into_keys();
            self.released
                .extend(nodes.map(|name| (name, Release::Decided)));
        } else if hold.next_release <= now {
            let longest = hold.nodes.iter().min_by_key(|(name, at)| (**at, *name));
            if let Some(name) = longest.map(|(name, _)| name.clone()) {
                hold.nodes.remove(&name);
                self.released.insert(name, Release::Decided);
            }
            hold.next_release = now + RELEASE_INTERVAL;
        }
        if hold.nodes.is_empty() {
            self.hold = None;
        }
    }
}

impl PlacementHold {
    /// Returns whether a node that was disconnected at this time was lost together with the held ones.
    fn is_part(&self, at: Instant) -> bool {
        at <= self.last_loss + LOSS_WINDOW && self.last_loss <= at + LOSS_WINDOW
    }

    fn next_deadline(&self) -> Instant {
        let settled = self.settled_since.map(|since| since + RETURN_TIME);
        settled.map_or(self.next_release, |settled| settled.min(self.next_release))
    }
}

/// Returns how many nodes are connected.
fn connected(nodes: &[GuardedNode<'_>]) -> usize {
    let is_connected = |node: &&GuardedNode<'_>| node.connection == NodeConnection::Connected;
    nodes.iter().filter(is_connected).count()
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
mod tests;
