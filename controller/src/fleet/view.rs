//! The fleet at one moment, indexed for the request path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_core::spec::Model;
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1::ModelStatus;

use super::{Link, NodeRecord, ReplicaLoad};

/// The fleet at one moment. Never changes; the next moment is another view.
#[derive(Debug, Default)]
pub struct FleetView {
    /// Counts the views. 0 is the one before anything was read from the store.
    pub generation: u64,
    pub models: BTreeMap<ModelName, Arc<ModelView>>,
    /// The models again, for the request path.
    pub by_name: HashMap<ModelName, Arc<ModelView>>,
    pub nodes: BTreeMap<NodeName, Arc<NodeView>>,
    /// Whether the store was read.
    pub synced: bool,
}

/// A model and where it can be asked.
#[derive(Debug)]
pub struct ModelView {
    pub model: Model,
    /// See [`Model::serving_revision`].
    pub revision: u64,
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// The replicas that take requests.
    pub replicas: Vec<Replica>,
    /// The nodes it is assigned to, ready or not.
    pub assigned: BTreeSet<NodeName>,
    /// Nodes that failed to run this revision, with what they said, until they are asked
    /// again.
    pub failures: BTreeMap<NodeName, String>,
}

/// A replica that takes requests.
#[derive(Debug, Clone)]
pub struct Replica {
    pub node: NodeName,
    pub link: Arc<Link>,
    pub load: Arc<ReplicaLoad>,
}

/// A node, what it should run and what it runs.
#[derive(Debug)]
pub struct NodeView {
    pub name: NodeName,
    pub record: NodeRecord,
    pub phase: NodePhase,
    pub assigned: BTreeSet<ModelName>,
    /// What it reported last; newer than the view itself.
    pub reported: Arc<ArcSwap<Vec<ModelStatus>>>,
}

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePhase {
    /// Linked: takes models and requests.
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
            Self::Ready => "Ready",
            Self::Suspect => "Suspect",
            Self::Lost => "Lost",
        }
    }
}
