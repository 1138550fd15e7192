//! The fleet's state: plain data, changed by events, with the time passed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flotilla_core::placement::Assignment;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{Bytes, ModelName, NodeName};
use flotilla_proto::v1::{ModelPhase, ModelStatus};
use serde::{Deserialize, Serialize};

use super::{
    FleetEvent, FleetView, Link, ModelView, NodePhase, NodeView, Replica, ReplicaLoad, SessionId,
};
use crate::store::keys::{self, Subject};
use crate::store::{Change, Entry};

/// How long a node that failed to run a model is not asked again.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// What the store keeps of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Tells a returning node from another one of the same name.
    pub identity: String,
    pub labels: BTreeMap<String, String>,
    /// Memory for models.
    pub memory: Bytes,
    pub cores: u32,
    pub cpu: String,
    pub platform: String,
    /// Of the agent's binary.
    pub version: String,
}

/// What the store keeps of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelRecord {
    /// When the fleet learned of it, in seconds since 1970.
    pub created: u64,
    /// The resource as it was applied.
    pub resource: serde_json::Value,
}

struct WishedModel {
    model: Model,
    created: u64,
    /// See [`Model::serving_revision`].
    revision: u64,
}

struct Node {
    record: NodeRecord,
    /// The session, while there is one.
    link: Option<Arc<Link>>,
    /// Whether the session's sync stream has brought a report.
    reporting: bool,
    /// Since when there is no session.
    away_since: Instant,
    /// Away for longer than the grace.
    lost: bool,
    reported: Arc<ArcSwap<Vec<ModelStatus>>>,
    loads: HashMap<ModelName, Arc<ReplicaLoad>>,
}

/// A node's failure to run one revision of a model.
struct Failure {
    revision: u64,
    problem: String,
    until: Instant,
}

/// Everything the controller knows.
pub(super) struct FleetState {
    grace: Duration,
    /// When the controller began: nodes it only knows from the store count as away since.
    started: Instant,
    synced: bool,
    models: BTreeMap<ModelName, WishedModel>,
    assignments: BTreeSet<Assignment>,
    nodes: BTreeMap<NodeName, Node>,
    failures: BTreeMap<Assignment, Failure>,
}

impl FleetState {
    pub(super) fn new(grace: Duration, started: Instant) -> Self {
        Self {
            grace,
            started,
            synced: false,
            models: BTreeMap::new(),
            assignments: BTreeSet::new(),
            nodes: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Takes an event in. Returns whether the view changes by it.
    pub(super) fn apply(&mut self, event: FleetEvent, now: Instant) -> bool {
        match event {
            FleetEvent::Stored(entries) => self.stored(entries),
            FleetEvent::Changed(change) => self.changed(change),
            FleetEvent::Joined { node, record, link } => {
                self.joined(node, record, link);
                true
            }
            FleetEvent::Reported {
                node,
                session,
                models,
            } => self.reported(&node, &session, models, now),
            FleetEvent::Connections { node } => self.nodes.contains_key(&node),
            FleetEvent::Left { node, session } => self.left(&node, &session, now),
        }
    }

    /// When something happens by itself next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let away = self
            .nodes
            .values()
            .filter(|node| node.link.is_none() && !node.lost);
        let losses = away.map(|node| node.away_since + self.grace);
        let retries = self.failures.values().map(|failure| failure.until);
        losses.chain(retries).min()
    }

    /// Lets happen what is due at `now`. Returns whether the view changes by it.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for (name, node) in &mut self.nodes {
            if node.link.is_none() && !node.lost && node.away_since + self.grace <= now {
                tracing::warn!(node = %name, "node is lost");
                node.lost = true;
                changed = true;
            }
        }
        let before = self.failures.len();
        self.failures.retain(|_, failure| failure.until > now);
        changed || self.failures.len() != before
    }

    fn stored(&mut self, entries: Vec<Entry>) -> bool {
        self.synced = true;
        self.models.clear();
        self.assignments.clear();
        let known: BTreeSet<String> = entries.iter().map(|e| e.key.clone()).collect();
        self.nodes
            .retain(|name, node| node.link.is_some() || known.contains(&keys::node(name)));
        for entry in entries {
            self.put(entry);
        }
        true
    }

    fn changed(&mut self, change: Change) -> bool {
        match change {
            Change::Put(entry) => self.put(entry),
            Change::Delete { key } => match keys::parse(&key) {
                Some(Subject::Model(name)) => {
                    self.failures
                        .retain(|assignment, _| assignment.model != name);
                    self.models.remove(&name).is_some()
                }
                Some(Subject::Assignment(assignment)) => self.assignments.remove(&assignment),
                Some(Subject::Node(name)) => {
                    let linked = |node: &Node| node.link.is_some();
                    !self.nodes.get(&name).is_none_or(linked) && self.nodes.remove(&name).is_some()
                }
                None => false,
            },
        }
    }

    fn put(&mut self, entry: Entry) -> bool {
        match keys::parse(&entry.key) {
            Some(Subject::Model(name)) => match read_model(&entry) {
                Ok(wished) => {
                    self.failures
                        .retain(|assignment, _| assignment.model != name);
                    self.models.insert(name, wished);
                    true
                }
                Err(problem) => {
                    tracing::error!(
                        key = entry.key,
                        problem,
                        "the store holds a model that cannot be read"
                    );
                    false
                }
            },
            Some(Subject::Assignment(assignment)) => self.assignments.insert(assignment),
            Some(Subject::Node(name)) => {
                let Ok(record) = serde_json::from_slice::<NodeRecord>(&entry.value) else {
                    tracing::error!(
                        key = entry.key,
                        "the store holds a node that cannot be read"
                    );
                    return false;
                };
                let started = self.started;
                let node = self
                    .nodes
                    .entry(name)
                    .or_insert_with(|| Node::away(record, started));
                node.link.is_none()
            }
            None => false,
        }
    }

    fn joined(&mut self, name: NodeName, record: NodeRecord, link: Arc<Link>) {
        tracing::info!(node = %name, session = %link.session, "node joined");
        self.failures
            .retain(|assignment, _| assignment.node != name);
        let node = self
            .nodes
            .entry(name)
            .or_insert_with(|| Node::away(record.clone(), self.started));
        if let Some(earlier) = node.link.replace(link) {
            earlier.closed.cancel();
        }
        node.record = record;
        node.lost = false;
        node.reporting = false;
        node.loads.clear();
        node.reported.store(Arc::default());
    }

    fn left(&mut self, name: &NodeName, session: &SessionId, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        // A session that a newer one has replaced is no news.
        if node
            .link
            .as_ref()
            .is_none_or(|link| link.session != *session)
        {
            return false;
        }
        tracing::info!(node = %name, %session, "node left");
        node.link = None;
        node.reporting = false;
        node.away_since = now;
        node.loads.clear();
        true
    }

    fn reported(
        &mut self,
        name: &NodeName,
        session: &SessionId,
        models: Vec<ModelStatus>,
        now: Instant,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        if node
            .link
            .as_ref()
            .is_none_or(|link| link.session != *session)
        {
            return false;
        }
        // Counters move with every report; only what decides who is asked makes a new view.
        let deciding = |models: &[ModelStatus]| -> Vec<(String, i32, u64)> {
            let deciding = models.iter().map(|m| (m.name.clone(), m.phase, m.revision));
            deciding.collect()
        };
        let changed = !node.reporting || deciding(&node.reported.load()) != deciding(&models);
        node.reporting = true;
        for status in models.iter().filter(|m| m.phase() == ModelPhase::Failed) {
            let Ok(model) = ModelName::new(&status.name) else {
                continue;
            };
            let assignment = Assignment {
                node: name.clone(),
                model,
            };
            let failure = Failure {
                revision: status.revision,
                problem: match status.remedy.as_str() {
                    "" => status.problem.clone(),
                    remedy => format!("{} ({remedy})", status.problem),
                },
                until: now + FAILURE_MEMORY,
            };
            let known = self.failures.get(&assignment);
            if known.is_none_or(|known| known.revision != failure.revision) {
                self.failures.insert(assignment, failure);
            }
        }
        node.reported.store(Arc::new(models));
        changed
    }

    /// The view of this state.
    pub(super) fn view(&mut self, generation: u64) -> FleetView {
        let mut assigned_to: BTreeMap<&ModelName, BTreeSet<NodeName>> = BTreeMap::new();
        let mut assigned_models: BTreeMap<&NodeName, BTreeSet<ModelName>> = BTreeMap::new();
        for Assignment { node, model } in &self.assignments {
            assigned_to.entry(model).or_default().insert(node.clone());
            assigned_models
                .entry(node)
                .or_default()
                .insert(model.clone());
        }
        let mut models = BTreeMap::new();
        for (name, wished) in &self.models {
            let assigned = assigned_to.remove(name).unwrap_or_default();
            let replicas = assigned
                .iter()
                .filter_map(|node| {
                    let state = self.nodes.get_mut(node)?;
                    state.replica(node, name, wished)
                })
                .collect();
            let failures = self
                .failures
                .iter()
                .filter(|(a, failure)| a.model == *name && failure.revision == wished.revision)
                .map(|(a, failure)| (a.node.clone(), failure.problem.clone()))
                .collect();
            let view = ModelView {
                model: wished.model.clone(),
                revision: wished.revision,
                created: wished.created,
                replicas,
                assigned,
                failures,
            };
            models.insert(name.clone(), Arc::new(view));
        }
        let nodes = self
            .nodes
            .iter()
            .map(|(name, node)| {
                let view = NodeView {
                    name: name.clone(),
                    record: node.record.clone(),
                    phase: node.phase(),
                    assigned: assigned_models.remove(name).unwrap_or_default(),
                    reported: node.reported.clone(),
                };
                (name.clone(), Arc::new(view))
            })
            .collect();
        FleetView {
            generation,
            by_name: models.iter().map(|(n, m)| (n.clone(), m.clone())).collect(),
            models,
            nodes,
            synced: self.synced,
        }
    }
}

impl Node {
    /// A node that is known but not linked.
    fn away(record: NodeRecord, since: Instant) -> Self {
        Self {
            record,
            link: None,
            reporting: false,
            away_since: since,
            lost: false,
            reported: Arc::default(),
            loads: HashMap::new(),
        }
    }

    fn phase(&self) -> NodePhase {
        match &self.link {
            Some(_) if self.reporting => NodePhase::Ready,
            None if self.lost => NodePhase::Lost,
            _ => NodePhase::Suspect,
        }
    }

    /// The node's replica of a model, if it takes requests.
    fn replica(
        &mut self,
        node: &NodeName,
        name: &ModelName,
        wished: &WishedModel,
    ) -> Option<Replica> {
        let link = self.link.as_ref()?;
        if !self.reporting || !link.is_connected() {
            return None;
        }
        let reported = self.reported.load();
        let status = reported
            .iter()
            .find(|status| status.name == name.as_str())?;
        if status.phase() != ModelPhase::Ready || status.revision != wished.revision {
            return None;
        }
        let spec = &wished.model.spec;
        let fits = |load: &Arc<ReplicaLoad>| load.fits(spec.concurrency, spec.queue);
        let load = match self.loads.get(name) {
            Some(load) if fits(load) => load.clone(),
            _ => {
                let load = Arc::new(ReplicaLoad::new(spec.concurrency, spec.queue));
                self.loads.insert(name.clone(), load.clone());
                load
            }
        };
        Some(Replica {
            node: node.clone(),
            link: link.clone(),
            load,
        })
    }
}

fn read_model(entry: &Entry) -> Result<WishedModel, String> {
    let record: ModelRecord = serde_json::from_slice(&entry.value).map_err(|e| e.to_string())?;
    let Resource::Model(model) =
        Resource::from_json(record.resource).map_err(|faults| faults.to_string())?;
    Ok(WishedModel {
        revision: model.serving_revision(),
        model,
        created: record.created,
    })
}

#[cfg(test)]
mod tests;
