//! The fleet at one moment, indexed for the request path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flotilla_core::ModelRevision;
use flotilla_core::artifact::Manifest;
use flotilla_core::energy::NodePressure;
pub use flotilla_core::health::NodePhase;
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::spec::{Model, Sha256Digest};
use flotilla_core::{Bytes, ModelName, NodeName, ZoneName};
use flotilla_proto::v1::{ModelStatus, NodeEnergy};

use super::{
    ControllerRecord, FailedRevisionRecord, FetchRecord, ModelManifests, NodeLink,
    NodeOperationRecord, NodeRecord, ReplicaStats, RoutingView,
};
use crate::store;

/// The fleet at one moment. Never changes; the next moment is another view.
#[derive(Debug, Default)]
pub struct FleetView {
    /// Counts the views. 0 is the one before anything was read from the store.
    pub generation: u64,
    pub models: BTreeMap<ModelName, Arc<ModelView>>,
    /// The models again, for the request path.
    pub by_name: HashMap<ModelName, Arc<ModelView>>,
    pub nodes: BTreeMap<NodeName, Arc<NodeView>>,
    pub controllers: BTreeMap<String, ControllerRecord>,
    /// What requests are routed by.
    pub routing: Arc<RoutingView>,
    /// What controllers have of models' files.
    pub files: Arc<ModelManifests>,
    /// Which of the controllers leads.
    pub leader: Option<String>,
    /// The fleet's own name.
    pub fleet: Option<String>,
    /// Whether the store was read.
    pub synced: bool,
    /// Why the store does not answer, if it does not: changes wait, all else goes on.
    pub store_problem: Option<String>,
}

/// A model and where it can be asked.
#[derive(Debug)]
pub struct ModelView {
    pub model: Model,
    pub revisions: ModelRevisions,
    /// Its files, where controllers deliver them and have them.
    pub files: Option<Arc<Manifest>>,
    /// Whether its files are on the nodes or known to controllers: it can be placed.
    pub resolved: bool,
    /// How fetching its files goes.
    pub fetch: Option<FetchRecord>,
    /// The model as it was in its stable revision.
    pub stable: Option<Arc<Model>>,
    /// Its files in that revision.
    pub stable_files: Option<Arc<Manifest>>,
    /// The revision that did not load, while it is the one wished for.
    pub condemned: Option<FailedRevisionRecord>,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// The replicas that take requests, those of a privacy zone side by side.
    pub replicas: Vec<ReplicaView>,
    /// Where in `replicas` those of each zone are.
    pub zones: BTreeMap<Option<ZoneName>, Range<usize>>,
    /// The revisions that they serve.
    pub served: BTreeSet<ModelRevision>,
    /// Where in `replicas` that of each node is.
    pub places: HashMap<NodeName, usize>,
    /// The nodes it is assigned to, ready or not, with the revision they are to serve.
    pub assigned: BTreeMap<NodeName, ModelRevision>,
    /// Nodes that failed to run a revision, with what they said, until they are asked again.
    pub failures: BTreeMap<NodeName, LoadFailureView>,
    /// Memory of one replica, as given or as nodes have found.
    pub memory: Option<Bytes>,
    /// Requests that wait on controllers for a first replica.
    pub waiting: u32,
    /// Whether a replica may be expected to answer soon, if none does.
    pub coming: bool,
}

/// A node's failure to run a revision of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailureView {
    pub revision: ModelRevision,
    pub problem: String,
}

/// A replica that takes requests.
#[derive(Debug, Clone)]
pub struct ReplicaView {
    pub node: NodeName,
    /// The node's privacy zone.
    pub zone: Option<ZoneName>,
    /// What it serves.
    pub revision: ModelRevision,
    pub link: Arc<NodeLink>,
    pub load: Arc<ReplicaStats>,
}

/// A node, what it should run and what it runs.
#[derive(Debug)]
pub struct NodeView {
    pub name: NodeName,
    pub record: NodeRecord,
    /// Whether the store has this record.
    pub kept: bool,
    pub phase: NodePhase,
    /// Whether it is trusted with new models.
    pub steady: bool,
    pub order: NodeOperationRecord,
    /// Whether it is linked to this controller and reports to it.
    pub here: bool,
    /// The session with this controller, while there is one.
    pub link: Option<Arc<NodeLink>>,
    pub assigned: BTreeSet<ModelName>,
    /// The last change in the store that was about what it should run.
    pub touched: store::StoreRevision,
    /// What it reported last; newer than the view itself.
    pub report: Arc<ArcSwap<NodeReport>>,
}

/// What a node reported last.
#[derive(Debug, Default)]
pub struct NodeReport {
    pub models: Vec<ModelStatus>,
    pub uses: HashMap<ModelName, LastUse>,
    /// What the node draws and how it is, once it has said so.
    pub energy: Option<NodeEnergy>,
}

/// When a replica was used.
#[derive(Debug, Clone, Copy)]
pub struct LastUse {
    /// Requests it had begun.
    pub begun: u64,
    /// Whether it had any when it last reported.
    pub busy: bool,
    /// When it was last seen to have had any.
    pub at: Instant,
}

impl NodeReport {
    /// What is reported of a model.
    #[must_use]
    pub fn model(&self, name: &ModelName) -> Option<&ModelStatus> {
        self.models
            .iter()
            .find(|status| status.name == name.as_str())
    }

    /// What strains the node.
    #[must_use]
    pub fn strain(&self) -> NodePressure {
        let Some(energy) = &self.energy else {
            return NodePressure::default();
        };
        let battery = energy.battery.filter(|battery| battery.discharging);
        NodePressure {
            battery: battery.map(|battery| battery.charge),
            throttled: !energy.throttled.is_empty(),
        }
    }

    /// For how long nobody has asked its replica of a model. `None` while somebody does.
    #[must_use]
    pub fn idle(&self, model: &ModelName, now: Instant) -> Option<Duration> {
        match self.uses.get(model) {
            Some(used) if used.busy => None,
            Some(used) => Some(now.saturating_duration_since(used.at)),
            None => Some(Duration::ZERO),
        }
    }
}

impl ModelView {
    /// The model as a node that is to serve `revision` needs it. `None` for a revision that
    /// nobody but the nodes that run it knows any more.
    #[must_use]
    pub fn at(&self, revision: ModelRevision) -> Option<(&Model, Option<&Manifest>)> {
        if revision == self.revisions.wished {
            return self
                .resolved
                .then_some((&self.model, self.files.as_deref()));
        }
        let stable = self.stable.as_deref();
        let stable = stable.filter(|_| self.revisions.stable == Some(revision));
        stable.map(|stable| (stable, self.stable_files.as_deref()))
    }
}

/// Where the replicas of each zone are, which lie side by side.
pub(super) fn zones(replicas: &[ReplicaView]) -> BTreeMap<Option<ZoneName>, Range<usize>> {
    let mut zones = BTreeMap::new();
    let mut begin = 0;
    for same in replicas.chunk_by(|a, b| a.zone == b.zone) {
        let end = begin + same.len();
        zones.insert(same[0].zone.clone(), begin..end);
        begin = end;
    }
    zones
}

/// Where the replica of each node is.
pub(super) fn places(replicas: &[ReplicaView]) -> HashMap<NodeName, usize> {
    let places = replicas.iter().enumerate();
    places
        .map(|(at, replica)| (replica.node.clone(), at))
        .collect()
}

/// Replicas of a model that a request may go to.
pub struct EligibleReplicas<'a> {
    replicas: &'a [ReplicaView],
    places: &'a HashMap<NodeName, usize>,
    ranges: Vec<Range<usize>>,
    len: usize,
}

impl<'a> EligibleReplicas<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which of them the one on this node is.
    #[must_use]
    pub fn on(&self, node: &NodeName) -> Option<usize> {
        let place = *self.places.get(node)?;
        let mut before = 0;
        for range in &self.ranges {
            if range.contains(&place) {
                return Some(before + place - range.start);
            }
            before += range.len();
        }
        None
    }

    /// One of them.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn get(&self, mut index: usize) -> &'a ReplicaView {
        for range in &self.ranges {
            if index < range.len() {
                return &self.replicas[range.start + index];
            }
            index -= range.len();
        }
        panic!("there is no such eligible replica");
    }
}

impl ModelView {
    /// Whether a request that is held to these privacy zones may leave them by being answered by a
    /// replica: by what is wished for, by what is still served, or because it is not known what a
    /// replica serves.
    #[must_use]
    pub fn leaves(&self, zones: &BTreeSet<ZoneName>) -> bool {
        let known = |revision: ModelRevision| {
            revision == self.revisions.wished || Some(revision) == self.revisions.stable
        };
        let before = self.stable.as_ref();
        self.model.leaves(zones)
            || before.is_some_and(|before| before.leaves(zones))
            || !self.served.iter().all(|revision| known(*revision))
    }

    /// The revision that its replicas serve, but for those that a change has come to already.
    #[must_use]
    pub fn serving(&self) -> ModelRevision {
        self.revisions.stable.unwrap_or(self.revisions.wished)
    }

    /// The replicas in one of `zones`, none where an answer of theirs may leave the zones all the
    /// same; all replicas where no zones are asked for. Costs nothing for each replica.
    #[must_use]
    pub fn eligible(&self, zones: Option<&BTreeSet<ZoneName>>) -> EligibleReplicas<'_> {
        let ranges: Vec<Range<usize>> = match zones {
            Some(zones) if self.leaves(zones) => Vec::new(),
            None => Vec::from([Range {
                start: 0,
                end: self.replicas.len(),
            }]),
            Some(zones) => {
                let of = |zone: &ZoneName| self.zones.get(&Some(zone.clone())).cloned();
                zones.iter().filter_map(of).collect()
            }
        };
        EligibleReplicas {
            replicas: &self.replicas,
            places: &self.places,
            len: ranges.iter().map(Range::len).sum(),
            ranges,
        }
    }
}

impl FleetView {
    /// The files that controllers have to keep.
    pub fn needed_files(&self) -> impl Iterator<Item = Sha256Digest> {
        let of_models = self.models.values();
        let of_models = of_models.flat_map(|m| m.files.iter().chain(&m.stable_files));
        let all = of_models.chain(self.files.pushed.values());
        all.flat_map(|manifest| manifest.files.iter().map(|file| file.sha256))
    }
}
