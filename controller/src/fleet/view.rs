//! The immutable view of the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use flotilla_core::artifact::Manifest;
pub use flotilla_core::health::NodePhase;
use flotilla_core::loss_guard::PlacementHold;
use flotilla_core::placement::{PlacementPlan, ReplicaMemory, UnplacedReplicas};
use flotilla_core::spec::Model;
use flotilla_core::{Bytes, ModelName, ModelRevision, NodeName, ReplicaReadiness};
use flotilla_dispatch::{DispatchView, ModelEndpoints, RoutingView};
use flotilla_gateway::Readiness;
use flotilla_identity::authority::AuthorityRecord;
use flotilla_identity::enrolment::{Enrolment, JoinTokenRecord};
use flotilla_identity::keys::{ControllerSecret, KeyMap};
use flotilla_proto::v1::ModelPhase;

use super::{
    ControllerRecord, FailedRevisionRecord, FetchRecord, JoinRefusal, LinkRecord, ModelAtRevision,
    ModelManifests, NodeLink, NodeOperationRecord, NodeRecord, NodeReport,
};
use crate::store;

/// The last second that can be written as a date: that of the year 9999, in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// Largest number of nodes that a note names.
const MAX_NAMED: usize = 4;

/// The fleet at one moment. A view never changes: every change makes a new view.
#[derive(Debug, Default)]
pub struct FleetView {
    /// The number of the view. 0 is the empty view before the store was read.
    pub generation: u64,
    /// The models, by name.
    pub models: BTreeMap<ModelName, Arc<ModelView>>,
    /// The nodes, by name.
    pub nodes: BTreeMap<NodeName, Arc<NodeView>>,
    /// The running controllers, by id.
    pub controllers: BTreeMap<String, ControllerRecord>,
    /// The tasks, the router and the measured quality, which requests are routed by.
    pub routing: Arc<RoutingView>,
    /// The manifests of all model files that controllers deliver.
    pub manifests: Arc<ModelManifests>,
    /// The API keys of people and programs, without their secrets.
    pub keys: Arc<KeyMap>,
    /// What the controllers of the fleet identify themselves to each other with, once it is known.
    pub controller_secret: Option<ControllerSecret>,
    /// The id of the leading controller, while one leads.
    pub leader: Option<String>,
    /// The fleet's certificate authority. `None`: it has none.
    pub authority: Option<Arc<AuthorityRecord>>,
    /// The nodes that have enrolled.
    pub enrolments: Arc<BTreeMap<NodeName, Enrolment>>,
    /// The join tokens, by id.
    pub join_tokens: Arc<BTreeMap<String, JoinTokenRecord>>,
    /// The fleet's random id, once it is known.
    pub fleet_id: Option<String>,
    /// The fleet that this controller belonged to, while the store has another one or none.
    pub lost_fleet: Option<String>,
    /// The store's epoch, which counts before its revision.
    pub epoch: u64,
    /// The nodes that say that they have obeyed an epoch which the store cannot have had, with the epoch.
    pub impossible_epochs: BTreeMap<NodeName, u64>,
    /// How often the store was put back to an earlier state since this controller has started.
    pub put_back: u64,
    /// Whether other machines reach this controller without TLS.
    pub insecure: bool,
    /// The nodes that this controller refused lately.
    pub refusals: Vec<JoinRefusal>,
    /// Whether the desired state is known: the store has been read, or what was kept of it.
    pub synced: bool,
    /// When the desired state was read, in seconds since 1970, while it is the one that was kept on the
    /// disk. `None` once the store has been read.
    pub kept_since: Option<u64>,
    /// The placement that solves this view, once somebody has asked about it.
    pub(crate) plan: OnceLock<PlacementPlan>,
    /// Why models have fewer replicas than desired, once somebody has asked about this view.
    pub(crate) unplaced: OnceLock<BTreeMap<ModelName, UnplacedReplicas>>,
    /// Why the store does not answer. `None` while it does. Only changes need the store: requests
    /// are answered all the same.
    pub store_error: Option<String>,
    /// The lost nodes that keep their models, since too many were lost at once. `None`: none does.
    pub placement_hold: Option<PlacementHold>,
    /// The lost nodes whose models may be placed elsewhere, as far as a leader has recorded it.
    pub given_up: BTreeSet<NodeName>,
    /// Why the store takes no changes, though it can be read. `None` while it does.
    pub changes_blocked: Option<String>,
    /// What of the store this version does not understand, as sentences for people.
    pub ignored: Vec<String>,
    /// The entries of the store that this version does not understand at all.
    pub undecoded: UndecodedEntries,
}

/// What entries of the store are about that this version does not understand at all, such as ones that a
/// later version has written. They stay as they are: others understand them.
#[derive(Debug, Default)]
pub struct UndecodedEntries {
    /// The keys of the entries. Only a user may overwrite or delete them.
    pub keys: BTreeSet<String>,
    /// The models of which something is not understood, with the revisions that nodes should go on with. The
    /// fleet's models may have an earlier state of them.
    pub models: BTreeMap<ModelName, BTreeMap<NodeName, ModelRevision>>,
    /// The nodes of which no description is understood.
    pub nodes: BTreeSet<NodeName>,
    /// Whether files may be needed that no model names here.
    pub hides_files: bool,
}

/// A model, where it is assigned, and its rollout.
#[derive(Debug)]
pub struct ModelView {
    /// The model, its revisions and the replicas that take requests.
    pub endpoints: Arc<ModelEndpoints>,
    /// The revision of the store that wrote the model.
    pub stored_revision: store::StoreRevision,
    /// The manifest of the desired revision. `None`: the files are on the nodes, or not known yet.
    pub manifest: Option<Arc<Manifest>>,
    /// Whether the desired revision can be loaded: its files are on the nodes, or its manifest is
    /// known.
    pub loadable: bool,
    /// The progress of fetching the desired revision's files, while they are fetched.
    pub fetch: Option<FetchRecord>,
    /// The manifest of the stable revision, if controllers deliver its files.
    pub stable_manifest: Option<Arc<Manifest>>,
    /// While no revision is stable: the last earlier revision that a node was assigned.
    pub replaced: Option<ModelAtRevision>,
    /// The failure of the desired revision, if it failed to load.
    pub failed_revision: Option<FailedRevisionRecord>,
    /// The nodes that the model is assigned to, with the revision to serve, whether they are ready
    /// or not.
    pub assigned: BTreeMap<NodeName, ModelRevision>,
    /// The recent failures to load the model, by node. A failure expires after a while, and the
    /// node is tried again.
    pub failures: BTreeMap<NodeName, LoadFailureView>,
    /// The memory of one replica: from the spec, measured by a node, or estimated from the files.
    pub memory: ReplicaMemory,
    /// The paths of the model's fields that this version does not know and ignores.
    pub ignored_fields: Vec<String>,
    /// About how many requests are in the pending queues of all controllers: each controller's number is
    /// rounded down to a power of two.
    pub waiting: u32,
}

/// The failure of a node to load or run a revision of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailureView {
    /// The revision that failed.
    pub revision: ModelRevision,
    /// The error that the node reported, with its remedy.
    pub error: String,
}

/// Whether a node has enrolled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NodeEnrolment {
    /// It has not: links have no TLS, or it has not joined since they have.
    #[default]
    None,
    /// It has.
    Enrolled,
    /// It has, and was revoked since.
    Revoked,
}

/// A node: its description, what it should run, and its last report.
#[derive(Debug)]
pub struct NodeView {
    /// The name of the node.
    pub name: NodeName,
    /// The static description of the node.
    pub record: NodeRecord,
    /// Whether the store contains this description, or one that this version does not understand.
    pub stored: bool,
    /// The phase of the node.
    pub phase: NodePhase,
    /// Whether the node disconnected too often lately to get new models.
    pub flapping: bool,
    /// Whether the node is lost but keeps its models, since too many nodes were lost at once.
    pub keeps_models: bool,
    /// Whether the node has been linked to other controllers but not reported to this one for so long
    /// that nothing waits for it any more.
    pub unheard: bool,
    /// Whether the node has enrolled.
    pub enrolment: NodeEnrolment,
    /// The operation on the node: cordon or drain.
    pub operation: NodeOperationRecord,
    /// Whether the node is linked to this controller and has reported to it.
    pub linked_locally: bool,
    /// The node's session with this controller, while there is one.
    pub link: Option<Arc<NodeLink>>,
    /// The links of the node to other controllers, by their ids.
    pub remote_links: BTreeMap<String, LinkRecord>,
    /// The models that the node should run.
    pub assigned: BTreeSet<ModelName>,
    /// The revision of the last change in the store to what the node should run.
    pub desired_revision: store::StoreRevision,
    /// The last report of the node. It is shared with later views, so that it may be newer than
    /// this view.
    pub report: Arc<ArcSwap<NodeReport>>,
}

impl ModelView {
    /// Returns the model and the manifest that a node needs to serve `revision`. `None` if the
    /// revision is neither the desired nor the stable one, or its files are not known yet.
    #[must_use]
    pub fn at_revision(&self, revision: ModelRevision) -> Option<(&Model, Option<&Manifest>)> {
        if revision == self.endpoints.revisions.desired {
            return self
                .loadable
                .then_some((&self.endpoints.model, self.manifest.as_deref()));
        }
        let stable = self.endpoints.stable.as_deref();
        let stable = stable.filter(|_| self.endpoints.revisions.stable == Some(revision));
        stable.map(|stable| (stable, self.stable_manifest.as_deref()))
    }
}

impl NodeView {
    /// Returns the disk space that there is for files of models. `None`: not known.
    #[must_use]
    pub fn disk_budget(&self) -> Option<Bytes> {
        let reported = self.report.load().disk.and_then(|disk| disk.budget_bytes);
        reported.map(Bytes).or(self.record.spec.disk)
    }

    /// Returns whether the node's agent stops: it finishes its requests and accepts no others.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.linked_locally && self.report.load().stopping
    }

    /// Returns whether the node is lost and its models are placed on other nodes.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.phase == NodePhase::Lost && !self.keeps_models
    }

    /// Returns whether the node's replica of a model answers, as far as this controller knows. A node
    /// that only other controllers have heard from is unknown here.
    #[must_use]
    pub fn replica_readiness(&self, model: &ModelName) -> ReplicaReadiness {
        if self.is_given_up() {
            return ReplicaReadiness::NotReady;
        }
        if self.unheard {
            return ReplicaReadiness::Unreachable;
        }
        if self.phase != NodePhase::Ready || !self.linked_locally {
            return ReplicaReadiness::Unknown;
        }
        let report = self.report.load();
        match report.model(model) {
            Some(status) if status.phase() == ModelPhase::Ready => {
                ReplicaReadiness::Ready(ModelRevision(status.revision))
            }
            _ => ReplicaReadiness::NotReady,
        }
    }
}

impl FleetView {
    /// Iterates over the names of the adapters of a model.
    pub fn adapters_of(&self, base: &ModelName) -> impl Iterator<Item = &ModelName> {
        let adapters = self.models.iter().filter(move |(_, model)| {
            let spec = &model.endpoints.model.spec;
            spec.base.as_ref() == Some(base)
        });
        adapters.map(|(name, _)| name)
    }

    /// Returns whether the desired state is that of the store, rather than one that is served on while the
    /// store is away or has lost the fleet.
    #[must_use]
    pub fn is_of_store(&self) -> bool {
        let has_lost_fleet = self.fleet_id.is_none() && self.lost_fleet.is_some();
        self.synced && self.kept_since.is_none() && !has_lost_fleet
    }

    /// Returns whether the desired state is that of the store, which takes changes.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_of_store() && self.store_error.is_none() && self.changes_blocked.is_none()
    }

    /// Returns what makes the view less than current, or keeps changes from being made, as sentences for
    /// people.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.synced {
            notes.push("the store has not been read yet".to_owned());
        }
        if let Some(seconds) = self.kept_since {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
            notes.push(format!(
                "this controller serves the desired state of {} from its disk, because the store has been away since it started: nothing is placed anew",
                humantime::format_rfc3339_seconds(time)
            ));
        }
        notes.extend(self.lost_fleet_note());
        notes.extend(self.store_error.clone());
        notes.extend(self.changes_blocked.clone());
        notes.extend_from_slice(&self.ignored);
        notes.extend(self.placement_hold.as_ref().map(ToString::to_string));
        notes.extend(self.impossible_epochs.iter().take(MAX_NAMED).map(|(node, epoch)| {
            format!(
                "the node '{node}' says that it has obeyed the epoch {epoch}, and the store is at {}: what its agent has kept is damaged, and it follows no change. Stop the agent, delete desired.json in its data directory, and start it again",
                self.epoch
            )
        }));
        notes.extend(self.unheard_note());
        notes
    }

    /// Returns what people should know of the nodes, as sentences: that whoever reaches this controller can be any
    /// node, and which nodes were refused when they joined.
    #[must_use]
    pub fn node_notes(&self) -> Vec<String> {
        let insecure = self.insecure.then(|| {
            "INSECURE: other machines reach this controller without TLS, and whoever reaches it can read and change everything (--insecure)".to_owned()
        });
        let refusals = self.refusals.iter().map(|refusal| {
            let JoinRefusal {
                node,
                address,
                reason,
            } = refusal;
            format!("the node '{node}' at {address} was refused: {reason}")
        });
        insecure.into_iter().chain(refusals).collect()
    }

    /// Names the nodes that are linked to other controllers only, if there are any.
    fn unheard_note(&self) -> Option<String> {
        let unheard = self.nodes.values().filter(|node| node.unheard);
        let names: Vec<&str> = unheard.map(|node| node.name.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        let more = match names.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "this controller has not heard from {}{more} for minutes, although other controllers have: it sends no requests there, and while it leads, rollouts and drains do not wait for these nodes. Check that they reach the address that it advertises with --advertise-link",
            names[..names.len().min(MAX_NAMED)].join(", ")
        ))
    }

    /// Says that the store has lost the fleet, and what to do.
    fn lost_fleet_note(&self) -> Option<String> {
        let lost = self.lost_fleet.as_ref().filter(|_| self.synced)?;
        Some(match &self.fleet_id {
            None => format!(
                "the store is EMPTY: it has lost the fleet '{lost}', which is served as it was until it is back, and nothing is placed anew. Put a snapshot of the store back, or run `flotilla restore` with a backup; to begin a new fleet instead, restart the controllers with --init-store"
            ),
            Some(id) => format!(
                "the store has the fleet '{id}', and this controller belonged to the fleet '{lost}', whose nodes obey no other: correct --store, or put a snapshot of that fleet back; if the change is intended, restart this controller and start the agents with --adopt-fleet {id}"
            ),
        })
    }

    /// Returns the part of the view that requests are dispatched by.
    #[must_use]
    pub fn dispatch_view(&self) -> DispatchView {
        let mut notes = self.notes();
        let mut nodes = self.nodes.values();
        if !nodes.any(|node| node.phase == NodePhase::Ready) {
            notes.push("no node is ready".to_owned());
        }
        notes.extend(self.node_notes());
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

    /// Returns a model that is assigned to a node, as far as it is understood, and its revision.
    #[must_use]
    pub fn assigned(
        &self,
        node: &NodeName,
        model: &ModelName,
    ) -> Option<(Option<&ModelView>, ModelRevision)> {
        let view = self.models.get(model).map(AsRef::as_ref);
        let assigned = view.map(|view| &view.assigned);
        let undecoded = self.undecoded.models.get(model);
        let mut assigned = assigned.into_iter().chain(undecoded);
        let revision = assigned.find_map(|assigned| assigned.get(node))?;
        Some((view, *revision))
    }

    /// Returns the manifests of all files that controllers have to store.
    pub fn needed_manifests(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        let models = self.models.values();
        let of_models = models.flat_map(|m| m.manifest.iter().chain(&m.stable_manifest));
        of_models.chain(self.manifests.pushed.values())
    }
}
