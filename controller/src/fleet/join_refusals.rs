//! The nodes that were refused when they joined this controller, for the notes that people read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::NodeName;

/// How long a refusal is shown after its last repetition. Agents try again after 5 s at the latest.
const SHOWN: Duration = Duration::from_secs(30);
/// The largest number of refusals that are kept.
const MAX_REFUSALS: usize = 100;

/// A node that was refused when it joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRefusal {
    /// The name of the node.
    pub node: NodeName,
    /// The address that it dialled from.
    pub address: String,
    /// The reason, and what to do about it.
    pub reason: String,
}

/// The recent refusals, one for each name.
#[derive(Default)]
pub(super) struct JoinRefusals {
    by_node: BTreeMap<NodeName, (JoinRefusal, Instant)>,
}

impl JoinRefusals {
    /// Records a refusal. Returns whether people see something new.
    pub(super) fn record(&mut self, refusal: JoinRefusal, now: Instant) -> bool {
        let known = self.by_node.get(&refusal.node);
        if known.is_none() && self.by_node.len() >= MAX_REFUSALS {
            return false;
        }
        // The port differs with every attempt.
        let is_new = known.is_none_or(|(known, _)| known.reason != refusal.reason);
        self.by_node.insert(refusal.node.clone(), (refusal, now));
        is_new
    }

    /// The refusals that are shown, by name.
    pub(super) fn shown(&self) -> Vec<JoinRefusal> {
        let refusals = self.by_node.values();
        refusals.map(|(refusal, _)| refusal.clone()).collect()
    }

    /// When the next refusal is no longer shown.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_node.values().map(|(_, last)| *last + SHOWN).min()
    }

    /// Removes the refusals that were not repeated. Returns whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.by_node.len();
        self.by_node.retain(|_, (_, last)| *last + SHOWN > now);
        self.by_node.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_once_until_it_is_not_repeated() {
        let refusal = |address: &str, reason: &str| JoinRefusal {
            node: NodeName::new("n1").unwrap(),
            address: address.into(),
            reason: reason.into(),
        };
        let (mut refusals, now) = (JoinRefusals::default(), Instant::now());
        assert!(refusals.record(refusal("a:1", "foreign"), now));
        let later = now + SHOWN / 2;
        assert!(!refusals.record(refusal("a:2", "foreign"), later));
        assert!(!refusals.expire(now + SHOWN), "it was repeated");
        assert_eq!(refusals.shown(), [refusal("a:2", "foreign")]);
        assert_eq!(refusals.next_deadline(), Some(later + SHOWN));
        assert!(refusals.expire(later + SHOWN));
        assert!(refusals.shown().is_empty());
    }
}
