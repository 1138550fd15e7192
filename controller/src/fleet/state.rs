//! The fleet's state: plain data, changed by events, with the time passed in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::artifact::Manifest;
use flotilla_core::health::NodePhase;
use flotilla_core::placement::Assignment;
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::spec::{Model, Router};
use flotilla_core::{Bytes, ModelName, ModelRevision, NodeName, StoreRevision};
use flotilla_proto::v1;
use flotilla_proto::v1::{ModelPhase, ModelStatus};

use super::failures::FailureMemory;
use super::files;
use super::node::NodeState;
use super::records::{self, decode};
use super::view::{self, LoadFailureView};
use super::{
    AssignmentRecord, ControllerRecord, DesiredRecord, FailedRevisionRecord, FleetEvent, FleetView,
    ModelManifests, ModelView, NodeLink, NodeOperationRecord, NodeRecord, NodeView, QualityRecord,
    RoutingView, SessionId, StableRecord, TaskView, WaitingRecord,
};
use crate::store::keys::{self, StoreKey};
use crate::store::{StoreChange, StoreEntry};

/// A model as it was when it was stable.
struct StableModel {
    model: Arc<Model>,
    files: Option<Arc<Manifest>>,
    revision: ModelRevision,
}

struct DesiredModelState {
    model: Model,
    created: u64,
}

/// What a node gets beyond its grace to dial a controller that has just started: the longest
/// pause between an agent's tries, and the time to join.
const RETURN: Duration = Duration::from_secs(10);

/// Everything the controller knows.
pub(super) struct FleetState {
    /// This controller.
    id: String,
    /// How long a node may be away before its models are placed elsewhere.
    grace: Duration,
    synced: bool,
    /// Newest revision of the store that was taken in.
    seen: StoreRevision,
    store_problem: Option<String>,
    fleet: Option<String>,
    leader: Option<String>,
    controllers: BTreeMap<String, ControllerRecord>,
    models: BTreeMap<ModelName, DesiredModelState>,
    files: Arc<ModelManifests>,
    routing: Arc<RoutingView>,
    stable: BTreeMap<ModelName, StableModel>,
    condemned: BTreeMap<ModelName, FailedRevisionRecord>,
    assignments: BTreeMap<Assignment, ModelRevision>,
    waiting: BTreeMap<ModelName, BTreeMap<String, u32>>,
    nodes: BTreeMap<NodeName, NodeState>,
    orders: BTreeMap<NodeName, NodeOperationRecord>,
    failures: FailureMemory,
    /// Memory that revisions of models were found to need.
    found: HashMap<(ModelName, ModelRevision), Bytes>,
}

impl FleetState {
    pub(super) fn new(id: &str, grace: Duration) -> Self {
        Self {
            id: id.to_owned(),
            grace,
            synced: false,
            seen: StoreRevision::default(),
            store_problem: None,
            fleet: None,
            leader: None,
            controllers: BTreeMap::new(),
            models: BTreeMap::new(),
            files: Arc::default(),
            routing: Arc::default(),
            stable: BTreeMap::new(),
            condemned: BTreeMap::new(),
            assignments: BTreeMap::new(),
            waiting: BTreeMap::new(),
            nodes: BTreeMap::new(),
            orders: BTreeMap::new(),
            failures: FailureMemory::default(),
            found: HashMap::new(),
        }
    }

    /// The newest revision of the store that was taken in.
    pub(super) fn seen(&self) -> StoreRevision {
        self.seen
    }

    /// Takes an event in. Returns whether the view changes by it.
    pub(super) fn apply(&mut self, event: FleetEvent, now: Instant) -> bool {
        match event {
            FleetEvent::Stored { entries, revision } => self.stored(entries, revision, now),
            FleetEvent::Changed(change) => {
                let was_away = self.back(now);
                self.changed(change, now) || was_away
            }
            FleetEvent::StoreAway(problem) => {
                self.store_problem = Some(problem);
                true
            }
            FleetEvent::StoreBack => self.back(now),
            FleetEvent::Joined { node, record, link } => {
                self.joined(node, record, link, now);
                true
            }
            FleetEvent::Reported {
                node,
                session,
                models,
                energy,
            } => self.reported(&node, &session, (models, energy), now),
            FleetEvent::Connections { node } => self.nodes.contains_key(&node),
            FleetEvent::Left { node, session } => self.left(&node, &session, now),
        }
    }

    /// When something happens by itself next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lives = self
            .nodes
            .values()
            .filter(|node| self.may_expire(node))
            .filter_map(|node| node.life.next_deadline(self.grace));
        lives.chain(self.failures.next_deadline()).min()
    }

    /// Lets happen what is due at `now`. Returns whether the view changes by it.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut changed = self.failures.expire(now);
        let away = self.store_problem.is_some();
        for (name, node) in &mut self.nodes {
            if away && node.life.phase() == NodePhase::Suspect {
                continue;
            }
            if node.life.expire(self.grace, now) {
                if node.life.phase() == NodePhase::Lost {
                    tracing::warn!(node = %name, "node is lost");
                }
                changed = true;
            }
        }
        changed
    }

    /// While the store is away nobody knows whether another controller has a link to a node:
    /// none is given up.
    fn may_expire(&self, node: &NodeState) -> bool {
        self.store_problem.is_none() || node.life.phase() != NodePhase::Suspect
    }

    /// The store answers. Returns whether that is news.
    fn back(&mut self, now: Instant) -> bool {
        if self.store_problem.take().is_none() {
            return false;
        }
        // Other controllers had no way to say which nodes they hold.
        for node in self.nodes.values_mut() {
            node.life.excuse(now);
        }
        true
    }

    fn stored(&mut self, entries: Vec<StoreEntry>, revision: StoreRevision, now: Instant) -> bool {
        let first = !std::mem::replace(&mut self.synced, true);
        self.seen = self.seen.max(revision);
        self.back(now);
        self.leader = None;
        self.controllers.clear();
        self.models.clear();
        self.files = Arc::default();
        self.routing = Arc::default();
        self.stable.clear();
        self.condemned.clear();
        self.assignments.clear();
        self.waiting.clear();
        self.orders.clear();
        for node in self.nodes.values_mut() {
            node.kept = None;
            node.elsewhere.clear();
        }
        for entry in entries {
            self.put(entry, now);
        }
        self.nodes
            .retain(|_, node| node.link.is_some() || node.kept.is_some());
        for node in self.nodes.values_mut() {
            node.touched = revision;
            node.live(now);
            // Nodes of a controller that was away dial it again in their own time.
            node.life.excuse(if first { now + RETURN } else { now });
        }
        true
    }

    fn changed(&mut self, change: StoreChange, now: Instant) -> bool {
        self.seen = self.seen.max(change.revision());
        match change {
            StoreChange::Put(entry) => self.put(entry, now),
            StoreChange::Delete { key, revision } => {
                keys::parse(&key).is_some_and(|subject| self.delete(subject, revision, now))
            }
        }
    }

    fn delete(&mut self, subject: StoreKey, revision: StoreRevision, now: Instant) -> bool {
        match subject {
            StoreKey::Model(name) => {
                self.failures.forget_model(&name);
                self.found.retain(|(model, _), _| *model != name);
                self.models.remove(&name).is_some()
            }
            StoreKey::Task(name) => Arc::make_mut(&mut self.routing)
                .tasks
                .remove(&name)
                .is_some(),
            StoreKey::Router => Arc::make_mut(&mut self.routing).set_router(None),
            StoreKey::Quality(task, model) => Arc::make_mut(&mut self.routing)
                .quality
                .get_mut(&task)
                .is_some_and(|of_task| of_task.remove(&model).is_some()),
            StoreKey::StableRevision(name) => self.stable.remove(&name).is_some(),
            StoreKey::FailedRevision(name) => self.condemned.remove(&name).is_some(),
            StoreKey::Assignment(assignment) => {
                self.touch(&assignment.node, revision);
                self.assignments.remove(&assignment).is_some()
            }
            StoreKey::Node(name) => match self.nodes.get_mut(&name) {
                Some(node) if node.link.is_some() || !node.elsewhere.is_empty() => {
                    node.kept = None;
                    true
                }
                _ => self.nodes.remove(&name).is_some(),
            },
            StoreKey::NodeOperation(name) => self.orders.remove(&name).is_some(),
            StoreKey::Link(name, controller) => self.nodes.get_mut(&name).is_some_and(|node| {
                node.elsewhere.remove(&controller);
                node.live(now)
            }),
            StoreKey::Waiting(name, controller) => self
                .waiting
                .get_mut(&name)
                .is_some_and(|waiting| waiting.remove(&controller).is_some()),
            StoreKey::Controller(id) => self.controllers.remove(&id).is_some(),
            StoreKey::Leader => self.leader.take().is_some(),
            StoreKey::PushedManifest(name) => Arc::make_mut(&mut self.files)
                .pushed
                .remove(&name)
                .is_some(),
            StoreKey::FetchedManifest(id) => {
                Arc::make_mut(&mut self.files).fetched.remove(&id).is_some()
            }
            StoreKey::FetchProgress(id) => {
                Arc::make_mut(&mut self.files).fetches.remove(&id).is_some()
            }
            StoreKey::FleetId => false,
        }
    }

    fn put(&mut self, entry: StoreEntry, now: Instant) -> bool {
        let Some(subject) = keys::parse(&entry.key) else {
            return false;
        };
        let key = entry.key.clone();
        self.put_subject(subject, entry, now)
            .unwrap_or_else(|problem| {
                tracing::error!(key, problem, "the store holds what cannot be read");
                false
            })
    }

    fn put_subject(
        &mut self,
        subject: StoreKey,
        entry: StoreEntry,
        now: Instant,
    ) -> Result<bool, String> {
        let StoreEntry {
            value, revision, ..
        } = entry;
        match subject {
            StoreKey::Model(name) => {
                let record: DesiredRecord = decode(&value)?;
                let wished = DesiredModelState {
                    model: records::resource(record.resource)?,
                    created: record.created,
                };
                let serving = wished.model.serving_revision();
                let known = self.models.get(&name);
                if known.is_none_or(|known| known.model.serving_revision() != serving) {
                    self.failures.forget_model(&name);
                    self.touch_all(&name, revision);
                }
                self.models.insert(name, wished);
            }
            StoreKey::Task(name) => {
                let record: DesiredRecord = decode(&value)?;
                let task = TaskView::new(records::resource(record.resource)?, record.created)?;
                let routing = Arc::make_mut(&mut self.routing);
                routing.tasks.insert(name, Arc::new(task));
            }
            StoreKey::Quality(task, model) => {
                let record: QualityRecord = decode(&value)?;
                let routing = Arc::make_mut(&mut self.routing);
                let of_task = routing.quality.entry(task).or_default();
                of_task.insert(model, record);
            }
            StoreKey::Router => {
                let record: DesiredRecord = decode(&value)?;
                let router: Router = records::resource(record.resource)?;
                Arc::make_mut(&mut self.routing).set_router(Some(router.spec));
            }
            StoreKey::StableRevision(name) => {
                let record: StableRecord = decode(&value)?;
                let model: Model = records::resource(record.resource)?;
                self.touch_all(&name, revision);
                let stable = StableModel {
                    revision: files::revision(&model, record.files.as_ref()),
                    model: Arc::new(model),
                    files: record.files.map(Arc::new),
                };
                self.stable.insert(name, stable);
            }
            StoreKey::FailedRevision(name) => {
                self.condemned.insert(name, decode(&value)?);
            }
            StoreKey::Assignment(assignment) => {
                let record: AssignmentRecord = decode(&value)?;
                self.touch(&assignment.node, revision);
                self.assignments.insert(assignment, record.revision);
            }
            StoreKey::Node(name) => {
                let record: NodeRecord = decode(&value)?;
                let node = self
                    .nodes
                    .entry(name)
                    .or_insert_with(|| NodeState::away(record.clone(), now));
                if node.link.is_none() {
                    node.record = record.clone();
                }
                node.kept = Some(record);
            }
            StoreKey::NodeOperation(name) => {
                self.orders.insert(name, decode(&value)?);
            }
            StoreKey::Link(name, controller) => {
                if controller == self.id {
                    return Ok(false);
                }
                let Some(node) = self.nodes.get_mut(&name) else {
                    return Ok(false);
                };
                node.elsewhere.insert(controller);
                return Ok(node.live(now));
            }
            StoreKey::Waiting(name, controller) => {
                let record: WaitingRecord = decode(&value)?;
                let waiting = self.waiting.entry(name).or_default();
                waiting.insert(controller, record.requests);
            }
            StoreKey::Controller(id) => {
                self.controllers.insert(id, decode(&value)?);
            }
            StoreKey::PushedManifest(name) => {
                let manifest = Arc::new(decode(&value)?);
                Arc::make_mut(&mut self.files).pushed.insert(name, manifest);
            }
            StoreKey::FetchedManifest(id) => {
                let manifest = Arc::new(decode(&value)?);
                Arc::make_mut(&mut self.files).fetched.insert(id, manifest);
            }
            StoreKey::FetchProgress(id) => {
                let record = decode(&value)?;
                Arc::make_mut(&mut self.files).fetches.insert(id, record);
            }
            StoreKey::Leader => self.leader = Some(text(value)?),
            StoreKey::FleetId => self.fleet = Some(text(value)?),
        }
        Ok(true)
    }

    /// Something that concerns what a node should run has changed.
    fn touch(&mut self, node: &NodeName, revision: StoreRevision) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.touched = node.touched.max(revision);
        }
    }

    fn touch_all(&mut self, model: &ModelName, revision: StoreRevision) {
        let nodes: Vec<NodeName> = self
            .assignments
            .keys()
            .filter(|assignment| assignment.model == *model)
            .map(|assignment| assignment.node.clone())
            .collect();
        for node in nodes {
            self.touch(&node, revision);
        }
    }

    fn joined(&mut self, name: NodeName, record: NodeRecord, link: Arc<NodeLink>, now: Instant) {
        tracing::info!(node = %name, session = %link.session, "node joined");
        self.failures.forget_node(&name);
        let node = self
            .nodes
            .entry(name)
            .or_insert_with(|| NodeState::away(record.clone(), now));
        if let Some(earlier) = node.join(record, link) {
            earlier.closed.cancel();
        }
        node.live(now);
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
        node.leave();
        node.live(now);
        true
    }

    fn reported(
        &mut self,
        name: &NodeName,
        session: &SessionId,
        (models, energy): (Vec<ModelStatus>, Option<v1::NodeEnergy>),
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
        for status in &models {
            if let Ok(model) = ModelName::new(&status.name) {
                let at = Assignment {
                    node: name.clone(),
                    model,
                };
                for status in [Some(status), status.next.as_deref()].into_iter().flatten() {
                    learn(&mut self.failures, &mut self.found, &at, status, now);
                }
            }
        }
        let changed = node.take(models, energy, now);
        node.live(now) || changed
    }

    /// The view of this state.
    pub(super) fn view(&mut self, generation: u64, now: Instant) -> FleetView {
        let mut assigned_to: BTreeMap<&ModelName, BTreeMap<NodeName, ModelRevision>> =
            BTreeMap::new();
        let mut assigned_models: BTreeMap<&NodeName, Vec<ModelName>> = BTreeMap::new();
        for (Assignment { node, model }, revision) in &self.assignments {
            let nodes = assigned_to.entry(model).or_default();
            nodes.insert(node.clone(), *revision);
            let models = assigned_models.entry(node).or_default();
            models.push(model.clone());
        }
        let mut failures = self.failures.current();
        let mut models = BTreeMap::new();
        for (name, wished) in &self.models {
            let assigned = assigned_to.remove(name).unwrap_or_default();
            let failures = failures.remove(name).unwrap_or_default();
            let stable = self.stable.get(name);
            let condemned = self.condemned.get(name);
            let source = wished.model.spec.source.as_ref();
            let source = source.filter(|source| source.is_delivered());
            let files = source.and_then(|source| self.files.of(source));
            let resolved = source.is_none() || files.is_some();
            let fetch = source.and_then(|s| self.files.fetches.get(&keys::source_id(s)));
            let revisions = ModelRevisions {
                wished: files::revision(&wished.model, files.map(|files| &**files)),
                stable: stable.map(|stable| stable.revision),
                condemned: condemned.map(|condemned| condemned.revision),
            };
            let spec = &wished.model.spec;
            let nodes = &mut self.nodes;
            let fetching = fetch.is_none_or(|fetch| fetch.problem.is_empty());
            let coming = is_coming(nodes, &assigned, &failures, resolved || fetching);
            let mut replicas: Vec<_> = assigned
                .keys()
                .filter_map(|node| nodes.get_mut(node)?.replica(node, name, spec))
                .collect();
            replicas.sort_by(|a, b| a.zone.cmp(&b.zone));
            let found = self.found.get(&(name.clone(), revisions.goal()));
            let waiting = self.waiting.get(name);
            let view = ModelView {
                model: wished.model.clone(),
                revisions,
                files: files.cloned(),
                resolved,
                fetch: fetch.cloned(),
                stable: stable.map(|stable| stable.model.clone()),
                stable_files: stable.and_then(|stable| stable.files.clone()),
                condemned: condemned
                    .filter(|condemned| condemned.revision == revisions.wished)
                    .cloned(),
                created: wished.created,
                zones: view::zones(&replicas),
                places: view::places(&replicas),
                served: replicas.iter().map(|replica| replica.revision).collect(),
                replicas,
                assigned,
                failures,
                memory: spec
                    .memory
                    .or(found.copied())
                    .or(files.map(|files| files.memory())),
                waiting: waiting.map_or(0, |waiting| waiting.values().sum()),
                coming,
            };
            models.insert(name.clone(), Arc::new(view));
        }
        let nodes = self.nodes.iter().map(|(name, node)| {
            let assigned = assigned_models.remove(name).unwrap_or_default();
            let view = NodeView {
                name: name.clone(),
                record: node.record.clone(),
                kept: node.kept.as_ref() == Some(&node.record),
                phase: node.life.phase(),
                steady: node.life.is_steady(now),
                order: self.orders.get(name).copied().unwrap_or_default(),
                here: node.link.is_some() && node.reporting,
                link: node.link.clone(),
                assigned: assigned.into_iter().collect(),
                touched: node.touched,
                report: node.report.clone(),
            };
            (name.clone(), Arc::new(view))
        });
        FleetView {
            generation,
            nodes: nodes.collect(),
            by_name: models.iter().map(|(n, m)| (n.clone(), m.clone())).collect(),
            models,
            controllers: self.controllers.clone(),
            files: self.files.clone(),
            routing: self.routing.clone(),
            leader: self.leader.clone(),
            fleet: self.fleet.clone(),
            synced: self.synced,
            store_problem: self.store_problem.clone(),
        }
    }
}

/// Whether a replica may be expected to answer soon: one is assigned to a node that has not
/// failed, or it can be placed as far as is known. Where it cannot be placed after all, whoever
/// waits is told by [`judge`](crate::dispatch::waiting::judge).
fn is_coming(
    nodes: &BTreeMap<NodeName, NodeState>,
    assigned: &BTreeMap<NodeName, ModelRevision>,
    failures: &BTreeMap<NodeName, LoadFailureView>,
    has_files: bool,
) -> bool {
    if !nodes
        .values()
        .any(|node| node.life.phase() != NodePhase::Lost)
    {
        return false;
    }
    if assigned.is_empty() {
        return has_files && failures.is_empty();
    }
    // One on a lost node is placed elsewhere.
    assigned.iter().any(|(name, revision)| {
        let failed = failures.get(name);
        failed.is_none_or(|failed| failed.revision != *revision)
    })
}

/// Takes from a status what is remembered of it.
fn learn(
    failures: &mut FailureMemory,
    found: &mut HashMap<(ModelName, ModelRevision), Bytes>,
    at: &Assignment,
    status: &ModelStatus,
    now: Instant,
) {
    let mut needs = |bytes: u64| {
        if bytes > 0 {
            found.insert(
                (at.model.clone(), ModelRevision(status.revision)),
                Bytes(bytes),
            );
        }
    };
    match status.phase() {
        ModelPhase::Ready => {
            needs(status.memory);
            failures.forget(at);
        }
        ModelPhase::Failed => {
            needs(status.memory_needed);
            let failed = LoadFailureView {
                revision: ModelRevision(status.revision),
                problem: match status.remedy.as_str() {
                    "" => status.problem.clone(),
                    remedy => format!("{} ({remedy})", status.problem),
                },
            };
            failures.note(at.clone(), failed, now);
        }
        _ => {}
    }
}

fn text(value: Vec<u8>) -> Result<String, String> {
    String::from_utf8(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
