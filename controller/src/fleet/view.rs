//! The fleet at one moment, indexed for the request path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flotilla_core::ModelRevision;
use flotilla_core::artifact::Manifest;
use flotilla_core::energy::NodePressure;
pub use flotilla_core::health::NodePhase;
use flotilla_core::spec::{Model, Sha256Digest};
use flotilla_core::{Bytes, ModelName, NodeName};
use flotilla_dispatch::{DispatchView, ModelEndpoints, RoutingView};
use flotilla_gateway::Readiness;
use flotilla_proto::v1::{ModelStatus, NodeEnergy};

use super::{
    ControllerRecord, FailedRevisionRecord, FetchRecord, ModelManifests, NodeLink,
    NodeOperationRecord, NodeRecord,
};
use crate::store;

/// The fleet at one moment. Never changes; the next moment is another view.
#[derive(Debug, Default)]
pub struct FleetView {
    /// Counts the views. 0 is the one before anything was read from the store.
    pub generation: u64,
    pub models: BTreeMap<ModelName, Arc<ModelView>>,
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
    /// The model, its revisions and the replicas that take requests.
    pub endpoints: Arc<ModelEndpoints>,
    /// Its files, where controllers deliver them and have them.
    pub files: Option<Arc<Manifest>>,
    /// Whether its files are on the nodes or known to controllers: it can be placed.
    pub resolved: bool,
    /// How fetching its files goes.
    pub fetch: Option<FetchRecord>,
    /// Its files in that revision.
    pub stable_files: Option<Arc<Manifest>>,
    /// The revision that did not load, while it is the one wished for.
    pub condemned: Option<FailedRevisionRecord>,
    /// The nodes it is assigned to, ready or not, with the revision they are to serve.
    pub assigned: BTreeMap<NodeName, ModelRevision>,
    /// Nodes that failed to run a revision, with what they said, until they are asked again.
    pub failures: BTreeMap<NodeName, LoadFailureView>,
    /// Memory of one replica, as given or as nodes have found.
    pub memory: Option<Bytes>,
    /// Requests that wait on controllers for a first replica.
    pub waiting: u32,
}

/// A node's failure to run a revision of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailureView {
    pub revision: ModelRevision,
    pub problem: String,
}

/// A node, what it should run and what it runs.
#[derive(Debug)]
pub struct NodeView {
    pub name: NodeName,
    pub record: NodeRecord,
    /// Whether the store has this record.
    pub kept: bool,
    pub phase: NodePhase,
    /// Whether it disconnected too often lately to be given new models.
    pub flapping: bool,
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
            throttled: !energy.throttle_reason.is_empty(),
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
        if revision == self.endpoints.revisions.desired {
            return self
                .resolved
                .then_some((&self.endpoints.model, self.files.as_deref()));
        }
        let stable = self.endpoints.stable.as_deref();
        let stable = stable.filter(|_| self.endpoints.revisions.stable == Some(revision));
        stable.map(|stable| (stable, self.stable_files.as_deref()))
    }
}

impl FleetView {
    /// The part of the view that requests are dispatched over.
    #[must_use]
    pub fn dispatch_view(&self) -> DispatchView {
        let mut notes = Vec::new();
        if !self.synced {
            notes.push("the store has not been read yet".to_owned());
        }
        notes.extend(self.store_problem.clone());
        let mut nodes = self.nodes.values();
        if !nodes.any(|node| node.phase == NodePhase::Ready) {
            notes.push("no node is ready".to_owned());
        }
        let models = self.models.iter();
        DispatchView {
            generation: self.generation,
            models: models
                .map(|(name, model)| (name.clone(), model.endpoints.clone()))
                .collect(),
            routing: self.routing.clone(),
            readiness: Readiness {
                ready: self.synced,
                notes,
            },
        }
    }

    /// The files that controllers have to keep.
    pub fn needed_files(&self) -> impl Iterator<Item = Sha256Digest> {
        let of_models = self.models.values();
        let of_models = of_models.flat_map(|m| m.files.iter().chain(&m.stable_files));
        let all = of_models.chain(self.files.pushed.values());
        all.flat_map(|manifest| manifest.files.iter().map(|file| file.sha256))
    }
}
