//! A model and the replicas that can answer for it, indexed for the request path.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use flotilla_core::rollout::ModelRevisions;
use flotilla_core::spec::Model;
use flotilla_core::{ModelRevision, NodeName, ZoneName};

use crate::{ReplicaStats, ReplicaTransport};

/// A replica that takes requests.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    /// The node that the replica runs on.
    pub node: NodeName,
    /// The node's privacy zones. Empty: it is in none.
    pub zones: Arc<BTreeSet<ZoneName>>,
    /// The revision that the replica serves.
    pub revision: ModelRevision,
    /// Sends requests to the node.
    pub transport: Arc<dyn ReplicaTransport>,
    /// The replica's load, and what its answers have shown about its speed and energy.
    pub stats: Arc<ReplicaStats>,
}

/// A model and the replicas that can answer for it.
#[derive(Debug)]
pub struct ModelEndpoints {
    /// The model's desired state.
    pub model: Model,
    /// The revisions of the model.
    pub revisions: ModelRevisions,
    /// The model in its stable revision. `None` where that is the desired one, or none exists.
    pub stable: Option<Arc<Model>>,
    /// When the fleet learned of the model, in seconds since 1970.
    pub created: u64,
    /// Whether a replica is expected soon, in case there is none now. Requests then wait for it.
    pub coming: bool,
    /// The replicas, those on nodes of the same privacy zones side by side.
    replicas: Vec<ReplicaView>,
    /// The ranges in `replicas` of the nodes in each zone. A range has the nodes of the same zones, and is in the
    /// list of each of them.
    zones: HashMap<ZoneName, Vec<Range<usize>>>,
    /// The index in `replicas` of each node.
    by_node: HashMap<NodeName, usize>,
    /// The revisions that the replicas serve.
    served: BTreeSet<ModelRevision>,
}

impl ModelEndpoints {
    /// Indexes the replicas of a model. Their order does not matter.
    #[must_use]
    pub fn new(model: Model, revisions: ModelRevisions, mut replicas: Vec<ReplicaView>) -> Self {
        replicas.sort_by(|a, b| a.zones.cmp(&b.zones));
        let by_node = replicas.iter().enumerate();
        Self {
            model,
            revisions,
            stable: None,
            created: 0,
            coming: false,
            zones: zone_ranges(&replicas),
            by_node: by_node
                .map(|(index, replica)| (replica.node.clone(), index))
                .collect(),
            served: replicas.iter().map(|replica| replica.revision).collect(),
            replicas,
        }
    }

    /// The replicas that take requests.
    #[must_use]
    pub fn replicas(&self) -> &[ReplicaView] {
        &self.replicas
    }

    /// The replica on a node, if there is one.
    #[must_use]
    pub fn on_node(&self, node: &NodeName) -> Option<&ReplicaView> {
        self.by_node.get(node).map(|index| &self.replicas[*index])
    }

    /// The revisions that the replicas serve.
    #[must_use]
    pub fn served_revisions(&self) -> &BTreeSet<ModelRevision> {
        &self.served
    }

    /// The revision that the replicas serve. While they serve several or none: the stable one, or the desired
    /// one where no rollout has completed yet.
    #[must_use]
    pub fn serving_revision(&self) -> ModelRevision {
        let only = self.served.first().filter(|_| self.served.len() == 1);
        let before = self.revisions.stable.unwrap_or(self.revisions.desired);
        only.copied().unwrap_or(before)
    }

    /// Returns whether an answer of this model may send the request outside these privacy zones: because
    /// of the desired spec, because of the stable spec, or because a replica serves a revision that is
    /// neither of the two.
    #[must_use]
    pub fn leaves_zones(&self, zones: &BTreeSet<ZoneName>) -> bool {
        let known = |revision: ModelRevision| {
            revision == self.revisions.desired || Some(revision) == self.revisions.stable
        };
        let stable = self.stable.as_ref();
        self.model.leaves_zones(zones)
            || stable.is_some_and(|stable| stable.leaves_zones(zones))
            || !self.served.iter().all(|revision| known(*revision))
    }

    /// Returns the replicas in one of `zones`, or all replicas where `zones` is `None`. The result is
    /// empty if the model [leaves the zones](Self::leaves_zones). The cost does not depend on the
    /// number of replicas, nor on the number of other zones.
    #[must_use]
    pub fn eligible(&self, zones: Option<&BTreeSet<ZoneName>>) -> EligibleReplicas<'_> {
        let ranges: Vec<Range<usize>> = match zones {
            Some(zones) if self.leaves_zones(zones) => Vec::new(),
            None => Vec::from([Range {
                start: 0,
                end: self.replicas.len(),
            }]),
            Some(zones) => {
                let ranges = zones.iter().filter_map(|zone| self.zones.get(zone));
                let mut ranges: Vec<_> = ranges.flatten().cloned().collect();
                // A node in several of the zones is one candidate.
                ranges.sort_unstable_by_key(|range| range.start);
                ranges.dedup();
                ranges
            }
        };
        EligibleReplicas {
            endpoints: self,
            len: ranges.iter().map(Range::len).sum(),
            ranges,
        }
    }
}

/// The ranges of replicas on nodes of the same zones, which lie side by side, by each of these zones.
fn zone_ranges(replicas: &[ReplicaView]) -> HashMap<ZoneName, Vec<Range<usize>>> {
    let mut ranges: HashMap<_, Vec<_>> = HashMap::new();
    let mut start = 0;
    for equal in replicas.chunk_by(|a, b| a.zones == b.zones) {
        let range = start..start + equal.len();
        start = range.end;
        for zone in equal[0].zones.iter() {
            ranges.entry(zone.clone()).or_default().push(range.clone());
        }
    }
    ranges
}

/// The replicas of a model that a request may go to, numbered from 0.
#[derive(Debug)]
pub struct EligibleReplicas<'a> {
    endpoints: &'a ModelEndpoints,
    ranges: Vec<Range<usize>>,
    len: usize,
}

impl<'a> EligibleReplicas<'a> {
    /// The number of eligible replicas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no eligible replica.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of the eligible replica on a node, if there is one.
    #[must_use]
    pub fn index_of(&self, node: &NodeName) -> Option<usize> {
        let position = *self.endpoints.by_node.get(node)?;
        let mut before = 0;
        for range in &self.ranges {
            if range.contains(&position) {
                return Some(before + position - range.start);
            }
            before += range.len();
        }
        None
    }

    /// Returns an eligible replica by its number.
    ///
    /// # Panics
    /// When `index` is not less than [`EligibleReplicas::len`].
    #[must_use]
    pub fn get(&self, mut index: usize) -> &'a ReplicaView {
        for range in &self.ranges {
            if index < range.len() {
                return &self.endpoints.replicas[range.start + index];
            }
            index -= range.len();
        }
        panic!("there is no such eligible replica");
    }
}

#[cfg(test)]
mod tests {
    use flotilla_core::spec::ModelSpec;
    use proptest::prelude::*;

    use super::*;
    use crate::test_fleet::replica_in_zones;

    const ZONES: [&str; 4] = ["a", "b", "c", "d"];

    fn zones(members: &[bool]) -> BTreeSet<ZoneName> {
        let members = ZONES.iter().zip(members).filter(|(_, member)| **member);
        members
            .map(|(zone, _)| ZoneName::new(zone).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn eligible_are_the_replicas_in_one_of_the_zones_each_once(
            nodes in prop::collection::vec(any::<[bool; 4]>(), 0..12),
            requested in any::<[bool; 4]>(),
        ) {
            let requested = zones(&requested);
            let replicas: Vec<_> = nodes.iter().map(|members| zones(members)).collect();
            let inside = replicas.iter().enumerate().filter(|(_, own)| !own.is_disjoint(&requested));
            let expected: BTreeSet<_> = inside.map(|(i, _)| format!("n{i}")).collect();
            let replicas = replicas.into_iter().enumerate();
            let replicas = replicas.map(|(i, zones)| replica_in_zones(&format!("n{i}"), zones));
            let revisions = ModelRevisions {
                desired: ModelRevision(1),
                stable: None,
                failed: None,
            };
            let model = Model::new(flotilla_core::ModelName::new("m").unwrap(), ModelSpec::default());
            let endpoints = ModelEndpoints::new(model, revisions, replicas.collect());
            let eligible = endpoints.eligible(Some(&requested));
            let found: Vec<_> = (0..eligible.len()).map(|i| eligible.get(i).node.clone()).collect();
            for (i, node) in found.iter().enumerate() {
                prop_assert_eq!(eligible.index_of(node), Some(i));
            }
            prop_assert_eq!(found.len(), expected.len());
            let found: BTreeSet<_> = found.iter().map(ToString::to_string).collect();
            prop_assert_eq!(found, expected);
            let all = endpoints.eligible(None);
            prop_assert_eq!(all.len(), nodes.len());
        }
    }
}
